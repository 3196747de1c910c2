"""SimSiam."""

import jax
import jax.numpy as jnp
import numpy as np

from jssl.methods._one_net import Task
from jssl.methods.simsiam import simsiam
import siamese_case
import tiny

FEATURES = 8 * 8 * 3  # Of an image's pixels.


def _method(**arguments):
  return siamese_case.make(
      "simsiam", **dict(dim=16, predictor_dim=4) | arguments
  )


def _cosine(x, y):
  return jnp.mean(jnp.sum(siamese_case.unit(x) * siamese_case.unit(y), axis=-1))


def test_the_loss_compares_predictions_with_constants():
  """Equation 4, in value and gradient: the projections are numbers here."""
  method = _method()
  params, carried = siamese_case.start(method, Task(siamese_case.views()))
  stats, views = carried.batch_stats, siamese_case.views()
  targets = [siamese_case.project(params, stats, view) for view in views]

  def by_hand(params):
    first, second = [
        siamese_case.predict(params, stats, view) for view in views
    ]
    return -_cosine(first, targets[1]) / 2 - _cosine(second, targets[0]) / 2

  def loss(params):
    return method.loss(params, carried, Task(views), siamese_case.KEYS, 0)

  expected, gradient = jax.jit(jax.value_and_grad(by_hand))(params)
  (value, aux), actual = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  np.testing.assert_allclose(value, expected, rtol=siamese_case.TOLERANCE)
  tiny.assert_trees_close(actual, gradient, siamese_case.TOLERANCE)
  np.testing.assert_allclose(
      aux.metrics["feature_std"],
      siamese_case.spread(targets[0]),
      rtol=siamese_case.TOLERANCE,
  )


def test_the_projector_ends_in_a_norm_that_is_not_trained():
  assert siamese_case.shapes(_method(), Task(siamese_case.views())) == {
      "projector": {
          "layer_1": siamese_case.linear(FEATURES, 16),
          "norm_1": siamese_case.norm(16),
          "layer_2": siamese_case.linear(16, 16),
          "norm_2": siamese_case.norm(16),
          "layer_3": siamese_case.linear(16, 16),
      },
      # A bottleneck, and nothing after its last layer.
      "predictor": {
          "layer_1": siamese_case.linear(16, 4),
          "norm_1": siamese_case.norm(4),
          "layer_2": siamese_case.linear(4, 16) | {"bias": (16,)},
      },
  }
  method = _method(projector_layers=2)  # For CIFAR.
  projector = siamese_case.shapes(method, Task(siamese_case.views()))[
      "projector"
  ]
  assert set(projector) == {"layer_1", "norm_1", "layer_2"}


def test_projections_are_standardised():
  method = _method()
  views = Task(siamese_case.views())
  _, carried = jax.eval_shape(method.init, jax.random.key(0), views)
  projector = carried.batch_stats["projector"]
  assert set(projector) == {"norm_1", "norm_2", "norm_3"}


def test_defaults_are_those_of_the_paper():
  expected = dict(dim=2048, projector_layers=3, predictor_dim=512)
  assert expected.items() <= simsiam.__kwdefaults__.items()
