"""SupCon."""

import functools
import math

import jax
import numpy as np
import pytest

from jssl.methods._one_net import Task
from jssl.methods.supcon import supcon
import siamese_case

TEMPERATURE = 0.3
FEATURES = 8 * 8 * 3  # Of an image's pixels.


@functools.cache
def _method(**arguments):
  return siamese_case.make(
      "supcon", **dict(dim=6, temperature=TEMPERATURE) | arguments
  )


@functools.cache
def _start():
  return siamese_case.start(
      _method(), Task(siamese_case.views(), siamese_case.batch()["label"])
  )


@functools.cache
def _loss():
  method, start, images = _method(), _start(), siamese_case.views()
  return jax.jit(
      lambda label: method.loss(
          *start, Task(images, label), siamese_case.KEYS, 0
      )[0]
  )


def _by_hand(label):
  """Equation 2, anchor by anchor, in float64."""
  params, carried = _start()
  project = functools.partial(siamese_case.project, params, carried.batch_stats)
  z = np.concatenate([project(view) for view in siamese_case.views()])
  z = np.asarray(siamese_case.unit(z.astype(np.float64)))
  label, total = np.tile(label, 2), 0.0
  for i in range(len(z)):
    others = [a for a in range(len(z)) if a != i]
    exponents = {a: z[i] @ z[a] / TEMPERATURE for a in others}
    normalizer = math.log(sum(math.exp(x) for x in exponents.values()))
    positives = [a for a in others if label[a] == label[i]]
    total += sum(normalizer - exponents[p] for p in positives) / len(positives)
  return total / len(z)


def test_the_loss_follows_the_labels():
  label = siamese_case.batch()["label"]
  other = np.roll(label, 1)
  expected, expected_of_other = _by_hand(label), _by_hand(other)
  assert abs(expected - expected_of_other) > 0.01
  np.testing.assert_allclose(
      _loss()(label), expected, rtol=siamese_case.TOLERANCE
  )
  np.testing.assert_allclose(
      _loss()(other), expected_of_other, rtol=siamese_case.TOLERANCE
  )


def test_labels_go_with_the_views():
  batch = siamese_case.batch()
  task = jax.jit(_method().views)(jax.random.key(0), batch)
  np.testing.assert_array_equal(task.target, batch["label"])
  assert task.inputs.shape == (2, *batch["image"].shape)
  assert np.all(np.any(task.inputs[0] != task.inputs[1], axis=(1, 2, 3)))


def test_a_batch_without_labels_is_refused():
  batch = siamese_case.batch()
  del batch["label"]
  with pytest.raises(ValueError, match="no labels, and supcon"):
    _method().views(jax.random.key(0), batch)


def test_the_head_has_biases_and_no_norm():
  biased = lambda inputs, outputs: {
      **siamese_case.linear(inputs, outputs),
      "bias": (outputs,),
  }
  views = Task(siamese_case.views(), siamese_case.batch()["label"])
  assert siamese_case.shapes(_method(), views) == {
      "projector": {
          "layer_1": biased(FEATURES, FEATURES),
          "layer_2": biased(FEATURES, 6),
      }
  }
  assert _start()[1].batch_stats == {}
  projector = siamese_case.shapes(_method(hidden_layers=0), views)["projector"]
  assert projector == {"layer_1": biased(FEATURES, 6)}


def test_defaults_are_those_of_the_paper():
  expected = dict(dim=128, hidden_layers=1, temperature=0.1)
  assert expected.items() <= supcon.__kwdefaults__.items()


def test_a_temperature_of_zero_is_refused():
  with pytest.raises(ValueError, match="temperature is 0.0"):
    _method(temperature=0.0)
