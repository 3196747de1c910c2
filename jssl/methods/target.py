"""A target network: an average of the online one, as in BYOL."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jssl import ema
from jssl.methods import branch as branches

PyTree = Any


class Target(NamedTuple):
  """What a method carries whose target is an average of the online net.

  Attributes:
    batch_stats: Running statistics of the online branch.
    target_params: The target's parameters: an EMA of `params`, a tree of its
      own, without predictor.
    target_batch_stats: Running statistics of the target.
  """

  batch_stats: PyTree
  target_params: PyTree
  target_batch_stats: PyTree


def start(params: PyTree, batch_stats: PyTree) -> Target:
  """Returns what is carried at first: the target equals the online net."""
  return Target(
      batch_stats,
      branches.own_copy(_without_predictor(params)),
      branches.own_copy(_without_predictor(batch_stats)),
  )


def embed(
    branch: branches.Branch, carried: Any, views: jax.Array
) -> tuple[jax.Array, PyTree]:
  """Projects views `[V, B, H, W, C]` by the target, which drops nothing.

  Args:
    branch: The target's branch, without predictor.
    carried: With `target_params` and `target_batch_stats`.
    views: `[V, B, H, W, C]`.

  Returns:
    Projections `[V, B, D]`, and the target's new running statistics.
  """
  embedding, batch_stats = branches.embed(
      branch, carried.target_params, carried.target_batch_stats, (views,), None
  )
  return embedding.projection, batch_stats


def encoder(net: nn.Module) -> Callable[..., dict[str, jax.Array]]:
  """Makes the `Method.encode` of a method that encodes by its target."""
  encode = branches.encoder(net)

  def encode_by_target(params, carried, images):
    del params
    carried = carried._replace(batch_stats=carried.target_batch_stats)
    return encode(carried.target_params, carried, images)

  return encode_by_target


def follow(
    carried: Target,
    params: PyTree,
    batch_stats: tuple[PyTree, PyTree],
    momentum: jax.Array | float,
) -> Target:
  """Moves the target towards the online net, and takes new statistics.

  Args:
    carried: What was carried.
    params: The online net's parameters, the predictor's included.
    batch_stats: New running statistics of the online net and of the target.
    momentum: Share of the target that is kept.
  """
  target_params = ema.update(
      carried.target_params, _without_predictor(params), momentum
  )
  return Target(batch_stats[0], target_params, batch_stats[1])


def _without_predictor(tree: PyTree) -> PyTree:
  """Leaves the predictor's entry out of a branch's tree."""
  return {key: tree[key] for key in tree if key != "predictor"}
