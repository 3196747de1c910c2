"""A trained encoder, for use in anyone's code."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jssl import augment
from jssl import build
from jssl import config as configs
from jssl.augment import checks
from jssl.checkpoint import Checkpoints
from jssl.method import Method
from jssl.step import init_state

PyTree = Any


def make_encode(
    method: Method,
    *,
    image_size: int,
    crop_fraction: float = 1.0,
    channels: int | None = None,
) -> Callable[..., Any]:
  """Makes the function from pictures to features.

  Args:
    method: The method that trained the parameters.
    image_size: Height and width of the images that the net sees.
    crop_fraction: Side of the central crop, relative to the shorter side.
    channels: Number that images must have; None lets the net complain.

  Returns:
    `encode(params, images, extent=None, *, stages=False)`, compiled once for
    each shape: `params` is the pair (params, carried) of a train state,
    `images` is `[B, H, W, C]`, uint8 or float in [0, 1], of any size, `extent`
    the true heights and widths `[B, 2]` of pictures on a canvas (see
    `augment.make_views`). Returns the pooled features `[B, D]`, or with
    `stages=True` a dict of them and of every stage. It raises ValueError for
    what is no array, for images of another rank or number of channels and,
    unless it is traced, for floats outside of [0, 1] or NaN.
  """
  prepare = functools.partial(
      augment.evaluation, size=image_size, crop_fraction=crop_fraction
  )

  @functools.partial(jax.jit, static_argnames="stages")
  def encode(params, images, extent=None, *, stages=False):
    images = augment.to_float(images)
    images = jax.vmap(lambda x, e: prepare(x, extent=e))(images, extent)
    features = method.encode(*params, images)
    return features if stages else features["pooled"]

  @functools.wraps(encode)
  def checked(params, images, extent=None, *, stages=False):
    checks.check_array(images)
    if images.ndim != 4:
      raise ValueError(
          f"images have shape {images.shape}; expected [B, H, W, C]. Add a"
          " leading dimension to a single image."
      )
    if channels not in (None, images.shape[-1]):
      first = images.shape[1] == channels
      remedy = "Move them last, by np.moveaxis(images, 1, -1)"
      raise ValueError(
          f"images have {images.shape[-1]} channels; the encoder was trained on"
          f" {channels}. {remedy if first else 'Convert them'}."
      )
    checks.check_values(images)
    return encode(params, images, extent, stages=stages)

  return checked


@jax.jit
def pool_stages(features: dict[str, jax.Array]) -> dict[str, jax.Array]:
  """Averages the map `[B, h, w, C]` of every stage; `[B, D]` stay.

  Args:
    features: What an encoder returns with `stages=True`.

  Returns:
    `{"pooled": [B, D], "stage_1": [B, C], ...}`, float32.
  """
  return {
      name: jnp.mean(x.astype(jnp.float32), axis=tuple(range(1, x.ndim - 1)))
      for name, x in features.items()
  }


def make_raw_pixels(
    *, image_size: int, crop_fraction: float = 1.0
) -> Callable[..., Any]:
  """Makes the baseline of no encoder at all, with images of 32 x 32 at most.

  Args:
    image_size: As in `make_encode`.
    crop_fraction: As in `make_encode`.

  Returns:
    What `make_encode` returns, without its checks: the features are the pixels
    as vectors, and `params` is not used.
  """
  prepare = functools.partial(
      augment.evaluation,
      size=min(image_size, 32),
      crop_fraction=crop_fraction,
  )

  @functools.partial(jax.jit, static_argnames="stages")
  def encode(params, images, extent=None, *, stages=False):
    del params
    pixels = jax.vmap(
        lambda x, e: jnp.ravel(prepare(augment.to_float(x), extent=e))
    )(images, extent)
    return {"pooled": pixels} if stages else pixels

  return encode


def example_batch(config: configs.ConfigDict) -> dict[str, jax.Array]:
  """Returns a batch of one image, black, from which a state is made.

  Args:
    config: The config of a run, with "resolved" facts about the data.
  """
  size, channels = config.image_size, config.resolved.channels
  batch = {"image": jnp.zeros((1, size, size, channels))}
  if config.resolved.classes:
    batch["label"] = jnp.zeros(1, jnp.int32)
  return batch


class State(NamedTuple):
  """The part of a `TrainState` that an encoder needs.

  A run's optimizer may have been another version's.

  Attributes:
    step: Number of steps taken, int32 `[]`.
    params: What is differentiated.
    carried: What else the method keeps.
  """

  step: jax.Array
  params: PyTree
  carried: PyTree


class Trained(NamedTuple):
  """What training left.

  Attributes:
    config: The run's config, with "resolved" facts about its data.
    method: The method, outside any axis.
    state: The newest that was saved.
    encode: See `make_encode`.
    init: Jitted, from a PRNG key to a state before training.
  """

  config: configs.ConfigDict
  method: Method
  state: State
  encode: Callable[..., Any]
  init: Callable[[jax.Array], State]

  @property
  def params(self) -> PyTree:
    """What `encode` takes first."""
    return self.state.params, self.state.carried


def load(path: str) -> Trained:
  """Loads the newest checkpoint of a run.

  Args:
    path: The run's folder.

  Raises:
    FileNotFoundError: If the folder holds no run, or no checkpoint yet.
  """
  config = configs.load(path)
  method = build.method(config)
  batch = example_batch(config)

  @jax.jit
  def init(key):
    state = init_state(method, optax.identity(), key, batch)
    return State(state.step, state.params, state.carried)

  like = jax.eval_shape(init, jax.random.key(0))
  checkpoints = Checkpoints(path, read_only=True)
  state = checkpoints.restore(like, partial=True)
  for line in checkpoints.unreadable:
    warnings.warn(f"{path}: {line}", stacklevel=2)
  checkpoints.close()
  encode = make_encode(
      method,
      image_size=config.image_size,
      crop_fraction=config.eval.crop_fraction,
      channels=config.resolved.channels,
  )
  return Trained(config, method, state, encode, init)


class Backbone(NamedTuple):
  """The net that an encoder applies, taken out of what the method carries.

  Attributes:
    variables: Its "params" and, where it has them, "batch_stats".
    input_shape: (height, width, channels) of what it is given: tiles or gray
      images for some methods.
  """

  variables: PyTree
  input_shape: tuple[int, int, int]


def backbone(trained: Trained) -> Backbone:
  """Finds the net's variables: those that `Method.encode` applies it to.

  A method may encode by its parameters, or by a target that it carries: which
  one is seen as the net is called, not guessed from names.

  Args:
    trained: See `load`.
  """
  seen = {}

  def watch(call, args, kwargs, context):
    if not context.module.path and context.method_name == "__call__":
      seen["variables"] = context.module.variables
      seen["shape"] = args[0].shape[1:]
    return call(*args, **kwargs)

  def applied(params, images):
    with nn.intercept_methods(watch):
      trained.method.encode(*params, images)
    return seen["variables"]

  images = example_batch(trained.config)["image"]
  return Backbone(jax.jit(applied)(trained.params, images), seen["shape"])


def make_trainable(trained: Trained) -> Callable[..., Any]:
  """Makes an encoder that can be trained further, apart from its method.

  Args:
    trained: See `load`.

  Returns:
    `encode(variables, images, *, key=None) -> (pooled, batch_stats)`: the
    variables are those of `backbone`, images `[B, H, W, C]` in [0, 1], of the
    size that the method encodes. With a key it is in training: BatchNorm looks
    at the batch, as one group, and returns its new running statistics, and drop
    path draws by the key.
  """
  config = trained.config.copy_and_resolve_references()
  config.net.groups = 1
  net = build.net(config).clone(name="trainable")
  # The method's own variables are named, and never read.
  unread = jax.eval_shape(lambda: trained.params)

  def encode(variables, images, *, key=None):
    new = {}

    def replace(call, args, kwargs, context):
      inner = context.module.path or context.module.name == net.name
      if inner or context.method_name != "__call__":
        return call(*args, **kwargs)
      features, changed = net.apply(
          variables,
          *args,
          train=key is not None,
          mutable=["batch_stats"],
          rngs=None if key is None else {"dropout": key},
      )
      new.update(changed.get("batch_stats", {}))
      return features

    with nn.intercept_methods(replace):
      features = trained.method.encode(*unread, images)
    return features["pooled"], new

  return encode


def stage_names(trained: Trained) -> list[str]:
  """Returns the names of what an encoder gives with `stages=True`.

  Args:
    trained: See `load`.
  """
  images = example_batch(trained.config)["image"]
  encode = functools.partial(trained.encode, stages=True)
  return list(jax.eval_shape(encode, trained.params, images))


def load_encoder(path: str) -> tuple[Callable[..., Any], PyTree]:
  """Loads the encoder of a run.

  Args:
    path: The run's folder, the `--workdir` of `python -m jssl.train`.

  Returns:
    `(encode, params)`: `encode(params, images)` gives the pooled features
    `[B, D]` of images `[B, H, W, C]`, uint8 or float in [0, 1], of any size;
    `stages=True` gives a dict of them and of every stage. Features do not
    depend on the other images of a batch. It compiles once for every new shape
    of `images`: fill up a last batch that is smaller. Gradients flow through
    it to `params` and to float images. What is no array and, outside of
    `jax.jit`, floats that are not in [0, 1] raise a ValueError.

  Raises:
    FileNotFoundError: If the folder holds no run, or no checkpoint yet.

  Example:
    >>> import numpy as np
    >>> from jssl import load_encoder
    >>> encode, params = load_encoder("runs/first")
    >>> features = encode(params, np.zeros((2, 8, 8, 1), np.uint8))
    >>> len(features), features.ndim
    (2, 2)
  """
  trained = load(path)
  return trained.encode, trained.params
