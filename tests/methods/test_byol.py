"""BYOL; what it shares with MoCo v3 is in test_target.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jssl.methods.byol import byol
import siamese_case
import tiny

FEATURES = 8 * 8 * 3  # Of an image's pixels.


@functools.cache
def _method(**arguments):
  settings = dict(dim=6, hidden_dim=16, second_augment=None)
  return siamese_case.make("byol", **settings | arguments)


def _distance(x, y):
  return jnp.mean(
      jnp.sum((siamese_case.unit(x) - siamese_case.unit(y)) ** 2, axis=-1)
  )


def test_the_loss_compares_predictions_with_the_targets_projections():
  """Equation 2 both ways, in value and gradient, with another net as target."""
  method, views = _method(), siamese_case.views()
  params, carried = siamese_case.start(method, views)
  targets = [
      siamese_case.project(
          carried.target_params, carried.target_batch_stats, view
      )
      for view in views
  ]

  def by_hand(params):
    first, second = [
        siamese_case.predict(params, carried.batch_stats, view)
        for view in views
    ]
    return _distance(first, targets[1]) + _distance(second, targets[0])

  def loss(params):
    return method.loss(params, carried, views, siamese_case.KEYS, 0)

  expected, gradient = jax.jit(jax.value_and_grad(by_hand))(params)
  (value, aux), actual = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  np.testing.assert_allclose(value, expected, rtol=siamese_case.TOLERANCE)
  tiny.assert_trees_close(actual, gradient, siamese_case.TOLERANCE)
  for part in ("net", "projector", "predictor"):
    leaves = jax.tree.leaves(actual[part])
    assert max(np.max(np.abs(leaf)) for leaf in leaves) > 1e-2
  online = siamese_case.project(params, carried.batch_stats, views[0])
  np.testing.assert_allclose(
      aux.metrics["feature_std"],
      siamese_case.spread(online),
      rtol=siamese_case.TOLERANCE,
  )


def test_heads_have_one_hidden_layer_and_no_norm_at_the_end():
  head = lambda inputs: {
      "layer_1": siamese_case.linear(inputs, 16),
      "norm_1": siamese_case.norm(16),
      "layer_2": siamese_case.linear(16, 6),
  }
  assert siamese_case.shapes(_method(), siamese_case.views()) == {
      "projector": head(FEATURES),
      "predictor": head(6),
  }


def test_defaults_are_those_of_the_paper():
  expected = dict(dim=256, hidden_dim=4096, momentum=0.996)
  assert expected.items() <= byol.__kwdefaults__.items()
