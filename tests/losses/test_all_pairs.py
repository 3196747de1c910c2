"""Contrastive losses of every view against every view."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import losses

TOLERANCE = 1e-5  # Of float32 sums in another order.

TWO_VIEWS = {
    "nt_xent": losses.nt_xent,
    "dcl": losses.dcl,
    "dclw": losses.dclw,
}
each_of_two_views = pytest.mark.parametrize("name", TWO_VIEWS)

value_and_gradients = {
    name: jax.jit(
        jax.value_and_grad(loss, argnums=(0, 1)),
        static_argnames="temperature",
    )
    for name, loss in TWO_VIEWS.items()
}
value_and_supcon_gradient = jax.jit(
    jax.value_and_grad(losses.supcon), static_argnames="temperature"
)


def _views(views=2, batch=8, dim=6):
  random = np.random.default_rng(0)
  return random.normal(size=(views, batch, dim)).astype(np.float32)


def _slow_supcon(embeddings, labels, temperature):
  """Equation 2 of the paper, anchor by anchor, in float64."""
  views, batch, dim = embeddings.shape
  z = embeddings.astype(np.float64).reshape(-1, dim)
  z /= np.linalg.norm(z, axis=-1, keepdims=True)
  label = np.tile(labels, views)
  total = 0.0
  for i in range(views * batch):
    others = [a for a in range(views * batch) if a != i]
    positives = [p for p in others if label[p] == label[i]]
    normalizer = sum(np.exp(z[i] @ z[a] / temperature) for a in others)
    for p in positives:
      term = np.log(np.exp(z[i] @ z[p] / temperature) / normalizer)
      total -= term / len(positives)
  return total / (views * batch)


@pytest.mark.parametrize(
    "name,file",
    [
        ("nt_xent", "nt_xent_T0.1"),
        ("nt_xent", "nt_xent_T0.5"),
        ("dcl", "dcl"),
        ("dclw", "dclw"),
    ],
)
def test_agrees_with_the_reference(golden, name, file):
  data = golden(file)
  value, gradients = value_and_gradients[name](
      data["z0"], data["z1"], temperature=float(data["temperature"])
  )
  np.testing.assert_allclose(value, data["loss"], rtol=TOLERANCE)
  for gradient, key in zip(gradients, ("grad_z0", "grad_z1")):
    np.testing.assert_allclose(gradient, data[key], rtol=TOLERANCE, atol=1e-7)


@each_of_two_views
def test_constant_embeddings_are_chance(name):
  same = jnp.ones((8, 6))
  value, gradients = value_and_gradients[name](same, same, temperature=0.1)
  # The positive is no candidate of the decoupled losses.
  expected = np.log(15) if name == "nt_xent" else np.log(14)
  np.testing.assert_allclose(value, expected, rtol=TOLERANCE)
  np.testing.assert_allclose(gradients, 0.0, atol=1e-5)


@each_of_two_views
def test_zero_vectors_give_finite_values_and_no_gradient(name):
  z0, z1 = _views()
  z0[0], z1[1] = 0.0, 0.0
  value, gradients = value_and_gradients[name](z0, z1, temperature=0.1)
  assert np.isfinite(value)
  for gradient in gradients:
    assert np.all(np.abs(gradient) < 10)
  np.testing.assert_array_equal(gradients[0][0], 0.0)
  np.testing.assert_array_equal(gradients[1][1], 0.0)


@each_of_two_views
def test_bfloat16_embeddings_are_computed_in_float32(name):
  inputs = jnp.asarray(_views(), jnp.bfloat16)
  value, _ = value_and_gradients[name](*inputs, temperature=0.1)
  assert value.dtype == jnp.float32
  exact, _ = value_and_gradients[name](
      *inputs.astype(jnp.float32), temperature=0.1
  )
  np.testing.assert_allclose(value, exact, rtol=1e-6)


@each_of_two_views
def test_a_traced_temperature_is_accepted(name):
  z0, z1 = _views()
  traced = jax.jit(lambda t: TWO_VIEWS[name](z0, z1, temperature=t))(0.1)
  expected, _ = value_and_gradients[name](z0, z1, temperature=0.1)
  np.testing.assert_allclose(traced, expected, rtol=TOLERANCE)


@each_of_two_views
def test_what_does_not_fit_is_refused(name):
  z0, z1 = _views()
  loss = TWO_VIEWS[name]
  with pytest.raises(ValueError, match=r"z0 \(8, 6\) and z1 \(7, 6\)"):
    loss(z0, z1[:-1], temperature=0.1)
  with pytest.raises(ValueError, match=r"\(2, 8, 6\).* expected \[B, D\]"):
    loss(_views(), _views(), temperature=0.1)
  with pytest.raises(ValueError, match="temperature is 0; expected"):
    loss(z0, z1, temperature=0)


@each_of_two_views
def test_a_single_image_has_no_negative_and_is_refused(name):
  z0, z1 = _views(batch=1)
  with pytest.raises(ValueError, match=r"batch of 1 image.*at least 2"):
    TWO_VIEWS[name](z0, z1, temperature=0.1)


def test_a_sigma_not_above_zero_is_refused():
  with pytest.raises(ValueError, match="sigma is 0; expected .* above 0"):
    losses.dclw(*_views(), temperature=0.1, sigma=0)


def test_a_large_sigma_weighs_all_images_alike():
  z0, z1 = _views()
  np.testing.assert_allclose(
      losses.dclw(z0, z1, temperature=0.1, sigma=1e6),
      losses.dcl(z0, z1, temperature=0.1),
      rtol=TOLERANCE,
  )


@pytest.mark.parametrize("views", [1, 2, 3])
def test_supcon_is_the_equation_of_the_paper(views):
  # With one view the only image of class 7 has no positive.
  labels = np.array([0, 1, 0, 2, 1, 7, 0, 2])
  z = _views(views)
  value, gradient = value_and_supcon_gradient(z, labels, temperature=0.2)
  slow = lambda z: _slow_supcon(z, labels, 0.2)
  np.testing.assert_allclose(value, slow(z), rtol=TOLERANCE)
  step = 1e-5 * np.random.default_rng(1).normal(size=z.shape)
  change = slow(z + step) - slow(z - step)
  np.testing.assert_allclose(2 * np.sum(step * gradient), change, rtol=1e-4)


def test_supcon_of_labels_that_all_differ_is_nt_xent():
  z = _views()
  np.testing.assert_allclose(
      losses.supcon(z, np.arange(8), temperature=0.1),
      losses.nt_xent(*z, temperature=0.1),
      rtol=TOLERANCE,
  )


def test_supcon_of_images_without_labels_takes_their_own_views():
  labels = np.array([0, -1, 0, 2, -1, 7, -1, 2])
  z = _views()
  value, gradient = value_and_supcon_gradient(z, labels, temperature=0.2)
  # As if each were the only image of its class.
  alone = np.array([0, 100, 0, 2, 101, 7, 102, 2])
  slow = lambda z: _slow_supcon(z, alone, 0.2)
  np.testing.assert_allclose(value, slow(z), rtol=TOLERANCE)
  assert abs(value - _slow_supcon(z, labels, 0.2)) > 0.01
  step = 1e-5 * np.random.default_rng(1).normal(size=z.shape)
  change = slow(z + step) - slow(z - step)
  np.testing.assert_allclose(2 * np.sum(step * gradient), change, rtol=1e-4)
  np.testing.assert_allclose(
      losses.supcon(z, np.full(8, -1), temperature=0.1),
      losses.nt_xent(*z, temperature=0.1),
      rtol=TOLERANCE,
  )


def test_supcon_of_constant_embeddings_is_chance():
  labels = np.array([0, 1, 0, 2, 1, 7, 0, 2])
  value = losses.supcon(jnp.ones((2, 8, 6)), labels, temperature=0.1)
  np.testing.assert_allclose(value, np.log(15), rtol=TOLERANCE)


def test_supcon_takes_zero_vectors_and_bfloat16():
  labels = np.array([0, 1, 0, 2, 1, 7, 0, 2])
  z = _views()
  z[0, 0] = 0.0
  z = jnp.asarray(z, jnp.bfloat16)
  value, gradient = value_and_supcon_gradient(z, labels, temperature=0.1)
  assert value.dtype == jnp.float32
  exact = losses.supcon(z.astype(jnp.float32), labels, temperature=0.1)
  np.testing.assert_allclose(value, exact, rtol=1e-6)
  assert np.all(np.abs(gradient) < 10)
  np.testing.assert_array_equal(gradient[0, 0], 0.0)


def test_supcon_refuses_what_does_not_fit():
  z, labels = _views(), np.zeros(8, np.int32)
  with pytest.raises(ValueError, match=r"\(2, 8, 6\) and labels \(7,\)"):
    losses.supcon(z, labels[:-1], temperature=0.1)
  with pytest.raises(ValueError, match=r"expected \[V, B, D\] and \[B\]"):
    losses.supcon(z[0], labels, temperature=0.1)
  with pytest.raises(ValueError, match="temperature is -1; expected"):
    losses.supcon(z, labels, temperature=-1)
  with pytest.raises(ValueError, match=r"batch of 1 image.*at least 2"):
    losses.supcon(z[:, :1], labels[:1], temperature=0.1)
