"""Target networks: an EMA of the online network, as in BYOL."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jssl import ema, parallel
from jssl.method import Aux, Method
from jssl.methods import _branch

PyTree = Any


class Target(NamedTuple):
  """The state that a method with a target network carries.

  Attributes:
    batch_stats: Running statistics of the online network.
    target_params: Parameters of the target: an EMA of `params` without the
      predictor, in buffers of its own.
    target_batch_stats: Running statistics of the target.
  """

  batch_stats: PyTree
  target_params: PyTree
  target_batch_stats: PyTree


def make(
    online: _branch.Branch,
    views: Callable[[jax.Array, dict[str, jax.Array]], jax.Array],
    criterion: Callable[
        [_branch.Embedding, jax.Array], tuple[jax.Array, dict[str, jax.Array]]
    ],
    momentum: Callable[[jax.Array], jax.Array],
    *,
    frozen_steps: Callable[[PyTree], PyTree] | None = None,
    axis_name: str | None = None,
) -> Method:
  """Makes a method whose online branch predicts projections of its target.

  Args:
    online: The online branch, with a predictor; the target has none.
    views: See `Method.views`; they are `[V, B, H, W, C]`.
    criterion: `(embedding, targets) -> (loss, metrics)`: the online embedding
      and the target's projections `[V, B, D]` of all views.
    momentum: EMA decay of the target at each step.
    frozen_steps: See `Method.frozen_steps`.
    axis_name: Axis that the batch is split over, or None.

  Returns:
    The method; it encodes by the online network.
  """
  target = _branch.Branch(online.net, online.projector, joint=online.joint)

  def init_online(key, views):
    return init(*_branch.init(key, online, views))

  def loss(params, carried, views, keys, step):
    del step
    carried = jax.lax.stop_gradient(carried)
    embedding, batch_stats = _branch.forward(
        online, params, carried.batch_stats, views, keys.local
    )
    targets, target_batch_stats = embed(target, carried, views)
    value, metrics = criterion(embedding, targets)
    fresh = parallel.pmean((batch_stats, target_batch_stats), axis_name)
    return value, Aux(fresh, metrics)

  def update_target(params, carried, fresh, step):
    return params, update(carried, params, fresh, momentum(step))

  return Method(
      views,
      init_online,
      loss,
      update_target,
      _branch.encoder(online.net),
      frozen_steps=frozen_steps,
  )


def init(params: PyTree, batch_stats: PyTree) -> tuple[PyTree, Target]:
  """Returns `params` and a target that equals the online network."""
  copy = _branch.copy(
      (_without_predictor(params), _without_predictor(batch_stats))
  )
  return params, Target(batch_stats, *copy)


def embed(
    branch: _branch.Branch, carried: Any, views: jax.Array
) -> tuple[jax.Array, PyTree]:
  """Projects views by the target, without dropout.

  Args:
    branch: The target's branch, without predictor.
    carried: With `target_params` and `target_batch_stats`.
    views: `[V, B, H, W, C]`.

  Returns:
    Projections `[V, B, D]`, and the target's new running statistics.
  """
  embedding, batch_stats = _branch.forward(
      branch, carried.target_params, carried.target_batch_stats, views, None
  )
  return embedding.projection, batch_stats


def encoder(net: nn.Module) -> Callable[..., dict[str, jax.Array]]:
  """Makes the `Method.encode` of a method that encodes by its target."""
  encode = _branch.encoder(net)

  def encode_by_target(params, carried, images):
    del params
    carried = carried._replace(batch_stats=carried.target_batch_stats)
    return encode(carried.target_params, carried, images)

  return encode_by_target


def update(
    carried: Target,
    params: PyTree,
    batch_stats: tuple[PyTree, PyTree],
    momentum: jax.Array | float,
) -> Target:
  """Moves the target towards the online network.

  Args:
    carried: The target before.
    params: The online parameters, with those of the predictor.
    batch_stats: New running statistics of the online network and the target.
    momentum: EMA decay of the target, in [0, 1].

  Returns:
    The new target.
  """
  target_params = ema.update(
      carried.target_params, _without_predictor(params), momentum
  )
  return Target(batch_stats[0], target_params, batch_stats[1])


def _without_predictor(tree: PyTree) -> PyTree:
  """Leaves out the predictor's entry in a branch's tree."""
  return {key: tree[key] for key in tree if key != "predictor"}
