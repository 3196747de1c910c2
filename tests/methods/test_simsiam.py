"""SimSiam."""

import jax
import jax.numpy as jnp
import numpy as np

from jssl.methods._one_net import Task
from jssl.methods.simsiam import simsiam
import siamese_case as case
import tiny

FEATURES = 8 * 8 * 3  # Of an image's pixels.


def _method(**arguments):
  return case.make("simsiam", **dict(dim=16, predictor_dim=4) | arguments)


def _cosine(x, y):
  return jnp.mean(jnp.sum(case.unit(x) * case.unit(y), axis=-1))


def test_the_loss_compares_predictions_with_constants():
  """Equation 4, in value and gradient: the projections are numbers here."""
  method = _method()
  params, carried = case.start(method, Task(case.views()))
  stats, views = carried.batch_stats, case.views()
  targets = [case.project(params, stats, view) for view in views]

  def by_hand(params):
    first, second = [case.predict(params, stats, view) for view in views]
    return -_cosine(first, targets[1]) / 2 - _cosine(second, targets[0]) / 2

  def loss(params):
    return method.loss(params, carried, Task(views), case.KEYS, 0)

  expected, gradient = jax.jit(jax.value_and_grad(by_hand))(params)
  (value, aux), actual = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  np.testing.assert_allclose(value, expected, rtol=case.TOLERANCE)
  tiny.assert_trees_close(actual, gradient, case.TOLERANCE)
  np.testing.assert_allclose(
      aux.metrics["feature_std"], case.spread(targets[0]), rtol=case.TOLERANCE
  )


def test_the_projector_ends_in_a_norm_that_is_not_trained():
  assert case.shapes(_method(), Task(case.views())) == {
      "projector": {
          "layer_1": case.linear(FEATURES, 16),
          "norm_1": case.norm(16),
          "layer_2": case.linear(16, 16),
          "norm_2": case.norm(16),
          "layer_3": case.linear(16, 16),
      },
      # A bottleneck, and nothing after its last layer.
      "predictor": {
          "layer_1": case.linear(16, 4),
          "norm_1": case.norm(4),
          "layer_2": case.linear(4, 16) | {"bias": (16,)},
      },
  }
  method = _method(projector_layers=2)  # For CIFAR.
  projector = case.shapes(method, Task(case.views()))["projector"]
  assert set(projector) == {"layer_1", "norm_1", "layer_2"}


def test_projections_are_standardised():
  method = _method()
  views = Task(case.views())
  _, carried = jax.eval_shape(method.init, jax.random.key(0), views)
  projector = carried.batch_stats["projector"]
  assert set(projector) == {"norm_1", "norm_2", "norm_3"}


def test_defaults_are_those_of_the_paper():
  expected = dict(dim=2048, projector_layers=3, predictor_dim=512)
  assert expected.items() <= simsiam.__kwdefaults__.items()
