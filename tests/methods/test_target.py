"""The target network of BYOL and MoCo v3."""

import functools

import jax
import numpy as np
import pytest

from jssl import optim
from jssl.method import Keys
from jssl.step import init_state, make_step
import siamese_case
import tiny

# When a momentum schedule is read, as against the number of the step. MoCo v3's
# average comes before the forward pass, so at the end of a step it is the next
# one's.
AHEAD = {"byol": 0, "moco_v3": 1}

each_method = pytest.mark.parametrize("name", AHEAD)
OPTIMIZER = optim.sgd(0.5)


def _momentum(step):
  return 0.4 + 0.1 * step


@functools.cache
def _method(name, net=siamese_case.Pixels(), momentum=_momentum):
  return siamese_case.make(
      name, net, dim=6, hidden_dim=16, momentum=momentum, second_augment=None
  )


@functools.cache
def _initial(name):
  return init_state(
      _method(name), OPTIMIZER, jax.random.key(0), siamese_case.batch()
  )


def _without_predictor(tree):
  return {key: value for key, value in tree.items() if key != "predictor"}


@each_method
def test_it_starts_equal_to_the_online_net_without_predictor(name):
  state = _initial(name)
  params, carried = state.params, state.carried
  assert set(params) == {"net", "projector", "predictor"}
  for target, online in (
      (carried.target_params, params),
      (carried.target_batch_stats, carried.batch_stats),
  ):
    tiny.assert_trees_close(target, _without_predictor(online), 0)


@each_method
def test_it_shares_no_buffer_with_the_online_net(name):
  # One buffer could not be donated twice.
  leaves = jax.tree.leaves((_initial(name).params, _initial(name).carried))
  assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)


@each_method
def test_it_follows_the_online_net_after_the_optimizer(name):
  state = _initial(name)
  step = jax.jit(make_step(_method(name), OPTIMIZER))
  target = state.carried.target_params
  for i in range(3):
    before = state.params
    state, _ = step(state, siamese_case.batch(seed=i))
    kept = _momentum(i + AHEAD[name])
    target = jax.tree.map(
        lambda x, y: kept * x + (1 - kept) * y,
        target,
        _without_predictor(state.params),
    )
    tiny.assert_trees_close(state.carried.target_params, target, 1e-5)
    moved = jax.tree.map(
        lambda x, y: np.max(np.abs(x - y)), before, state.params
    )
    assert max(jax.tree.leaves(moved)) > 1e-3  # Or there was nothing to see.


@each_method
def test_its_statistics_are_its_own(name):
  method, views = _method(name), siamese_case.views()
  params, carried = siamese_case.start(method, views)
  _, aux = jax.jit(method.loss)(params, carried, views, siamese_case.KEYS, 0)
  _, new = jax.jit(method.update)(params, carried, aux.fresh, 0)

  def first_norm(params, old):
    """The running mean of the projector's first norm, by hand."""
    kernel = params["projector"]["layer_1"]["kernel"]
    pixels = views.reshape(-1, kernel.shape[0]) - 0.5
    outputs = (pixels * params["net"]["weight"]) @ kernel
    old = old["projector"]["norm_1"]["mean"]
    return 0.9 * old + 0.1 * np.mean(outputs, axis=0)

  online = first_norm(params, carried.batch_stats)
  target = first_norm(carried.target_params, carried.target_batch_stats)
  assert np.max(np.abs(online - target)) > 0.1
  for stats, expected in (
      (new.batch_stats, online),
      (new.target_batch_stats, target),
  ):
    mean = stats["projector"]["norm_1"]["mean"]
    np.testing.assert_allclose(mean, expected, atol=siamese_case.TOLERANCE)
  assert "predictor" in new.batch_stats


@each_method
def test_it_drops_nothing(name):
  method = _method(name, siamese_case.Dropping(0.5))
  params, carried = siamese_case.start(method, siamese_case.views())
  loss = jax.jit(method.loss)
  (one, first), (other, second) = [
      loss(params, carried, siamese_case.views(), Keys(key, key), 0)
      for key in jax.random.split(jax.random.key(0))
  ]
  assert abs(one - other) > 1e-3  # The online net does.
  (online, target), (other_online, other_target) = first.fresh, second.fresh
  tiny.assert_trees_close(target, other_target, 0)
  with pytest.raises(AssertionError):
    tiny.assert_trees_close(online, other_online, siamese_case.TOLERANCE)


@each_method
def test_features_are_the_online_nets_by_running_statistics(name):
  net = tiny.Net()
  method, images = _method(name, net), siamese_case.views()[0]
  params, carried = siamese_case.start(method, siamese_case.views())
  variables = {
      "params": params["net"],
      "batch_stats": carried.batch_stats["net"],
  }
  expected = net.apply(variables, images, train=False)["pooled"]
  encode = jax.jit(method.encode)
  for part in (images, images[:3]):  # Whatever its batch.
    np.testing.assert_allclose(
        encode(params, carried, part)["pooled"],
        expected[: len(part)],
        rtol=siamese_case.TOLERANCE,
        atol=1e-6,
    )


@each_method
def test_a_momentum_out_of_range_is_refused(name):
  with pytest.raises(ValueError, match=r"momentum is 1.5; .*\[0, 1\]"):
    _method(name, momentum=1.5)
