"""A trained encoder, to use anywhere."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jssl import augment, parallel
from jssl.augment import checks
from jssl.checkpoint import Checkpoints
from jssl.config import build, ConfigDict, load_config
from jssl.method import Method
from jssl.step import init_state

PyTree = Any
RAW_PIXELS_SIZE = 32  # Largest side of images as raw pixels.


def make_encode(
    method: Method,
    *,
    image_size: int,
    crop_fraction: float = 1.0,
    channels: int | None = None,
) -> Callable[..., Any]:
  """Makes the function from images to features.

  Args:
    method: The method that trained the parameters.
    image_size: Height and width of the images that the net sees.
    crop_fraction: Side of the central crop, relative to the shorter side.
    channels: Number of channels that images must have; None for no check here.

  Returns:
    `encode(params, images, extent=None, *, stages=False)`, compiled once per
    shape: `params` is the pair (params, carried) of a train state, `images` is
    `[B, H, W, C]`, uint8 or float in [0, 1], of any size, `extent` the true
    heights and widths `[B, 2]` of images on a canvas (see
    `augment.make_views`). It returns the pooled features `[B, D]`, or with
    `stages=True` a dict of these and of the features of every stage. It raises
    ValueError if the images are not an array, have another rank or number of
    channels or, unless they are traced, are floats outside of [0, 1] or NaN.
  """

  @functools.partial(jax.jit, static_argnames="stages")
  def encode(params, images, extent=None, *, stages=False):
    images = prepare(images, extent, image_size, crop_fraction)
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


def prepare(
    images: jax.Array, extent: jax.Array | None, size: int, crop_fraction: float
) -> jax.Array:
  """Crops and resizes images for the net.

  Args:
    images: `[B, H, W, C]`, uint8 or float in [0, 1].
    extent: As for the function that `make_encode` returns.
    size: Height and width of the result.
    crop_fraction: As for `make_encode`.

  Returns:
    float32 `[B, size, size, C]` in [0, 1].
  """
  fit = functools.partial(
      augment.evaluation, size=size, crop_fraction=crop_fraction
  )
  images = augment.to_float(images)
  return jax.vmap(lambda x, e: fit(x, extent=e))(images, extent)


@jax.jit
def pool_stages(features: dict[str, jax.Array]) -> dict[str, jax.Array]:
  """Averages the map `[B, h, w, C]` of every stage; `[B, D]` stays as it is.

  Args:
    features: The result of `encode` with `stages=True`.

  Returns:
    `{"pooled": [B, D], "stage_1": [B, C], ...}`, float32.
  """
  return {
      name: jnp.mean(x.astype(jnp.float32), axis=tuple(range(1, x.ndim - 1)))
      for name, x in features.items()
  }


def example_batch(config: ConfigDict) -> dict[str, jax.Array]:
  """Returns a batch of one black image, to initialize a state with.

  Args:
    config: The config of a run, with "resolved" facts about its data.
  """
  size, channels = config.image_size, config.resolved.channels
  batch = {"image": jnp.zeros((1, size, size, channels))}
  if config.resolved.classes:
    batch["label"] = jnp.zeros(1, jnp.int32)
  return batch


@dataclasses.dataclass(frozen=True)
class Encoder:
  """An encoder, for everything that follows training.

  Attributes:
    config: The run's config, with "resolved" facts about its data.
    method: The method, made without an axis.
    step: Number of steps taken; 0 before training.
    params: The first argument of `encode`: (params, carried) of the train
      state; empty for raw pixels.
    encode: See `make_encode`.
  """

  config: ConfigDict
  method: Method
  step: int
  params: PyTree
  encode: Callable[..., Any]


def load(path: str) -> Encoder:
  """Loads the encoder of a run's newest checkpoint.

  Args:
    path: The run's folder.

  Raises:
    FileNotFoundError: If the folder holds no run, or no checkpoint yet.
  """
  config = load_config(path)
  method = build.method(config)
  like = jax.eval_shape(_initializer(config, method), jax.random.key(0))
  checkpoints = Checkpoints(path, read_only=True)
  state = checkpoints.restore(like, partial=True)
  for line in checkpoints.unreadable:
    warnings.warn(f"{path}: {line}", stacklevel=2)
  checkpoints.close()
  return make(config, method, int(state.step), (state.params, state.carried))


def make(
    config: ConfigDict, method: Method, step: int, params: PyTree
) -> Encoder:
  """Makes an encoder that prepares images as the config says.

  Args:
    config: The config of a run, with "resolved" facts about its data.
    method: The method, made without an axis.
    step: Number of steps taken.
    params: (params, carried) of the train state.
  """
  encode = make_encode(
      method,
      image_size=config.image_size,
      crop_fraction=config.eval.crop_fraction,
      channels=config.resolved.channels,
  )
  return Encoder(config, method, step, params, encode)


def untrained(encoder: Encoder) -> Encoder:
  """Returns the same encoder before training, by the config's seed."""
  init = jax.jit(_initializer(encoder.config, encoder.method))
  state = parallel.replicate(init(jax.random.key(encoder.config.seed)))
  params = state.params, state.carried
  return dataclasses.replace(encoder, step=0, params=params)


