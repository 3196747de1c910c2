"""The methods of one branch that carry nothing but its statistics."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jssl import embeddings
from jssl import parallel
from jssl.method import Aux
from jssl.method import Method
from jssl.methods import branch as branches

PyTree = Any


class Views(NamedTuple):
  """The views of a batch.

  Attributes:
    images: `[V, B, H, W, C]` in [0, 1].
    label: int `[B]`, of methods that learn from labels.
  """

  images: jax.Array
  label: jax.Array | None = None


class Statistics(NamedTuple):
  """What a method carries that keeps nothing but running statistics.

  Attributes:
    batch_stats: Running statistics of the branch.
  """

  batch_stats: PyTree


def make(
    branch: branches.Branch,
    views: Callable[[jax.Array, dict[str, jax.Array]], Views],
    criterion: Callable[..., tuple[jax.Array, dict[str, jax.Array]]],
    *,
    axis_name: str | None = None,
) -> Method:
  """Makes a method of one branch that keeps nothing but its statistics.

  Args:
    branch: The branch, the same for all views.
    views: See `Method.views`.
    criterion: `(embedding, label) -> (scalar, metrics)`, of the embedding of
      all views, `[V, B, D]`.
    axis_name: Axis that the batch is split over, or None.

  Returns:
    The method; "feature_std" is added to its metrics.
  """

  def init_branch(key, views):
    params, batch_stats = branches.init(key, branch, views.images[0])
    return params, Statistics(batch_stats)

  def loss(params, carried, views, keys, step):
    del step
    carried = jax.lax.stop_gradient(carried)
    embedding, batch_stats = branches.embed(
        branch, params, carried.batch_stats, (views.images,), keys.local
    )
    value, metrics = criterion(embedding, views.label)
    spread = embeddings.feature_std(
        embedding.projection[0], axis_name=axis_name
    )
    fresh = Statistics(parallel.pmean(batch_stats, axis_name))
    return value, Aux(fresh, {"feature_std": spread, **metrics})

  def update(params, carried, fresh, step):
    del carried, step
    return params, fresh

  return Method(views, init_branch, loss, update, branches.encoder(branch.net))
