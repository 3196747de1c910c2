"""A branch of a siamese net: a backbone and its heads, and running it."""

from collections.abc import Callable, Sequence
import functools
import inspect
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl.nets import BatchNorm
from jssl.nets import MLP

PyTree = Any


class Embedding(NamedTuple):
  """What a branch makes of images.

  Attributes:
    projection: Output of the projector, `[..., B, D]`.
    prediction: Output of the predictor, `[..., B, D]`, None without one.
  """

  projection: jax.Array
  prediction: jax.Array | None


class Branch(nn.Module):
  """A backbone, a projector on its pooled features, perhaps a predictor.

  Several views pass through as one batch. Their BatchNorm statistics are those
  of each view, as when a method's code calls its net once per view, or joint,
  as when it concatenates the views first.

  Attributes:
    net: A backbone of `jssl.nets`.
    projector: From pooled features to the projection.
    predictor: From the projection to the prediction, or None.
    joint: Whether BatchNorm takes its statistics from all views together: in
      the backbone from those of one size, in the heads from all.
  """

  net: nn.Module
  projector: nn.Module
  predictor: nn.Module | None = None
  joint: bool = False

  def __call__(self, images: jax.Array, *, train: bool = False) -> Embedding:
    """Embeds images `[B, H, W, C]` in [0, 1]."""
    embedding = self.embed((images[None],), train=train)
    return jax.tree.map(lambda x: x[0], embedding)

  def embed(
      self, views: Sequence[jax.Array], *, train: bool = False
  ) -> Embedding:
    """Embeds all views of a batch, `[V, B, D]`.

    Args:
      views: Images `[v, B, H, W, C]` in [0, 1], one array per size of views; V
        is the sum of their v.
      train: Whether normalisations use the batch; see `BatchNorm`.
    """
    run = functools.partial(_run, joint=self.joint, train=train)
    pooled = [run(self.net, x, output="pooled") for x in views]
    projection = run(self.projector, jnp.concatenate(pooled))
    if self.predictor is None:
      return Embedding(projection, None)
    return Embedding(projection, run(self.predictor, projection))


def _run(
    module: nn.Module,
    views: jax.Array,
    *,
    joint: bool,
    train: bool,
    output: str | None = None,
) -> jax.Array:
  """Runs a module on views `[V, B, ...]`; returns `[V, B, D]`.

  Args:
    module: `(x, *, train)`, or `(x, *, train, views)` if its normalisation can
      separate views; one that cannot runs once per view unless `joint`.
    views: Its inputs.
    joint: See `Branch`.
    train: See `Branch.embed`.
    output: Which entry of its outputs to return, if they are a dict.
  """
  count, size = views.shape[:2]
  call = functools.partial(module, train=train)
  take = lambda outputs: outputs[output] if output else outputs
  if (
      joint
  ):  # Views of an image are neighbours, so BatchNorm's groups keep them.
    rows = views.swapaxes(0, 1).reshape(-1, *views.shape[2:])
    return take(call(rows)).reshape(size, count, -1).swapaxes(0, 1)
  if count == 1 or "views" not in inspect.signature(module.__call__).parameters:
    return jnp.stack([take(call(view)) for view in views])
  rows = views.reshape(-1, *views.shape[2:])
  return take(call(rows, views=count)).reshape(count, size, -1)


def head(
    net: nn.Module,
    features: tuple[int | None, ...],
    *,
    last_norm: bool = False,
    last_scale: bool = True,
    last_shift: bool = True,
    last_bias: bool = True,
    axis_name: str | None = None,
) -> MLP:
  """Makes a projector or predictor: linear layers, BatchNorm, ReLU.

  Args:
    net: The backbone, whose type of computation the head shares.
    features: Width of each layer, None for that of the input.
    last_norm: Whether a BatchNorm follows the last layer too.
    last_scale: Whether that one has a trained scale.
    last_shift: Whether it has a trained shift.
    last_bias: Whether the last layer has a bias, without such a BatchNorm.
    axis_name: Axis that statistics are synchronised over, or None.

  Returns:
    The head.
  """
  norm = functools.partial(BatchNorm, axis_name=axis_name)
  return MLP(
      features,
      norm=norm,
      last_norm=functools.partial(
          norm, use_scale=last_scale, use_bias=last_shift
      )
      if last_norm
      else None,
      last_bias=last_bias,
      dtype=dtype_of(net),
  )


def dtype_of(net: nn.Module) -> Any:
  """Returns the type that a backbone computes in, for its heads."""
  return getattr(net, "dtype", jnp.float32)


def init(
    key: jax.Array, branch: Branch, images: jax.Array
) -> tuple[PyTree, PyTree]:
  """Returns the parameters and the running statistics of a branch."""
  variables = branch.init(key, images)
  return variables["params"], variables.get("batch_stats", {})


def forward(
    module: nn.Module,
    params: PyTree,
    batch_stats: PyTree,
    inputs: PyTree,
    key: jax.Array | None,
    *,
    method: str = "__call__",
) -> tuple[PyTree, PyTree]:
  """Runs a module in training.

  Args:
    module: The module, such as a branch.
    params: Its parameters.
    batch_stats: Its running statistics.
    inputs: What it takes, such as images `[B, H, W, C]`.
    key: A PRNG key for drop path; None for a target, which drops nothing.
    method: Which of its methods to run.

  Returns:
    What it returns, and the new running statistics; average these over the
    devices.
  """
  outputs, new = module.apply(
      {"params": params, "batch_stats": batch_stats},
      inputs,
      train=True,
      mutable=["batch_stats"],
      rngs=None if key is None else {"dropout": key},
      method=method,
  )
  return outputs, new.get("batch_stats", {})


def embed(
    branch: Branch,
    params: PyTree,
    batch_stats: PyTree,
    views: Sequence[jax.Array],
    key: jax.Array | None,
) -> tuple[Embedding, PyTree]:
  """Embeds all views of a batch in training; see `Branch.embed`.

  Returns:
    The embedding, `[V, B, D]`, and the new running statistics; average these
    over the devices.
  """
  return forward(branch, params, batch_stats, views, key, method="embed")


def encoder(net: nn.Module) -> Callable[..., dict[str, jax.Array]]:
  """Makes the `Method.encode` of a branch that is carried as `batch_stats`."""

  def encode(params, carried, images):
    variables = {
        "params": params["net"],
        "batch_stats": carried.batch_stats.get("net", {}),
    }
    return net.apply(variables, images, train=False)

  return encode


def freeze(params: PyTree, names: tuple[str, ...], steps: float) -> PyTree:
  """Makes the `Method.frozen_steps` that freezes some of the parameters.

  Args:
    params: The parameters.
    names: Entries at the top of the tree or further in, "net/patch"; those that
      do not exist are passed over.
    steps: For how many steps; `math.inf` for ever.

  Returns:
    A tree like `params`, of `steps` for the named entries and 0 for all others.
  """

  def steps_of(path, _):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return steps if f"{name}/".startswith(prefixes) else 0

  prefixes = tuple(f"{name}/" for name in names)

  return jax.tree_util.tree_map_with_path(steps_of, params)


def own_copy(tree: PyTree) -> PyTree:
  """Copies a tree that starts equal to another: both will be donated."""
  return jax.tree.map(jnp.copy, tree)
