"""Barlow Twins, and VICReg, which differs by its loss alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import optim
from jssl.methods._one_net import Task
from jssl.methods.barlow_twins import barlow_twins
from jssl.methods.vicreg import vicreg
from jssl.step import init_state, make_step
import siamese_case

DIM = 6
FEATURES = 8 * 8 * 3  # Of an image's pixels.

each_method = pytest.mark.parametrize("name", ["barlow_twins", "vicreg"])
# Settings by which every part of a loss counts.
SETTINGS = {
    "barlow_twins": dict(off_diagonal_weight=0.3),
    "vicreg": dict(invariance=3.0, variance=7.0, covariance=9.0),
}


def _method(name, **arguments):
  arguments = dict(dim=DIM, second_augment=None) | arguments
  return siamese_case.make(name, **SETTINGS[name] | arguments)


def _barlow_twins(a, b, *, off_diagonal_weight):
  """Equations 1 and 2, pair by pair of dimensions."""
  a, b = [(z - z.mean(axis=0)) / np.sqrt(z.var(axis=0) + 1e-5) for z in (a, b)]
  total = 0.0
  for i in range(DIM):
    for j in range(DIM):
      correlation = np.mean(a[:, i] * b[:, j])
      if i == j:
        total += (1.0 - correlation) ** 2
      else:
        total += off_diagonal_weight * correlation**2
  return total


def _vicreg(a, b, *, invariance, variance, covariance):
  """Equations 1 to 6, with the means of the authors' code."""
  total = invariance * np.mean((a - b) ** 2)
  for z in (a, b):
    hinges = np.maximum(0.0, 1.0 - np.sqrt(z.var(axis=0, ddof=1) + 1e-4))
    total += variance * np.mean(hinges) / 2
    moments = np.cov(z.T)
    for i in range(DIM):
      for j in range(DIM):
        total += (i != j) * covariance * moments[i, j] ** 2 / DIM
  return total


@each_method
def test_the_loss_is_that_of_the_projections_of_two_views(name):
  method, views = _method(name), Task(siamese_case.views())
  params, carried = siamese_case.start(method, views)
  project = functools.partial(siamese_case.project, params, carried.batch_stats)
  z = [np.asarray(project(view), np.float64) for view in siamese_case.views()]
  slow = {"barlow_twins": _barlow_twins, "vicreg": _vicreg}[name]
  expected = slow(*z, **SETTINGS[name])
  for setting in SETTINGS[name]:  # None of them is idle.
    changed = SETTINGS[name] | {setting: 0.0}
    assert abs(slow(*z, **changed) - expected) > 1e-2 * expected
  loss = jax.jit(lambda *inputs: method.loss(*inputs, siamese_case.KEYS, 0))
  value, aux = loss(params, carried, views)
  np.testing.assert_allclose(value, expected, rtol=siamese_case.TOLERANCE)
  np.testing.assert_allclose(
      aux.metrics["feature_std"],
      siamese_case.spread(z[0]),
      rtol=siamese_case.TOLERANCE,
  )


@each_method
def test_the_head_ends_in_a_layer_without_bias(name):
  shapes = functools.partial(
      siamese_case.shapes, views=Task(siamese_case.views())
  )
  assert shapes(_method(name)) == {
      "projector": {
          "layer_1": siamese_case.linear(FEATURES, DIM),
          "norm_1": siamese_case.norm(DIM),
          "layer_2": siamese_case.linear(DIM, DIM),
          "norm_2": siamese_case.norm(DIM),
          "layer_3": siamese_case.linear(DIM, DIM),
      }
  }
  projector = shapes(_method(name, projector_layers=2))["projector"]
  assert set(projector) == {"layer_1", "norm_1", "layer_2"}


@each_method
def test_a_batch_of_one_image_is_refused(name):
  # Without a BatchNorm, which would refuse it first.
  method = _method(name, projector_layers=1)
  optimizer = optim.sgd(0.1)
  one = {"image": jnp.zeros((1, 8, 8, 3), jnp.uint8)}
  state = jax.eval_shape(
      lambda: init_state(method, optimizer, jax.random.key(0), one)
  )
  with pytest.raises(ValueError, match=f"{name} .* batch of 1 image"):
    jax.eval_shape(make_step(method, optimizer), state, one)


def test_defaults_are_those_of_the_papers():
  heads = dict(dim=8192, projector_layers=3)
  expected = heads | dict(off_diagonal_weight=0.005)
  assert expected.items() <= barlow_twins.__kwdefaults__.items()
  expected = heads | dict(invariance=25.0, variance=25.0, covariance=1.0)
  assert expected.items() <= vicreg.__kwdefaults__.items()
