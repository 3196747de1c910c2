"""NNCLR."""

import functools
import math

import flax.linen as nn
import jax
import numpy as np
import pytest

from jssl import optim, parallel
from jssl.method import Keys
from jssl.methods import METHODS
from jssl.methods.nnclr import nearest
from jssl.step import init_state, make_step
import tiny

TOLERANCE = 2e-5  # Of float32 sums in another order.
BATCH, QUEUE, DIM, TEMPERATURE = 8, 32, 6, 0.3
KEYS = Keys(jax.random.key(1), jax.random.key(2))


class Pixels(nn.Module):
  """Features without batch statistics: the pixels themselves."""

  @nn.compact
  def __call__(self, images, *, train=False):
    shift = self.param("shift", nn.initializers.constant(0.5), ())
    return {"pooled": images.reshape(len(images), -1) - shift}


def _method(**arguments):
  settings = dict(
      augment=tiny.recipe,
      dim=DIM,
      hidden_dim=12,
      projector_layers=2,
      predictor_dim=10,
      queue_size=QUEUE,
      temperature=TEMPERATURE,
  )
  return METHODS["nnclr"](Pixels(), **settings | arguments)


def _batch(seed=0):
  return {"image": tiny.images(BATCH, seed)}


@functools.cache
def _views():
  return jax.jit(_method().views)(jax.random.key(5), _batch())


@functools.cache
def _start():
  return jax.jit(_method().init)(jax.random.key(0), _views())


@functools.cache
def _compiled(devices):
  axis_name = "devices" if devices > 1 else None
  method = _method(axis_name=axis_name)

  def run(params, carried, views):
    value, aux = method.loss(params, carried, views, KEYS, 0)
    return parallel.pmean(value, axis_name), aux

  if axis_name:
    run = jax.vmap(run, (None, None, 1), axis_name=axis_name)
  return jax.jit(run)


def _run(carried=None, devices=1):
  """The loss and what the update gets, equal on all devices."""
  params, start = _start()
  views = _views()
  if devices > 1:
    views = views.reshape(2, devices, -1, *views.shape[2:])
  result = _compiled(devices)(params, carried or start, views)
  if devices == 1:
    return result
  for leaf in jax.tree.leaves((result[0], result[1].fresh)):
    np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[0], leaf.shape))
  return jax.tree.map(lambda x: x[0], result)


def _normalize(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _dense(layer, x):
  return x @ layer["kernel"] + layer.get("bias", 0.0)


def _norm(layer, x):
  x = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)
  return x * layer["scale"] + layer["bias"]


def _embed(images):
  """Projection and prediction of one view, in NumPy."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), _start()[0])
  x = np.asarray(images).reshape(len(images), -1) - params["net"]["shift"]
  head = params["projector"]
  x = np.maximum(_norm(head["norm_1"], _dense(head["layer_1"], x)), 0)
  projection = _norm(head["norm_2"], _dense(head["layer_2"], x))
  head = params["predictor"]
  x = _norm(head["norm_1"], _dense(head["layer_1"], projection))
  return projection, _dense(head["layer_2"], np.maximum(x, 0))


def _expected(support):
  """The loss from the paper's equation 3, of both directions."""
  projections, predictions = zip(*map(_embed, _views()))
  support = np.asarray(support, np.float64)
  total = 0.0
  for one, other in ((0, 1), (1, 0)):
    found = np.argmax(_normalize(projections[one]) @ support.T, axis=1)
    logits = support[found] @ _normalize(predictions[other]).T / TEMPERATURE
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    total -= np.log(np.diag(chances)).mean()
  return total / 2


@pytest.mark.parametrize("devices", [1, 4])
def test_a_neighbour_of_one_view_meets_predictions_of_the_other(devices):
  value, _ = _run(devices=devices)
  support = _start()[1].queue.keys
  expected = _expected(support)
  np.testing.assert_allclose(value, expected, rtol=TOLERANCE)


def test_the_support_is_that_of_earlier_batches():
  _, carried = _start()
  new = _method().update({}, carried, _run()[1].fresh, 0)[1]
  value, _ = _run(new)
  np.testing.assert_allclose(value, _expected(new.queue.keys), rtol=TOLERANCE)
  assert abs(value - _run()[0]) > 1e-2


def test_the_nearest_is_that_of_the_largest_cosine():
  random = np.random.default_rng(0)
  x = random.normal(size=(2, 5, DIM)).astype(np.float32)
  support = _normalize(random.normal(size=(QUEUE, DIM))).astype(np.float32)
  found = nearest(x, support)
  assert found.shape == x.shape
  for view in range(2):
    for i in range(5):
      cosines = [
          np.dot(x[view, i], s) / np.linalg.norm(x[view, i]) for s in support
      ]
      np.testing.assert_array_equal(found[view, i], support[np.argmax(cosines)])
  np.testing.assert_array_equal(nearest(7 * x, support), found)


@pytest.mark.parametrize("devices", [1, 4])
def test_the_support_takes_the_first_views_projections_in_order(devices):
  params, carried = _start()
  _, aux = _run(devices=devices)
  same, new = _method().update(params, carried, aux.fresh, 0)
  assert same is params
  projection, _ = _embed(_views()[0])
  np.testing.assert_allclose(
      new.queue.keys[:BATCH], _normalize(projection), atol=TOLERANCE
  )
  np.testing.assert_array_equal(
      new.queue.keys[BATCH:], carried.queue.keys[BATCH:]
  )
  assert new.queue.pointer == BATCH


def test_a_queue_that_the_batch_does_not_divide_is_refused():
  method = _method(queue_size=20)
  state = jax.eval_shape(
      lambda key: init_state(method, optim.sgd(0.1), key, _batch()),
      jax.random.key(0),
  )
  with pytest.raises(ValueError, match="20 keys .* batch of 8"):
    jax.eval_shape(make_step(method, optim.sgd(0.1)), state, _batch())


def test_a_temperature_out_of_range_is_refused():
  with pytest.raises(ValueError, match="temperature is 0.0"):
    _method(temperature=0.0)


def test_heads_are_those_of_the_paper():
  params, _ = jax.eval_shape(
      _method(projector_layers=3).init, jax.random.key(0), _views()
  )
  layers = {
      head: {name: set(x) for name, x in params[head].items()}
      for head in ("projector", "predictor")
  }
  kernel, both = {"kernel"}, {"scale", "bias"}
  # BatchNorm after every layer but the predictor's last.
  assert layers["projector"] == {
      "layer_1": kernel,
      "norm_1": both,
      "layer_2": kernel,
      "norm_2": both,
      "layer_3": kernel,
      "norm_3": both,
  }
  assert layers["predictor"] == {
      "layer_1": kernel,
      "norm_1": both,
      "layer_2": {"kernel", "bias"},
  }


def test_metrics_give_chance_and_the_spread():
  for devices in (1, 4):
    metrics = _run(devices=devices)[1].metrics
    assert metrics["chance_loss"] == pytest.approx(math.log(BATCH))
    assert 0.1 < metrics["feature_std"] < 1.1


def test_defaults_are_those_of_the_paper():
  defaults = METHODS["nnclr"].__kwdefaults__
  expected = dict(
      dim=256,
      hidden_dim=2048,
      projector_layers=3,
      predictor_dim=4096,
      queue_size=98304,
      temperature=0.1,
  )
  assert expected.items() <= defaults.items()