def raw_pixels(encoder: Encoder) -> Encoder:
  """Returns the baseline without a net: pixels, prepared as for the encoder.

  Images are 32 x 32 at most.
  """
  method = encoder.method._replace(
      encode=lambda images: {"pooled": images.reshape(len(images), -1)}
  )
  encode = make_encode(
      method,
      image_size=min(encoder.config.image_size, RAW_PIXELS_SIZE),
      crop_fraction=encoder.config.eval.crop_fraction,
  )
  return dataclasses.replace(
      encoder, method=method, step=0, params=(), encode=encode
  )


class State(NamedTuple):
  """The part of a `TrainState` that an encoder needs.

  It has no optimizer state, so the optimizer may be that of another version.

  Attributes:
    step: Number of steps taken, int32 `[]`.
    params: The tree that is differentiated.
    carried: What else the method carries from step to step.
  """

  step: jax.Array
  params: PyTree
  carried: PyTree


def _initializer(config, method):
  """Makes the function from a PRNG key to the state before training."""
  batch = example_batch(config)

  def init(key):
    state = init_state(method, optax.identity(), key, batch)
    return State(state.step, state.params, state.carried)

  return init


@dataclasses.dataclass(frozen=True)
class Backbone:
  """The net of an encoder, without the other parts of its method.

  Attributes:
    variables: Its "params" and, if it has them, "batch_stats".
    input_shape: (height, width, channels) of its input: tiles or gray images
      for some methods.
  """

  variables: PyTree
  input_shape: tuple[int, int, int]


def backbone(encoder: Encoder) -> Backbone:
  """Finds the variables with which `Method.encode` applies the net.

  A method may encode by its parameters, or by a target that it carries. Which
  of them is observed when the net is called, not guessed from names.

  Args:
    encoder: An encoder with a net.
  """
  seen = {}

  def watch(call, args, kwargs, context):
    if not context.module.path and context.method_name == "__call__":
      seen["variables"] = context.module.variables
      seen["shape"] = args[0].shape[1:]
    return call(*args, **kwargs)

  def applied(params, images):
    with nn.intercept_methods(watch):
      encoder.method.encode(*params, images)
    return seen["variables"]

  images = example_batch(encoder.config)["image"]
  return Backbone(jax.jit(applied)(encoder.params, images), seen["shape"])


def make_trainable(encoder: Encoder) -> Callable[..., Any]:
  """Makes an encoder that can be trained further, without its method's loss.

  Args:
    encoder: An encoder with a net.

  Returns:
    `encode(variables, images, *, key=None) -> (pooled, batch_stats)`: the
    variables are those of `backbone`, images `[B, H, W, C]` in [0, 1], of the
    size that the method encodes. With a key it is in training mode: BatchNorm
    uses the statistics of the batch, as one group, and returns its new running
    statistics, and drop path draws from the key.
  """
  config = encoder.config.copy_and_resolve_references()
  config.net.groups = 1
  net = build.net(config).clone(name="trainable")
  # The method looks its own variables up by name, but never reads them.
  unread = jax.eval_shape(lambda: encoder.params)

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
      features = encoder.method.encode(*unread, images)
    return features["pooled"], new

  return encode


def stage_names(encoder: Encoder) -> list[str]:
  """Returns the keys of the features that `encode` gives with `stages=True`."""
  images = example_batch(encoder.config)["image"]
  encode = functools.partial(encoder.encode, stages=True)
  return list(jax.eval_shape(encode, encoder.params, images))


def load_encoder(path: str) -> tuple[Callable[..., Any], PyTree]:
  """Loads the encoder of a run.

  Args:
    path: The run's folder, the `--workdir` of `python -m jssl.train`.

  Returns:
    `(encode, params)`: `encode(params, images)` gives the pooled features
    `[B, D]` of images `[B, H, W, C]`, uint8 or float in [0, 1], of any size;
    with `stages=True` it gives a dict of these and of the features of every
    stage. Features do not depend on the other images of the batch. It compiles
    once for every new shape of `images`, so fill up a smaller last batch.
    Gradients flow through it to `params` and to float images. Images that are
    not an array and, outside of `jax.jit`, floats outside of [0, 1] raise a
    ValueError.

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
  encoder = load(path)
  return encoder.encode, encoder.params
