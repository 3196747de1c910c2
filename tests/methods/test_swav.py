"""SwAV."""

import functools
import math

import flax.linen as nn
import jax
import numpy as np
import pytest

from jssl import losses, optim, parallel
from jssl.method import Keys
from jssl.methods import METHODS
from jssl.step import init_state, make_step
import tiny

TOLERANCE = 1e-5  # Of float32 sums in another order.
BATCH, QUEUE, DIM, PROTOTYPES = 8, 16, 6, 5
FULL = QUEUE // BATCH  # Steps that fill the queue.
FROZEN = 2
KEYS = Keys(jax.random.key(1), jax.random.key(2))
SINKHORN = dict(epsilon=0.3, iterations=2)
TEMPERATURE = 0.2


class Cells(nn.Module):
  """Features without batch statistics: the means of 4 x 4 cells."""

  @nn.compact
  def __call__(self, images, *, train=False):
    shift = self.param("shift", nn.initializers.constant(0.5), ())
    return {"pooled": _cells(images) - shift}


def _cells(images):
  count, side = images.shape[:2]
  cells = images.reshape(count, 4, side // 4, 4, side // 4, 3)
  return cells.mean(axis=(2, 4)).reshape(count, -1)


def _method(**arguments):
  settings = dict(
      augment=tiny.recipe,
      local_augment=tiny.small_recipe,
      local_views=2,
      dim=DIM,
      hidden_dim=12,
      prototypes=PROTOTYPES,
      temperature=TEMPERATURE,
      frozen_steps=FROZEN,
      **SINKHORN,
  )
  return METHODS["swav"](Cells(), **settings | arguments)


def _batch(seed=0):
  return {"image": tiny.images(BATCH, seed)}


@functools.cache
def _views():
  return jax.jit(_method().views)(jax.random.key(5), _batch())


@functools.cache
def _start(queue_size):
  init = _method(queue_size=queue_size).init
  return jax.jit(init)(jax.random.key(0), _views())


@functools.cache
def _compiled(devices, **arguments):
  """Loss, gradients and what the update gets, at a step: once compiled."""
  axis_name = "devices" if devices > 1 else None
  method = _method(axis_name=axis_name, **arguments)

  def run(params, carried, views, step):
    def loss(params):
      value, aux = method.loss(params, carried, views, KEYS, step)
      return parallel.pmean(value, axis_name), aux

    (value, aux), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    return value, parallel.pmean(gradients, axis_name), aux

  if axis_name:
    run = jax.vmap(run, (None, None, 1, None), axis_name=axis_name)
  return jax.jit(run)


def _run(step=0, devices=1, **arguments):
  """As `_compiled`, of the first device; the others give the same."""
  state = _start(arguments.get("queue_size", 0))
  views = _views()
  if arguments:  # Small views have no part in a queue.
    views = views._replace(local_crops=None)
  if devices > 1:
    views = jax.tree.map(
        lambda x: x.reshape(len(x), devices, -1, *x.shape[2:]), views
    )
  result = _compiled(devices, **arguments)(*state, views, step)
  if devices == 1:
    return result
  for leaf in jax.tree.leaves(result):
    for copy in leaf[1:]:
      np.testing.assert_allclose(copy, leaf[0], rtol=1e-6, atol=1e-7)
  return jax.tree.map(lambda x: x[0], result)


def _normalize(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _project(params, *sizes):
  """The projections of all crops, unit vectors `[V, B, D]`, in NumPy.

  The head normalises all crops together, as the authors' code.
  """
  params = jax.tree.map(np.asarray, params)
  head = params["projector"]
  cells = [_cells(np.asarray(view)) for views in sizes for view in views]
  x = np.concatenate(cells) - params["net"]["shift"]
  x = x @ head["layer_1"]["kernel"]
  x = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)
  x = np.maximum(x * head["norm_1"]["scale"] + head["norm_1"]["bias"], 0)
  x = _normalize(x @ head["layer_2"]["kernel"] + head["layer_2"]["bias"])
  return x.reshape(len(cells), BATCH, DIM)


def _scores(params, *sizes):
  return _project(params, *sizes) @ np.asarray(params["prototypes"]).T


def test_the_loss_is_that_of_the_scores_of_all_views():
  params, _ = _start(0)
  scores = _scores(params, *_views())
  high, low = scores[:2], scores[2:]
  assert low.shape == (2, BATCH, PROTOTYPES)
  expected = losses.swav(high, low, temperature=TEMPERATURE, **SINKHORN)
  np.testing.assert_allclose(_run()[0], expected, rtol=TOLERANCE)


def test_views_are_large_and_small():
  assert _views().global_crops.shape == (2, BATCH, 8, 8, 3)
  assert _views().local_crops.shape == (2, BATCH, 4, 4, 3)
  method = _method(local_views=0, local_augment=None)
  views = jax.eval_shape(method.views, jax.random.key(5), _batch())
  assert views.local_crops is None and views.global_crops.shape == (
      2,
      BATCH,
      8,
      8,
      3,
  )


def test_prototypes_stay_unit_vectors():
  params, carried = _start(0)
  for step in range(4):
    before = params["prototypes"]
    lengths = np.linalg.norm(before, axis=-1)
    np.testing.assert_allclose(lengths, 1.0, rtol=1e-6)
    _, gradients, aux = _compiled(1)(params, carried, _views(), step)
    if step < FROZEN:
      gradients["prototypes"] *= 0
    # Of SGD, with a decay.
    params = jax.tree.map(lambda p, g: 0.9 * p - 0.5 * g, params, gradients)
    params, carried = _method().update(params, carried, aux.fresh, step)
    moved = np.abs(params["prototypes"] - before).max()
    # Decay alone does not turn them, while they are frozen.
    assert moved < 1e-6 if step < FROZEN else moved > 1e-2


def test_only_prototypes_are_frozen():
  params, _ = _start(0)
  steps = _method().frozen_steps(params)
  assert steps.pop("prototypes") == FROZEN
  assert set(jax.tree.leaves(steps)) == {0}
  _, gradients, _ = _run()
  assert all(np.any(x) for x in jax.tree.leaves(gradients))


@pytest.mark.parametrize("devices", [1, 4])
def test_each_large_view_has_a_queue_of_the_global_batch(devices):
  params, carried = _start(QUEUE)
  assert carried.queue.keys.shape == (2, QUEUE, DIM)
  assert not np.allclose(*carried.queue.keys, atol=0.1)
  _, _, aux = _run(0, devices, queue_size=QUEUE)
  new = _method(queue_size=QUEUE).update(params, carried, aux.fresh, 0)[1]
  for view in range(2):
    np.testing.assert_allclose(
        new.queue.keys[view, :BATCH],
        _project(params, _views().global_crops)[view],
        atol=TOLERANCE,
    )
  np.testing.assert_array_equal(
      new.queue.keys[:, BATCH:], carried.queue.keys[:, BATCH:]
  )
  np.testing.assert_array_equal(new.queue.pointer, [BATCH, BATCH])


def _values_of_large_views():
  """The loss of codes made without the queue's help and with it, by hand."""
  params, carried = _start(QUEUE)
  high = _scores(params, _views().global_crops)
  low = high[:0]
  plain = losses.swav(high, low, temperature=TEMPERATURE, **SINKHORN)
  kept = np.asarray(carried.queue.keys) @ np.asarray(params["prototypes"]).T
  codes = [
      losses.sinkhorn(np.concatenate(rows), **SINKHORN)[:BATCH]
      for rows in zip(high, kept)
  ]
  return plain, losses.swapped_prediction(
      np.stack(codes), high, low, temperature=TEMPERATURE
  )


@pytest.mark.parametrize("start, first", [(0, FULL), (2, 2 + FULL)])
def test_the_queue_helps_once_it_has_filled_from_its_start(start, first):
  plain, helped = _values_of_large_views()
  assert abs(plain - helped) > 0.01
  for step in range(6):
    settings = dict(queue_start_steps=start) if start else {}
    value, _, _ = _run(step, queue_size=QUEUE, **settings)
    expected = helped if step >= first else plain
    np.testing.assert_allclose(value, expected, rtol=TOLERANCE)


@pytest.mark.parametrize("step", [FULL - 1, FULL])
def test_devices_assign_with_the_whole_queue(step):
  one = _run(step, queue_size=QUEUE)
  four = _run(step, 4, queue_size=QUEUE)
  tiny.assert_trees_close(four, one, 2e-5)


def test_a_queue_that_the_batch_does_not_divide_is_refused():
  method = _method(queue_size=20)
  state = jax.eval_shape(
      lambda key: init_state(method, optim.sgd(0.1), key, _batch()),
      jax.random.key(0),
  )
  with pytest.raises(ValueError, match="20 keys .* batch of 8"):
    jax.eval_shape(make_step(method, optim.sgd(0.1)), state, _batch())


@pytest.mark.parametrize(
    "arguments,message",
    [
        (dict(temperature=0.0), "temperature is 0.0"),
        (dict(epsilon=0.0), "epsilon is 0.0"),
        (dict(local_augment=None), "local_views is 2 with local_augment None"),
        (dict(local_views=-1), "local_views is -1"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    _method(**arguments)


def test_metrics_give_chance_and_the_spread():
  metrics = _run()[2].metrics
  assert metrics["chance_loss"] == pytest.approx(math.log(PROTOTYPES))
  assert 0.1 < metrics["feature_std"] < 1.1


def test_defaults_are_those_of_the_paper():
  defaults = METHODS["swav"].__kwdefaults__
  expected = dict(
      dim=128,
      hidden_dim=2048,
      prototypes=3000,
      temperature=0.1,
      epsilon=0.05,
      iterations=3,
  )
  assert expected.items() <= defaults.items()
