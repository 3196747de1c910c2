"""A branch: a backbone and its heads, how it starts and how it runs."""

from collections.abc import Callable
import functools
import inspect
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl.nets import BatchNorm, MLP

PyTree = Any


class Embedding(NamedTuple):
  """The output of a branch.

  Attributes:
    projection: Output of the projector, `[V, B, D]`.
    prediction: Output of the predictor, `[V, B, D]`; None without a predictor.
  """

  projection: jax.Array
  prediction: jax.Array | None


class Branch(nn.Module):
  """A backbone, a projector of its pooled features and optionally a predictor.

  All views pass through as one batch. BatchNorm takes its statistics from each
  view, as if the net were called once per view, or from all views jointly, as
  if they were concatenated first.

  Attributes:
    net: A backbone of `jssl.nets`.
    projector: Maps pooled features to the projection.
    predictor: Maps the projection to the prediction, or None.
    joint: Whether BatchNorm takes its statistics from all views together: in
      the backbone from all views of one size, in the heads from all views.
  """

  net: nn.Module
  projector: nn.Module
  predictor: nn.Module | None = None
  joint: bool = False

  def __call__(
      self, views: jax.Array | tuple[jax.Array, ...], *, train: bool = False
  ) -> Embedding:
    """Embeds all views of a batch.

    Args:
      views: Images `[V, B, H, W, C]` in [0, 1], or one such array for each size
        of views; V is then their total number.
      train: Whether BatchNorm uses the statistics of the batch.

    Returns:
      The embedding, `[V, B, D]`.
    """
    sizes = views if isinstance(views, tuple) else (views,)
    run = functools.partial(_run, joint=self.joint, train=train)
    pooled = [run(self.net, x, output="pooled") for x in sizes]
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
    module: `(x, *, train)`, or `(x, *, train, views)` if it can normalise views
      separately; a module that cannot runs once per view unless `joint`.
    views: Its inputs.
    joint: See `Branch`.
    train: See `Branch`.
    output: The entry of its outputs to return, if they are a dict.
  """
  count, size = views.shape[:2]
  call = functools.partial(module, train=train)
  take = lambda outputs: outputs[output] if output else outputs
  if joint:
    # Views of one image are neighbours, so they share a BatchNorm group.
    rows = views.swapaxes(0, 1).reshape(-1, *views.shape[2:])  # [B * V, ...]
    return take(call(rows)).reshape(size, count, -1).swapaxes(0, 1)
  if count == 1 or "views" not in inspect.signature(module.__call__).parameters:
    return jnp.stack([take(call(view)) for view in views])
  rows = views.reshape(-1, *views.shape[2:])  # [V * B, ...]
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
    net: The backbone, whose computation type the head shares.
    features: Width of each layer, None for that of the input.
    last_norm: Whether a BatchNorm follows the last layer too.
    last_scale: Whether that BatchNorm has a trained scale.
    last_shift: Whether it has a trained shift.
    last_bias: Whether a last layer without BatchNorm has a bias.
    axis_name: Axis that statistics are synchronised over, or None.

  Returns:
    The head.
  """
  norm = functools.partial(BatchNorm, axis_name=axis_name)
  after_last = functools.partial(
      norm, use_scale=last_scale, use_bias=last_shift
  )
  return MLP(
      features,
      norm=norm,
      last_norm=after_last if last_norm else None,
      last_bias=last_bias,
      dtype=dtype_of(net),
  )


def dtype_of(net: nn.Module) -> Any:
  """Returns the computation type of a backbone, for its heads."""
  return getattr(net, "dtype", jnp.float32)


def init(
    key: jax.Array, module: nn.Module, inputs: PyTree
) -> tuple[PyTree, PyTree]:
  """Returns the initial parameters and running statistics of a module."""
  variables = module.init(key, inputs)
  return variables["params"], variables.get("batch_stats", {})


def forward(
    module: nn.Module,
    params: PyTree,
    batch_stats: PyTree,
    inputs: PyTree,
    key: jax.Array | None,
) -> tuple[PyTree, PyTree]:
  """Runs a module in training mode.

  Args:
    module: The module, such as a `Branch`.
    params: Its parameters.
    batch_stats: Its running statistics.
    inputs: Its inputs, such as views `[V, B, H, W, C]`.
    key: A PRNG key for dropout and drop path; None for a target network, which
      drops nothing.

  Returns:
    Its outputs, and the new running statistics, which the caller averages over
    the devices.
  """
  outputs, new = module.apply(
      {"params": params, "batch_stats": batch_stats},
      inputs,
      train=True,
      mutable=["batch_stats"],
      rngs=None if key is None else {"dropout": key},
  )
  return outputs, new.get("batch_stats", {})


def encoder(net: nn.Module) -> Callable[..., dict[str, jax.Array]]:
  """Makes the `Method.encode` of a backbone trained as `params["net"]`.

  Args:
    net: A backbone of `jssl.nets`.

  Returns:
    `(params, carried, images) -> features`; the running statistics are
    `carried.batch_stats["net"]`.
  """

  def encode(params, carried, images):
    variables = {
        "params": params["net"],
        "batch_stats": carried.batch_stats.get("net", {}),
    }
    return net.apply(variables, images, train=False)

  return encode


def freeze(names: tuple[str, ...], steps: float) -> Callable[[PyTree], PyTree]:
  """Makes the `Method.frozen_steps` that freezes some of the parameters.

  Args:
    names: Paths in the tree of parameters, such as "prototypes" or "net/patch";
      paths that do not exist are ignored.
    steps: For how many steps; `math.inf` forever.

  Returns:
    `(params) -> tree` of `steps` for the named entries and 0 for all others.
  """
  prefixes = tuple(f"{name}/" for name in names)

  def steps_of(path, _):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return steps if f"{name}/".startswith(prefixes) else 0

  return lambda params: jax.tree_util.tree_map_with_path(steps_of, params)


def copy(tree: PyTree) -> PyTree:
  """Copies a tree to new buffers, as donated trees must not share any."""
  return jax.tree.map(jnp.copy, tree)
