"""Heads."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.methods import _branch
from jssl.nets import BatchNorm, MLP
import tiny

PLAIN = functools.partial(BatchNorm, use_scale=False, use_bias=False)
KERNEL, LINEAR = {"kernel"}, {"kernel", "bias"}
AFFINE = {"scale", "bias"}


def _inputs(width=5):
  random = np.random.default_rng(0)
  return random.normal(size=(6, width)).astype(np.float32)


def _init(head, x=None):
  x = _inputs() if x is None else x
  return head.init(jax.random.key(0), x)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (dict(), {"layer_1": LINEAR, "layer_2": LINEAR}),
        (dict(last_bias=False), {"layer_1": LINEAR, "layer_2": KERNEL}),
        (
            dict(norm=BatchNorm),
            {"layer_1": KERNEL, "norm_1": AFFINE, "layer_2": LINEAR},
        ),
        (
            dict(norm=BatchNorm, last_bias=False),
            {"layer_1": KERNEL, "norm_1": AFFINE, "layer_2": KERNEL},
        ),
        (
            dict(norm=BatchNorm, last_norm=BatchNorm),
            {
                "layer_1": KERNEL,
                "norm_1": AFFINE,
                "layer_2": KERNEL,
                "norm_2": AFFINE,
            },
        ),
        (
            dict(norm=BatchNorm, last_norm=PLAIN),
            {"layer_1": KERNEL, "norm_1": AFFINE, "layer_2": KERNEL},
        ),
        (
            dict(last_norm=BatchNorm),
            {"layer_1": LINEAR, "layer_2": KERNEL, "norm_2": AFFINE},
        ),
    ],
)
def test_a_norm_takes_the_place_of_a_bias(arguments, expected):
  head = MLP((4, 3), **arguments)
  params = _init(head)["params"]
  assert {name: set(leaf) for name, leaf in params.items()} == expected


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (dict(), {"norm_1"}),
        (dict(last_norm=True), {"norm_1", "norm_2"}),
        (
            dict(last_norm=True, last_scale=False, last_shift=False),
            {"norm_1"},
        ),
        (dict(last_norm=True, last_shift=False), {"norm_1", "norm_2"}),
        (dict(last_bias=False), {"norm_1"}),
    ],
)
def test_the_heads_of_the_methods(arguments, expected):
  head = _branch.head(tiny.Net(), (4, 3), **arguments)
  variables = _init(head)
  params = variables["params"]
  assert {x for x in params if x.startswith("norm")} == expected
  assert ("bias" in params["layer_2"]) == (not arguments)
  # A BatchNorm without a scale has statistics all the same.
  norms = 2 if "last_norm" in arguments else 1
  assert len(variables["batch_stats"]) == norms


def _random(tree):
  random = np.random.default_rng(1)
  return jax.tree.map(
      lambda x: random.uniform(0.5, 2, size=x.shape).astype(np.float32), tree
  )


@pytest.mark.parametrize("train", [False, True])
def test_values_are_those_of_numpy(train):
  head = MLP((4, None, 3), norm=BatchNorm, last_norm=PLAIN, activation=jnp.tanh)
  x = _inputs()
  variables = _random(_init(head))
  actual = head.apply(variables, x, train=train, mutable="batch_stats")[0]
  params, running = variables["params"], variables["batch_stats"]
  for i in (1, 2, 3):
    x = x @ params[f"layer_{i}"]["kernel"]
    mean, var = running[f"norm_{i}"]["mean"], running[f"norm_{i}"]["var"]
    if train:
      mean, var = x.mean(axis=0), x.var(axis=0)
    x = (x - mean) / np.sqrt(var + 1e-5)
    if i < 3:
      norm = params[f"norm_{i}"]
      x = np.tanh(x * norm["scale"] + norm["bias"])
  assert actual.shape == (6, 3)
  np.testing.assert_allclose(actual, x, rtol=1e-4, atol=1e-5)


def test_no_activation_follows_the_last_layer():
  head = MLP((4, 3))
  variables = _random(_init(head))
  first, last = variables["params"]["layer_1"], variables["params"]["layer_2"]
  hidden = np.maximum(_inputs() @ first["kernel"] + first["bias"], 0)
  expected = hidden @ last["kernel"] + last["bias"]
  np.testing.assert_allclose(
      head.apply(variables, _inputs()), expected, rtol=1e-5
  )
  variables["params"]["layer_2"]["bias"] -= 1000
  assert np.all(head.apply(variables, _inputs()) < 0)


def test_one_entry_is_a_linear_head_and_none_keeps_the_width():
  assert set(_init(MLP((3,)))["params"]) == {"layer_1"}
  params = _init(MLP((None, None, 2)))["params"]
  shapes = [params[f"layer_{i}"]["kernel"].shape for i in (1, 2, 3)]
  assert shapes == [(5, 5), (5, 5), (5, 2)]
  # None is the width of the head's input, not that of the layer before.
  params = _init(MLP((7, None)))["params"]
  assert params["layer_2"]["kernel"].shape == (7, 5)


def test_kernels_are_uniform_by_their_fan_in():
  kernel = _init(MLP((400,)), _inputs(100))["params"]["layer_1"]["kernel"]
  limit = 1 / math.sqrt(100)
  assert np.abs(kernel).max() <= limit
  quantiles = np.linspace(0.1, 0.9, 9)
  np.testing.assert_allclose(
      np.quantile(kernel, quantiles), limit * (2 * quantiles - 1), atol=2e-3
  )
  ones = MLP((4,), kernel_init=nn.initializers.ones)
  np.testing.assert_array_equal(_init(ones)["params"]["layer_1"]["kernel"], 1)


def test_results_and_parameters_are_float32_in_bfloat16():
  head = MLP((4, 3), norm=BatchNorm, dtype=jnp.bfloat16)
  variables = _init(head)
  for leaf in jax.tree.leaves(variables):
    assert leaf.dtype == jnp.float32
  y = head.apply(variables, _inputs())
  assert y.dtype == jnp.float32
  # It was computed in bfloat16.
  np.testing.assert_array_equal(y, y.astype(jnp.bfloat16).astype(jnp.float32))
  assert _branch.dtype_of(tiny.resnet(dtype=jnp.bfloat16)) == jnp.bfloat16
  head = _branch.head(tiny.resnet(dtype=jnp.bfloat16), (4, 3))
  assert head.dtype == jnp.bfloat16


@pytest.mark.parametrize("widths", [(), (8, 0), (-1,)])
def test_widths_that_make_no_head_are_refused(widths):
  with pytest.raises(ValueError, match="layers of widths"):
    MLP(widths).init(jax.random.key(0), jnp.ones((2, 3)))


def test_dropout_follows_the_activation_in_training():
  head = MLP(
      (64, 2),
      dropout=0.25,
      activation=lambda x: 0 * x + 1,
      kernel_init=nn.initializers.ones,
  )
  x = jnp.ones((256, 3))
  variables = head.init(jax.random.key(0), x)
  apply = lambda key, train: head.apply(
      variables, x, train=train, rngs=None if key is None else {"dropout": key}
  )
  kept = apply(jax.random.key(1), True)[:, 0] * 0.75  # How many of 64.
  np.testing.assert_allclose(kept, jnp.round(kept), atol=1e-4)
  assert abs(float(kept.mean()) - 48) < 1 and float(kept.std()) > 2
  np.testing.assert_array_equal(apply(jax.random.key(1), False), 64)
  # As in a target network.
  np.testing.assert_array_equal(apply(None, True), 64)
