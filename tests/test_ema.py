"""Exponential moving averages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import ema

TREES = (
    {"a": jnp.asarray([1.0, 2.0]), "b": {"c": jnp.asarray(4.0)}},
    {"a": jnp.asarray([3.0, 0.0]), "b": {"c": jnp.asarray(8.0)}},
)


def test_update_agrees_with_the_reference(golden):
  data = golden("ema")
  new = ema.update(
      jnp.asarray(data["key"]),
      jnp.asarray(data["query"]),
      float(data["momentum"]),
  )
  np.testing.assert_allclose(new, data["key_after"], rtol=1e-6)


def test_every_leaf_moves_by_one_minus_momentum():
  new = ema.update(*TREES, 0.75)
  np.testing.assert_allclose(new["a"], [1.5, 1.5])
  np.testing.assert_allclose(new["b"]["c"], 5.0)


@pytest.mark.parametrize("momentum,expected", [(1.0, 0), (0.0, 1)])
def test_the_ends_keep_one_of_the_trees(momentum, expected):
  new = ema.update(*TREES, momentum)
  jax.tree.map(np.testing.assert_array_equal, new, TREES[expected])


def test_a_target_in_bfloat16_stays_so():
  new = ema.update(
      jnp.zeros(2, jnp.bfloat16), jnp.ones(2, jnp.bfloat16), jnp.asarray(0.5)
  )
  assert new.dtype == jnp.bfloat16
  np.testing.assert_array_equal(new.astype(jnp.float32), [0.5, 0.5])


def test_gradients_reach_the_target_but_not_the_online_tree():
  def total(target, online):
    return sum(map(jnp.sum, jax.tree.leaves(ema.update(target, online, 0.75))))

  target, online = jax.grad(total, argnums=(0, 1))(*TREES)
  np.testing.assert_allclose(target["a"], [0.75, 0.75])
  np.testing.assert_array_equal(online["a"], [0.0, 0.0])
  np.testing.assert_array_equal(online["b"]["c"], 0.0)


def test_trees_of_other_structure_are_refused():
  with pytest.raises(ValueError):
    ema.update({"a": jnp.zeros(2)}, {"b": jnp.zeros(2)}, 0.9)


def test_a_constant_becomes_a_schedule_and_a_schedule_stays():
  schedule = ema.as_schedule(0.99)
  assert schedule(0) == schedule(1000) == 0.99
  rising = lambda step: 1 - 1 / (step + 1)
  assert ema.as_schedule(rising) is rising


@pytest.mark.parametrize("momentum", [-0.1, 1.5])
def test_a_momentum_out_of_range_is_refused(momentum):
  with pytest.raises(ValueError, match=rf"{momentum}.*\[0, 1\]"):
    ema.as_schedule(momentum)
