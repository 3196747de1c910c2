"""SimCLR."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.methods._one_net import Task
from jssl.methods.simclr import simclr
import siamese_case

TEMPERATURE = 0.3
FEATURES = 8 * 8 * 3  # Of an image's pixels.


def _method(**arguments):
  settings = dict(dim=6, hidden_dim=16, temperature=TEMPERATURE)
  return siamese_case.make("simclr", **settings | arguments)


@functools.cache
def _start():
  return siamese_case.start(_method(), Task(siamese_case.views()))


@functools.cache
def _loss(**arguments):
  method = _method(**arguments)
  return jax.jit(lambda *inputs: method.loss(*inputs, siamese_case.KEYS, 0))


def _candidates(joint):
  """Unit projections of both views, one below the other, in float64."""
  params, carried = _start()
  project = functools.partial(siamese_case.project, params, carried.batch_stats)
  if joint:  # Normalised together.
    z = np.asarray(project(jnp.concatenate(siamese_case.views())))
  else:
    z = np.concatenate([project(view) for view in siamese_case.views()])
  return siamese_case.unit(z.astype(np.float64))


def _by_hand(loss, joint):
  """The mean over all views of the papers' loss, view by view."""
  z = np.asarray(_candidates(joint))
  count = len(z)
  similarity = z @ z.T
  positives = [(i + count // 2) % count for i in range(count)]
  pairs = similarity[range(count), positives]
  # DCLW, equation 7: of one direction, and the same in the other.
  weights = np.exp(pairs / 0.5) / np.mean(np.exp(pairs / 0.5))
  total = 0.0
  for i, positive in enumerate(positives):
    left_out = {i} if loss == "nt_xent" else {i, positive}
    negatives = [
        np.exp(similarity[i, k] / TEMPERATURE)
        for k in range(count)
        if k not in left_out
    ]
    weight = 2.0 - weights[i] if loss == "dclw" else 1.0
    total += math.log(sum(negatives)) - weight * pairs[i] / TEMPERATURE
  return total / count


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("loss", ["nt_xent", "dcl", "dclw"])
def test_the_loss_is_that_of_the_projections_of_two_views(loss, joint):
  own = {} if joint else dict(joint_statistics=False)  # Joint by default.
  value, aux = _loss(loss=loss, **own)(*_start(), Task(siamese_case.views()))
  np.testing.assert_allclose(
      value, _by_hand(loss, joint), rtol=siamese_case.TOLERANCE
  )
  assert ("chance_loss" in aux.metrics) == (loss == "nt_xent")


def test_equal_images_are_at_chance():
  same = jnp.ones_like(siamese_case.views())
  value, aux = _loss(loss="nt_xent")(*_start(), Task(same))
  chance = math.log(2 * siamese_case.BATCH - 1)
  assert aux.metrics["chance_loss"] == pytest.approx(chance, rel=1e-6)
  np.testing.assert_allclose(value, chance, rtol=siamese_case.TOLERANCE)


def test_the_heads_of_both_versions_end_in_a_norm():
  shapes = lambda **arguments: siamese_case.shapes(
      _method(hidden_dim=None, **arguments), Task(siamese_case.views())
  )
  wide = {
      "layer_1": siamese_case.linear(FEATURES, FEATURES),
      "norm_1": siamese_case.norm(FEATURES),
  }
  assert shapes() == {
      "projector": {
          **wide,
          "layer_2": siamese_case.linear(FEATURES, 6),
          "norm_2": {"scale": (6,)},
      }
  }
  assert shapes(hidden_layers=2) == {
      "projector": (
          wide
          | {
              "layer_2": siamese_case.linear(FEATURES, FEATURES),
              "norm_2": siamese_case.norm(FEATURES),
              "layer_3": siamese_case.linear(FEATURES, 6),
              "norm_3": {"scale": (6,)},  # As in the authors' code.
          }
      )
  }


def test_the_hidden_layers_can_be_narrower():
  shapes = siamese_case.shapes(_method(), Task(siamese_case.views()))[
      "projector"
  ]
  assert shapes["layer_1"] == siamese_case.linear(FEATURES, 16)
  assert shapes["layer_2"] == siamese_case.linear(16, 6)


def test_defaults_are_those_of_the_paper():
  expected = dict(
      dim=128,
      hidden_dim=None,
      hidden_layers=1,
      temperature=0.1,
      loss="nt_xent",
  )
  assert expected.items() <= simclr.__kwdefaults__.items()


@pytest.mark.parametrize(
    "arguments,message",
    [
        (dict(loss="triplet"), "loss is 'triplet'; .*'nt_xent', 'dcl', 'dclw'"),
        (dict(temperature=0.0), "temperature is 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    _method(**arguments)
