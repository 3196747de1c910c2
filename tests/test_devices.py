"""Every method on eight devices: as on one, with the fewest collectives."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import optim, parallel
from jssl.methods import METHODS
from jssl.step import make_step
from test_contract import ARGUMENTS, needs_patches
import tiny

DEVICES, BATCH, STEPS = 8, 16, 3
OPTIMIZER = optim.sgd(0.05)

each_method = pytest.mark.parametrize("name", METHODS)


def make_method(name, axis_name):
  groups = 8 if name.startswith(("moco_v1", "moco_v2")) else 1
  if needs_patches(name):
    net = tiny.vit(axis_name=axis_name)
  else:
    net = tiny.Net(groups=groups, axis_name=axis_name)
  arguments = ARGUMENTS[name]
  if "tile_size" in arguments:  # Dropout differs from device to device.
    arguments = arguments | dict(dropout=0.0)
  return METHODS[name](net, axis_name=axis_name, **arguments)


def make_batch():
  return {"image": tiny.images(BATCH), "label": jnp.arange(BATCH) % 5}


@functools.cache
def start(name):
  return tiny.start(make_method(name, None), OPTIMIZER, make_batch())


@functools.cache
def _compiled(name):
  """The step on eight devices, with the outputs of each."""
  method = make_method(name, parallel.AXIS_NAME)
  step = jax.pmap(
      make_step(method, OPTIMIZER, parallel.AXIS_NAME),
      axis_name=parallel.AXIS_NAME,
      in_axes=(None, 0),
  )
  state = parallel.replicate(start(name))
  return step.lower(state, tiny.shards(make_batch(), DEVICES)).compile()


@each_method
def test_eight_devices_are_equal_to_each_other_and_to_one(name):
  batch = tiny.shards(make_batch(), DEVICES)
  one = jax.jit(make_step(make_method(name, None), OPTIMIZER))
  expected = start(name)
  state = parallel.replicate(expected)
  for _ in range(STEPS):
    state, metrics = _compiled(name)(state, batch)
    for leaf in map(_bits, jax.tree.leaves((state, metrics))):
      for copy in leaf[1:]:
        np.testing.assert_array_equal(copy, leaf[0])
    state, metrics = jax.tree.map(lambda x: x[0], (state, metrics))
    state = parallel.replicate(state)
    expected, expected_metrics = one(expected, make_batch())
  tiny.assert_trees_close((state, metrics), (expected, expected_metrics), 1e-3)


def _bits(x):
  is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
  return jax.random.key_data(x) if is_key else x


# What theory says: synchronised BatchNorms (the moments of each are gathered
# forward and scattered backward), those of a target (forward only), reductions
# of the loss itself, gathers of embeddings or images, and gathers whose
# gradient flows back (a scatter).
TALK = {
    "moco_v1": (0, 0, 0, 2, 0),  # Images for the shuffle; keys.
    "moco_v2": (0, 0, 0, 4, 0),  # Both directions.
    "moco_v3": (6, 4, 0, 2, 0),  # Keys of both directions.
    "simclr": (3, 0, 0, 1, 1),
    "nnclr": (5, 0, 0, 3, 2),  # Predictions of both directions; the queue's.
    "byol": (3, 2, 0, 0, 0),
    "simsiam": (5, 0, 0, 0, 0),
    "barlow_twins": (3, 0, 6, 0, 0),  # Its standardisation; the correlation.
    "vicreg": (3, 0, 4, 0, 0),  # Means and covariances, and backward.
    "swav": (3, 0, 12, 1, 0),  # Sinkhorn: a maximum and a sum, 3 times, by 2.
    "dino": (2, 1, 0, 0, 0),  # The net, for crops of two sizes.
    "supcon": (1, 0, 0, 2, 1),  # Embeddings and labels.
    "rotation": (1, 0, 0, 0, 0),
    "jigsaw": (2, 0, 0, 0, 0),  # The classifier's hidden layer.
    "relative_position": (2, 0, 0, 0, 0),
    "inpainting": (2, 0, 0, 0, 0),  # The decoder doubles once.
    "colorization": (1, 0, 0, 0, 0),  # Frequencies of colors: merged.
    "denoising": (2, 0, 0, 0, 0),
    "mae": (0, 0, 0, 0, 0),  # No statistics.
    "simmim": (0, 0, 0, 0, 0),
    "ijepa": (0, 0, 0, 0, 0),
}
# Gradients, the value, metrics and statistics; XLA merges some of them.
COMMON = 5


def test_no_method_was_dropped_from_the_table():
  assert len(TALK) >= 21 and set(TALK) <= set(METHODS)


@pytest.mark.parametrize("name", TALK)
def test_collectives_are_those_of_theory(name):
  text = _compiled(name).as_text()
  norms, of_target, reductions, gathers, scatters = TALK[name]

  def count(kind):
    return len(re.findall(rf" {kind}(?:-start)?\(", text))

  assert max(reductions, 1) <= count("all-reduce") <= reductions + COMMON
  assert count("all-gather") == norms + of_target + gathers
  assert count("reduce-scatter") == norms + scatters
  assert count("all-to-all") == count("collective-permute") == 0
