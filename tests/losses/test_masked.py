"""Losses over what is masked."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import losses
from jssl.nets.patches import patchify, standardize

TOLERANCE = 1e-5  # Of float32 sums in another order.

LOSSES = {"mse": losses.masked_mse, "l1": losses.masked_l1}
# The error of a number, and its derivative.
SLOW = {"mse": (lambda x: x**2, lambda x: 2 * x), "l1": (abs, np.sign)}
SHAPES = {"patches": ((3, 5, 4), (3, 5)), "images": ((2, 4, 6, 3), (2, 4, 6))}

each_loss = pytest.mark.parametrize("name", LOSSES)


@functools.cache
def _value_and_gradient(name):
  """Compiled once for the tests that follow."""
  return jax.jit(jax.value_and_grad(LOSSES[name]))


def _inputs(shapes="patches"):
  random = np.random.default_rng(0)
  shape, of_mask = SHAPES[shapes]
  prediction, target = random.normal(size=(2, *shape)).astype(np.float32)
  return prediction, target, random.integers(0, 2, of_mask) > 0


def _slow(name, prediction, target, mask):
  """The definition, place by place, in float64."""
  error, derivative = SLOW[name]
  total, weight = 0.0, 0.0
  gradient = np.zeros(prediction.shape)
  for place in np.ndindex(mask.shape):
    difference = np.float64(prediction[place]) - target[place]
    total += mask[place] * np.mean(error(difference))
    gradient[place] = mask[place] * derivative(difference) / difference.size
    weight += mask[place]
  return total / weight, gradient / weight


def test_masked_mse_agrees_with_the_reference(golden):
  data = golden("mae")
  target = standardize(patchify(data["images"], int(data["patch"])))
  value, gradient = _value_and_gradient("mse")(
      data["prediction"], target, data["mask"]
  )
  np.testing.assert_allclose(value, data["loss_norm_pix"], rtol=TOLERANCE)
  np.testing.assert_allclose(
      gradient, data["grad_prediction"], rtol=TOLERANCE, atol=1e-8
  )


@each_loss
@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("kind", ["bool", "weights"])
def test_a_loss_is_its_definition(name, shapes, kind):
  prediction, target, mask = _inputs(shapes)
  if kind == "weights":
    mask = mask * np.random.default_rng(1).uniform(0, 3, mask.shape)
    mask = mask.astype(np.float32)
  value, gradient = _value_and_gradient(name)(prediction, target, mask)
  expected, slope = _slow(name, prediction, target, mask)
  assert value.shape == () and value.dtype == jnp.float32
  np.testing.assert_allclose(value, expected, rtol=TOLERANCE)
  np.testing.assert_allclose(gradient, slope, rtol=TOLERANCE, atol=1e-8)


@each_loss
def test_what_is_not_masked_does_not_count(name):
  prediction, target, mask = _inputs()
  value, _ = _value_and_gradient(name)(prediction, target, mask)
  prediction[~mask] += 100
  other, gradient = _value_and_gradient(name)(prediction, target, mask)
  assert other == value
  assert np.all(gradient[~mask] == 0) and np.all(gradient[mask] != 0)


@each_loss
def test_no_gradient_flows_to_the_target(name):
  prediction, target, mask = _inputs()
  slope = jax.jit(jax.grad(LOSSES[name], argnums=1))
  np.testing.assert_array_equal(slope(prediction, target, mask), 0.0)


@each_loss
def test_nothing_masked_gives_zero_and_no_gradient(name):
  prediction, target, mask = _inputs()
  value, gradient = _value_and_gradient(name)(
      prediction, target, np.zeros_like(mask)
  )
  assert value == 0
  np.testing.assert_array_equal(gradient, 0.0)


@each_loss
def test_bfloat16_is_computed_in_float32(name):
  prediction, target, mask = _inputs()
  half = [jnp.asarray(x, jnp.bfloat16) for x in (prediction, target)]
  # Op by op: a compiled program may keep more digits than requested.
  value = LOSSES[name](*half, mask)
  exact, _ = _slow(name, *(np.asarray(x, np.float32) for x in half), mask)
  assert value.dtype == jnp.float32
  np.testing.assert_allclose(value, exact, rtol=TOLERANCE)


@each_loss
def test_shards_of_equal_counts_have_the_mean_of_the_global_batch(name):
  random = np.random.default_rng(2)
  prediction, target = random.normal(size=(2, 8, 5, 4)).astype(np.float32)
  # Three of five in each image, as in MAE, but not the same three.
  mask = random.permuted(np.tile([1.0, 1, 1, 0, 0], (8, 1)), axis=1)
  value, gradient = _value_and_gradient(name)(prediction, target, mask)
  split = lambda x: x.reshape(4, 2, *x.shape[1:])
  values, gradients = jax.vmap(_value_and_gradient(name))(
      split(prediction), split(target), split(mask)
  )
  np.testing.assert_allclose(np.mean(values), value, rtol=TOLERANCE)
  # A shard's own rows weigh a fourth in the global mean.
  np.testing.assert_allclose(
      gradients.reshape(gradient.shape) / 4, gradient, rtol=1e-5, atol=1e-8
  )


@each_loss
@pytest.mark.parametrize(
    "shapes",
    [
        ((3, 5, 4), (3, 5, 1), (3, 5)),
        ((3, 5, 4), (3, 5, 4), (3, 4)),
        ((3, 5, 4), (3, 5, 4), (5,)),
        ((3, 5), (3, 5), (3, 5, 4)),
        ((3, 5, 4), (3, 5, 4), (3, 1)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(name, shapes):
  with pytest.raises(ValueError) as error:
    LOSSES[name](*map(jnp.ones, shapes))
  for shape in shapes:
    assert str(shape) in str(error.value)
