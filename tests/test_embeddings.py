"""Arithmetic of embeddings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import embeddings
import tiny


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("deviation", [1.0, 1e-3, 1e-5])
def test_feature_std_keeps_its_digits_where_embeddings_hardly_differ(
    deviation, shards
):
  random = np.random.default_rng(0)
  x = random.normal(size=(1, 32)) + deviation * random.normal(size=(64, 32))
  x = np.float32(x)
  unit = x.astype(np.float64)
  unit /= np.linalg.norm(unit, axis=1, keepdims=True)
  expected = unit.std(axis=0).mean() * np.sqrt(32)
  run = functools.partial(embeddings.feature_std, axis_name="i")
  spread = jax.vmap(run, axis_name="i")(tiny.shards(jnp.asarray(x), shards))
  np.testing.assert_allclose(spread, expected, rtol=2e-3)


def test_feature_std_of_a_point_is_0():
  point = np.full((64, 32), 0.3, np.float32)
  assert embeddings.feature_std(point) < 1e-6


@pytest.mark.parametrize("mean", [0.0, 2000.0])
def test_standardized_vectors_have_mean_0_and_variance_1(mean):
  x = np.float32(mean + np.random.default_rng(0).normal(size=(64, 256)))
  y = np.asarray(jax.jit(embeddings.standardize)(x), np.float64)
  exact = x - x.mean(-1, keepdims=True, dtype=np.float64)
  exact /= np.sqrt(exact.var(-1, keepdims=True) + 1e-5)
  # The digits that float32 has of a mean of 2,000.
  np.testing.assert_allclose(y, exact, atol=5e-4)


def test_standardize_adds_its_epsilon_to_the_variance():
  pair = jnp.array([[0.0, 2.0]])  # Variance 1.
  np.testing.assert_allclose(
      embeddings.standardize(pair, eps=3.0), [[-0.5, 0.5]], rtol=1e-6
  )
  assert embeddings.standardize(pair.astype(jnp.bfloat16)).dtype == jnp.float32
