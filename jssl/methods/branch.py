"""A branch of a siamese net: a backbone and its heads, and running it."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl.methods.crops import Crops
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

  Attributes:
    net: A backbone of `jssl.nets`.
    projector: From pooled features to the projection.
    predictor: From the projection to the prediction, or None.
  """

  net: nn.Module
  projector: nn.Module
  predictor: nn.Module | None = None

  def __call__(self, images: jax.Array, *, train: bool = False) -> Embedding:
    """Embeds images `[B, H, W, C]` in [0, 1]."""
    pooled = self.net(images, train=train)["pooled"]
    projection = self.projector(pooled, train=train)
    if self.predictor is None:
      return Embedding(projection, None)
    return Embedding(projection, self.predictor(projection, train=train))


def head(
    net: nn.Module,
    features: tuple[int | None, ...],
    *,
    last_norm: bool = False,
    last_affine: bool = True,
    last_bias: bool = True,
    axis_name: str | None = None,
) -> MLP:
  """Makes a projector or predictor: linear layers, BatchNorm, ReLU.

  Args:
    net: The backbone, whose type of computation the head shares.
    features: Width of each layer, None for that of the input.
    last_norm: Whether a BatchNorm follows the last layer too.
    last_affine: Whether that one has a scale and a shift.
    last_bias: Whether the last layer has a bias, without such a BatchNorm.
    axis_name: Axis that statistics are synchronised over, or None.

  Returns:
    The head.
  """
  norm = functools.partial(BatchNorm, axis_name=axis_name)
  return MLP(
      features,
      norm=norm,
      last_norm=functools.partial(norm, affine=last_affine)
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
    branch: Branch,
    params: PyTree,
    batch_stats: PyTree,
    images: jax.Array,
    key: jax.Array | None,
) -> tuple[Embedding, PyTree]:
  """Embeds a batch in training.

  Args:
    branch: The branch.
    params: Its parameters.
    batch_stats: Its running statistics.
    images: `[B, H, W, C]`.
    key: A PRNG key for drop path; None for a target, which drops nothing.

  Returns:
    The embedding, and the new running statistics.
  """
  embedding, new = branch.apply(
      {"params": params, "batch_stats": batch_stats},
      images,
      train=True,
      mutable=["batch_stats"],
      rngs=None if key is None else {"dropout": key},
  )
  return embedding, new.get("batch_stats", {})


def embed(
    branch: Branch,
    params: PyTree,
    batch_stats: PyTree,
    views: jax.Array,
    key: jax.Array | None,
) -> tuple[Embedding, PyTree]:
  """Embeds several views, each normalised by statistics of its own.

  Args:
    branch: The branch.
    params: Its parameters.
    batch_stats: Its running statistics.
    views: `[V, B, H, W, C]`.
    key: See `forward`.

  Returns:
    The embedding, `[V, B, D]`, and the new running statistics, the mean of
    what each view makes of them; average them over the devices.
  """
  run = functools.partial(forward, branch, params, batch_stats)
  keys = None if key is None else jax.random.split(key, len(views))
  if jax.default_backend() == "cpu":  # Faster by half on batches in its cache.
    each = [
        run(view, None if keys is None else keys[i])
        for i, view in enumerate(views)
    ]
    embedding, new = jax.tree.map(lambda *x: jnp.stack(x), *each)
  else:  # One program, and convolutions of V * B images.
    embedding, new = jax.vmap(run)(views, keys)
  return embedding, jax.tree.map(lambda x: jnp.mean(x, axis=0), new)


def encoder(net: nn.Module) -> Callable[..., dict[str, jax.Array]]:
  """Makes the `Method.encode` of a branch that is carried as `batch_stats`."""

  def encode(params, carried, images):
    variables = {
        "params": params["net"],
        "batch_stats": carried.batch_stats.get("net", {}),
    }
    return net.apply(variables, images, train=False)

  return encode


def embed_crops(
    branch: Branch,
    params: PyTree,
    batch_stats: PyTree,
    views: Crops,
    key: jax.Array,
) -> tuple[list[jax.Array], PyTree]:
  """Embeds large, then small views; see `embed`.

  Returns:
    Projections of the large views `[2, B, D]` and of the small ones `[n, B, D]`
    (n may be 0), and the new running statistics.
  """
  params = {name: params[name] for name in ("net", "projector")}
  embedding, batch_stats = embed(branch, params, batch_stats, views.large, key)
  large = embedding.projection
  if views.small is None:
    return [large, large[:0]], batch_stats
  small, batch_stats = embed(
      branch, params, batch_stats, views.small, jax.random.fold_in(key, 2)
  )
  return [large, small.projection], batch_stats


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
