"""Losses of two views without negatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import losses

TOLERANCE = 1e-5  # Of float32 sums in another order.

LOSSES = {
    "negative_cosine": losses.negative_cosine,
    "barlow_twins": losses.barlow_twins,
    "vicreg": losses.vicreg,
}
each_loss = pytest.mark.parametrize("name", LOSSES)
each_across_the_batch = pytest.mark.parametrize(
    "name", ["barlow_twins", "vicreg"]
)

value_and_gradients = {
    name: jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    for name, loss in LOSSES.items()
}


def _inputs(batch=16, dim=6):
  random = np.random.default_rng(0)
  return random.normal(size=(2, batch, dim)).astype(np.float32)


def _decorrelated(batch=16, dim=6):
  """Columns of mean 0 and variance 1 (over N) without correlation."""
  ones = np.ones((batch, 1))
  random = np.random.default_rng(0).normal(size=(batch, dim))
  orthonormal, _ = np.linalg.qr(np.concatenate([ones, random], axis=1))
  return (orthonormal[:, 1:] * np.sqrt(batch)).astype(np.float32)


def test_negative_cosine_agrees_with_the_reference(golden):
  data = golden("negative_cosine")
  value, (gradient, _) = value_and_gradients["negative_cosine"](
      data["p"], data["z"]
  )
  np.testing.assert_allclose(value, data["loss"], rtol=TOLERANCE)
  np.testing.assert_allclose(
      gradient, data["grad_p"], rtol=TOLERANCE, atol=1e-8
  )


@each_across_the_batch
def test_agrees_with_the_reference(golden, name):
  data = golden(name)
  settings = {
      key: float(data[key])
      for key in ("invariance", "variance", "covariance", "eps")
      if key in data
  }
  if name == "barlow_twins":
    settings = {"off_diagonal_weight": float(data["lambda_param"])}
  loss = lambda a, b: LOSSES[name](a, b, **settings)
  value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(
      data["z_a"], data["z_b"]
  )
  np.testing.assert_allclose(value, data["loss"], rtol=TOLERANCE)
  for gradient, key in zip(gradients, ("grad_z_a", "grad_z_b")):
    np.testing.assert_allclose(gradient, data[key], rtol=TOLERANCE, atol=1e-6)


def test_negative_cosine_of_known_vectors():
  x = jnp.asarray([[1.0, 0.0], [0.0, 2.0]])
  assert losses.negative_cosine(x, 3 * x) == -1.0
  assert losses.negative_cosine(x, -x) == 1.0
  assert losses.negative_cosine(x, x[::-1]) == 0.0


def test_barlow_twins_of_identical_decorrelated_views_is_zero():
  z = _decorrelated()
  np.testing.assert_allclose(losses.barlow_twins(z, 3 * z + 1), 0.0, atol=1e-7)


def test_barlow_twins_weighs_the_off_diagonal():
  column = _decorrelated(dim=1)
  z = np.repeat(column, 3, axis=1)  # All correlations are 1.
  loss = losses.barlow_twins(z, z, off_diagonal_weight=0.5)
  np.testing.assert_allclose(loss, 0.5 * 6, rtol=1e-4)


def test_barlow_twins_of_constant_embeddings():
  value, gradients = value_and_gradients["barlow_twins"](
      jnp.ones((16, 6)), jnp.ones((16, 6))
  )
  np.testing.assert_allclose(value, 6.0, rtol=TOLERANCE)
  assert np.all(np.isfinite(gradients))


def test_vicreg_of_constant_embeddings_is_the_hinge():
  value, gradients = value_and_gradients["vicreg"](
      jnp.ones((16, 6)), jnp.ones((16, 6))
  )
  np.testing.assert_allclose(value, 25 * (1 - 1e-2), rtol=TOLERANCE)
  assert np.all(np.isfinite(gradients))


def test_vicreg_of_identical_decorrelated_views_is_zero():
  z = _decorrelated()  # Unbiased, its standard deviations are above 1.
  np.testing.assert_allclose(losses.vicreg(z, z), 0.0, atol=1e-6)


def test_the_weights_of_vicreg_pick_its_terms():
  z = np.repeat(_decorrelated(dim=1), 3, axis=1)
  term = {
      name: losses.vicreg(
          z,
          z + 2,
          **{"invariance": 0.0, "variance": 0.0, "covariance": 0.0, name: 1.0},
      )
      for name in ("invariance", "variance", "covariance")
  }
  np.testing.assert_allclose(term["invariance"], 4.0, rtol=TOLERANCE)
  assert term["variance"] == 0.0
  # Six covariances of 16 / 15, over 3 dimensions, in 2 views.
  np.testing.assert_allclose(
      term["covariance"], 2 * 6 / 3 * (16 / 15) ** 2, rtol=TOLERANCE
  )


@each_across_the_batch
def test_a_large_mean_does_not_cost_digits(name):
  z_a, z_b = _inputs()
  # Kept exact: float32 holds these sums without rounding.
  z_a, z_b = (np.round(z * 256) / 256 for z in (z_a, z_b))
  moved, _ = value_and_gradients[name](z_a + 1024, z_b + 1024)
  expected, _ = value_and_gradients[name](z_a, z_b)
  np.testing.assert_allclose(moved, expected, rtol=1e-4)


@each_loss
def test_zero_vectors_give_finite_values_and_gradients(name):
  z_a, z_b = _inputs()
  z_a[0], z_b[1] = 0.0, 0.0
  z_a[:, 2] = 0.0
  value, gradients = value_and_gradients[name](z_a, z_b)
  assert np.isfinite(value)
  assert np.all(np.isfinite(gradients))
  if name == "negative_cosine":
    np.testing.assert_array_equal(gradients[0][0], 0.0)
    np.testing.assert_array_equal(gradients[1][1], 0.0)


@each_loss
def test_bfloat16_embeddings_are_computed_in_float32(name):
  inputs = jnp.asarray(_inputs(), jnp.bfloat16)
  value, _ = value_and_gradients[name](*inputs)
  assert value.dtype == jnp.float32
  exact, _ = value_and_gradients[name](*inputs.astype(jnp.float32))
  np.testing.assert_allclose(value, exact, rtol=1e-6)


@each_loss
def test_shapes_that_do_not_fit_are_refused(name):
  first, second = _inputs()
  with pytest.raises(ValueError, match=r"\(16, 6\) and .* \(16, 5\) do not"):
    LOSSES[name](first, second[:, :-1])
  with pytest.raises(ValueError, match=r"\(2, 16, 6\).* expected \[B, D\]"):
    LOSSES[name](_inputs(), _inputs())


@each_across_the_batch
def test_a_single_image_has_no_statistics_and_is_refused(name):
  with pytest.raises(ValueError, match=f"{name} got .* of 1 image.*at least 2"):
    LOSSES[name](*_inputs(batch=1))
