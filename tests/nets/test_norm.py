"""Batch normalisation over groups of the global batch."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import parallel
from jssl.nets import BatchNorm

TOLERANCE = 1e-5  # Of float32 sums in another order.
BATCH, SIDE, FEATURES = 16, 2, 3


def _inputs():
  """A batch whose groups differ, parameters and the weights of a loss."""
  random = np.random.default_rng(0)
  shape = (BATCH, SIDE, SIDE, FEATURES)
  x = random.normal(size=shape) * 2 + np.arange(BATCH)[:, None, None, None]
  params = {
      "scale": random.normal(size=FEATURES),
      "bias": random.normal(size=FEATURES),
  }
  weights = random.normal(size=shape)
  return jax.tree.map(lambda x: x.astype(np.float32), (params, x, weights))


def _statistics():
  values = {"mean": 0.5, "var": 2.0}
  return {k: np.full(FEATURES, v, np.float32) for k, v in values.items()}


def _numpy(params, x, groups):
  """Normalises each group alone; returns it and the mean statistics."""
  parts, means, variances = [], [], []
  for part in np.split(x.astype(np.float64), groups):
    mean, var = part.mean((0, 1, 2)), part.var((0, 1, 2))
    part = (part - mean) / np.sqrt(var + 1e-5)
    parts.append(part * params["scale"] + params["bias"])
    means.append(mean)
    variances.append(var)
  return np.concatenate(parts), np.mean(means, 0), np.mean(variances, 0)


def _evaluate(params, x, weights, *, groups, axis_name):
  """Value, output, statistics and gradients, as a train step takes them."""
  norm = BatchNorm(groups, axis_name, dtype=x.dtype)

  def loss(params, x):
    y, new = norm.apply(
        {"params": params, "batch_stats": _statistics()},
        x,
        train=True,
        mutable=["batch_stats"],
    )
    value = parallel.pmean(jnp.mean(weights * jnp.square(y)), axis_name)
    return value, (y, new["batch_stats"])

  (value, (y, new)), (for_params, for_x) = jax.value_and_grad(
      loss, argnums=(0, 1), has_aux=True
  )(params, x)
  new, for_params = parallel.pmean((new, for_params), axis_name)
  return value, y, new, for_params, for_x


@functools.cache
def _on_one_device(groups):
  evaluate = functools.partial(_evaluate, groups=groups, axis_name=None)
  return jax.jit(evaluate)(*_inputs())


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_each_group_is_normalised_alone(groups):
  params, x, _ = _inputs()
  y, mean, var = _numpy(params, x, groups)
  _, actual, new, _, _ = _on_one_device(groups)
  np.testing.assert_allclose(actual, y, rtol=1e-4, atol=1e-4)
  # The running statistics started at 0.5 and 2, and keep nine tenths.
  np.testing.assert_allclose(new["mean"], 0.45 + 0.1 * mean, rtol=TOLERANCE)
  np.testing.assert_allclose(new["var"], 1.8 + 0.1 * var, rtol=TOLERANCE)


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("mapping", [jax.vmap, jax.pmap])
def test_groups_do_not_depend_on_the_devices(mapping, groups, devices):
  params, x, weights = _inputs()
  split = lambda x: x.reshape(devices, -1, *x.shape[1:])
  evaluate = functools.partial(_evaluate, groups=groups, axis_name="shards")
  mapped = mapping(evaluate, in_axes=(None, 0, 0), axis_name="shards")
  mapped = jax.jit(mapped) if mapping is jax.vmap else mapped
  value, y, new, for_params, for_x = mapped(params, split(x), split(weights))
  expected = _on_one_device(groups)
  # The gradient of a shard's images is that of all N equal losses.
  whole = (y.reshape(x.shape), for_x.reshape(x.shape) / devices)
  for actual, wanted in zip(whole, (expected[1], expected[4])):
    np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-5)
  for device in range(devices):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a[device], b, rtol=TOLERANCE, atol=TOLERANCE
        ),
        (value, new, for_params),
        (expected[0], expected[2], expected[3]),
    )


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_groups_exchange_only_what_they_share(groups):
  params, x, _ = _inputs()
  norm = BatchNorm(groups, "devices")

  def apply(params, x):
    variables = {"params": params, "batch_stats": _statistics()}
    return norm.apply(variables, x, train=True, mutable=["batch_stats"])

  mapped = jax.pmap(apply, axis_name="devices", in_axes=(None, 0))
  hlo = mapped.lower(params, x.reshape(8, 2, *x.shape[1:])).compile().as_text()
  collectives = re.findall(
      r"(all-reduce|all-gather|collective-permute|all-to-all)(?:-start)?\(", hlo
  )
  # Eight groups on eight devices are what unsynchronised devices compute; all
  # statistics of a group are exchanged at once.
  assert len(collectives) == (0 if groups == 8 else 1)


@pytest.mark.parametrize("groups", [1, 8])
def test_running_statistics_normalise_when_not_training(groups):
  params, x, _ = _inputs()
  statistics = _statistics()
  y, new = BatchNorm(groups).apply(
      {"params": params, "batch_stats": statistics},
      x[:3],  # Of any size, as groups play no part.
      train=False,
      mutable=["batch_stats"],
  )
  expected = (x[:3] - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5)
  expected = expected * params["scale"] + params["bias"]
  np.testing.assert_allclose(y, expected, rtol=TOLERANCE, atol=TOLERANCE)
  jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], statistics)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("train", [False, True])
def test_without_affine_there_is_no_scale_and_no_shift(train, groups):
  _, x, _ = _inputs()
  norm = BatchNorm(groups, use_scale=False, use_bias=False)
  variables = norm.init(jax.random.key(0), x, train=True)
  assert set(variables) == {"batch_stats"}
  statistics = {"batch_stats": _statistics()}
  y, new = norm.apply(statistics, x, train=train, mutable=["batch_stats"])
  params = {"scale": np.ones(FEATURES), "bias": np.zeros(FEATURES)}
  affine, expected = BatchNorm(groups).apply(
      {"params": params, **statistics},
      x,
      train=train,
      mutable=["batch_stats"],
  )
  np.testing.assert_allclose(y, affine, rtol=TOLERANCE, atol=TOLERANCE)
  jax.tree.map(np.testing.assert_array_equal, new, expected)
  if train:
    expected = _numpy(params, x, groups)[0]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_init_leaves_the_statistics_at_their_start():
  x = _inputs()[1]
  variables = BatchNorm(8).init(jax.random.key(0), x[:1], train=True)
  statistics = variables["batch_stats"]
  np.testing.assert_array_equal(statistics["mean"], np.zeros(FEATURES))
  np.testing.assert_array_equal(statistics["var"], np.ones(FEATURES))


def test_statistics_are_float32_when_the_result_is_bfloat16():
  params, x, _ = _inputs()
  y, new = BatchNorm(2, dtype=jnp.bfloat16).apply(
      {"params": params, "batch_stats": _statistics()},
      jnp.asarray(x, jnp.bfloat16),
      train=True,
      mutable=["batch_stats"],
  )
  assert y.dtype == jnp.bfloat16
  exact = _numpy(params, np.asarray(jnp.asarray(x, jnp.bfloat16), "f"), 2)
  np.testing.assert_allclose(y.astype("f"), exact[0], rtol=1e-2, atol=1e-2)
  assert new["batch_stats"]["var"].dtype == jnp.float32
  np.testing.assert_allclose(
      new["batch_stats"]["var"], 1.8 + 0.1 * exact[2], rtol=TOLERANCE
  )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_gradients_and_statistics_are_those_of_flax(dtype):
  params, x, weights = _inputs()
  x = jnp.asarray(x, dtype)

  def run(norm, **arguments):
    def loss(params, x):
      variables = {"params": params, "batch_stats": _statistics()}
      y, new = norm.apply(variables, x, mutable=["batch_stats"], **arguments)
      y = y.astype(jnp.float32)
      return jnp.mean(weights * jnp.square(y)), (y, new["batch_stats"])

    gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    return jax.jit(gradient)(params, x)

  (value, (y, new)), gradients = run(BatchNorm(dtype=dtype), train=True)
  reference = nn.BatchNorm(
      False, momentum=0.9, dtype=dtype, use_fast_variance=False
  )
  (expected, (expected_y, expected_new)), wanted = run(reference)
  rounding = 1e-5 if dtype == "float32" else 2e-2
  close = functools.partial(np.testing.assert_allclose, rtol=TOLERANCE)
  close(value, expected, rtol=rounding)
  close(y, expected_y, rtol=rounding, atol=rounding)
  jax.tree.map(close, new, expected_new)  # In float32 with either type.
  jax.tree.map(
      lambda a, b: close(
          a.astype("f"), b.astype("f"), rtol=rounding, atol=rounding / 10
      ),
      gradients,
      wanted,
  )


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_groups_in_half_precision_do_not_depend_on_the_devices(groups):
  params, x, weights = _inputs()
  x = jnp.asarray(x, jnp.bfloat16)
  run = lambda axis_name: functools.partial(
      _evaluate, groups=groups, axis_name=axis_name
  )
  split = lambda x: x.reshape(4, -1, *x.shape[1:])
  mapped = jax.vmap(run("shards"), in_axes=(None, 0, 0), axis_name="shards")
  value, y, new, for_params, for_x = jax.jit(mapped)(
      params, split(x), split(weights)
  )
  expected = jax.jit(run(None))(params, x, weights)
  close = lambda a, b: np.testing.assert_allclose(
      a.astype("f"), b.astype("f"), rtol=1e-2, atol=1e-3
  )
  close(y.reshape(x.shape), expected[1])
  close(for_x.reshape(x.shape) / 4, expected[4])
  for device in range(4):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a[device], b, rtol=TOLERANCE, atol=TOLERANCE
        ),
        (value, new, for_params),
        (expected[0], expected[2], expected[3]),
    )


def _variance(x, running_mean):
  """The variance of a batch of one channel, as a training step computes it."""
  norm = BatchNorm(momentum=0.0, dtype=x.dtype)
  variables = norm.init(jax.random.key(0), x, train=True)
  variables["batch_stats"]["mean"] = jnp.full(1, running_mean)
  apply = functools.partial(norm.apply, train=True, mutable=["batch_stats"])
  return jax.jit(apply)(variables, x)[1]["batch_stats"]["var"][0]


def test_half_precision_sums_around_the_running_mean():
  random = np.random.default_rng(0)
  x = jnp.asarray(random.normal(1000, 4, (4096, 1)), jnp.bfloat16)
  exact = np.asarray(x, "d").var()
  np.testing.assert_allclose(_variance(x, 1000.0), exact, rtol=1e-6)
  # From afar the sums are less exact, which shows that they are those.
  assert abs(_variance(x, 0.0) / exact - 1) > 1e-5


@pytest.mark.parametrize("mean", [1.0, 10.0, 100.0])
def test_a_far_running_mean_costs_less_than_rounding_does(mean):
  random = np.random.default_rng(0)
  values = random.normal(mean, 1.0, (4096, 1))
  x = jnp.asarray(values, jnp.bfloat16)
  rounded = np.asarray(x, "d").var()
  error = abs(_variance(x, 0.0) - rounded)
  assert error <= max(abs(rounded - values.var()), 1e-5)


def test_constant_features_become_the_bias():
  params, x, weights = _inputs()
  evaluate = jax.jit(functools.partial(_evaluate, groups=2, axis_name=None))
  value, y, _, _, for_x = evaluate(params, np.full_like(x, 1000.1), weights)
  assert np.isfinite(value) and np.all(np.isfinite(for_x))
  # What float32 loses of 1000.1, over the root of epsilon.
  bias = np.broadcast_to(params["bias"], y.shape)
  np.testing.assert_allclose(y, bias, atol=0.1)


@pytest.mark.parametrize("groups, devices", [(1, 1), (4, 1), (1, 4), (2, 4)])
def test_a_large_mean_does_not_swallow_the_variance(groups, devices):
  random = np.random.default_rng(0)
  x = random.normal(2000.0, 1.0, (32, SIDE, SIDE, FEATURES)).astype("f")
  params = {"scale": np.ones(FEATURES, "f"), "bias": np.zeros(FEATURES, "f")}
  axis_name = None if devices == 1 else "shards"
  run = functools.partial(_evaluate, groups=groups, axis_name=axis_name)
  weights = random.normal(size=x.shape).astype("f")
  if axis_name:
    split = lambda x: x.reshape(devices, -1, *x.shape[1:])
    run = jax.vmap(run, in_axes=(None, 0, 0), axis_name=axis_name)
    _, y, _, _, for_x = run(params, split(x), split(weights))
    y, for_x = y.reshape(x.shape), for_x.reshape(x.shape) / devices
  else:
    _, y, _, _, for_x = run(params, x, weights)
  np.testing.assert_allclose(y, _numpy(params, x, groups)[0], atol=1e-3)
  # The gradient is that of the same batch around 0.
  centred = functools.partial(_evaluate, groups=groups, axis_name=None)
  expected = centred(params, x - np.float32(2000.0), weights)[4]
  np.testing.assert_allclose(for_x, expected, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("groups", [1, 2])
def test_views_are_normalised_as_if_alone(groups, devices):
  params, x, weights = _inputs()
  views = np.stack([x, 3 * x[::-1] + 1])  # [V, B, ...]
  variables = {"params": params, "batch_stats": _statistics()}
  norm = BatchNorm(groups, "shards")

  def run(count, x):
    y, new = norm.apply(
        variables, x, train=True, views=count, mutable=["batch_stats"]
    )
    return y, parallel.pmean(new["batch_stats"], "shards")

  mapped = lambda count: jax.jit(
      jax.vmap(functools.partial(run, count), axis_name="shards")
  )
  # [devices, V * B / devices, ...], view after view.
  folded = views.reshape(2, devices, -1, *x.shape[1:]).swapaxes(0, 1)
  y, new = mapped(2)(folded.reshape(devices, -1, *x.shape[1:]))
  y = y.reshape(folded.shape).swapaxes(0, 1).reshape(views.shape)
  alone = [mapped(1)(view.reshape(devices, -1, *x.shape[1:])) for view in views]
  for actual, (expected, _) in zip(y, alone):
    np.testing.assert_allclose(
        actual, expected.reshape(x.shape), rtol=1e-4, atol=1e-5
    )
  mean = jax.tree.map(lambda a, b: (a + b) / 2, alone[0][1], alone[1][1])
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=TOLERANCE), new, mean
  )


@pytest.mark.parametrize("kept", ["scale", "bias"])
def test_scale_and_shift_are_apart(kept):
  params, x, _ = _inputs()
  norm = BatchNorm(use_scale=kept == "scale", use_bias=kept == "bias")
  variables = norm.init(jax.random.key(0), x, train=True)
  assert set(variables["params"]) == {kept}
  values = {"params": {kept: params[kept]}, "batch_stats": _statistics()}
  y, _ = norm.apply(values, x, train=True, mutable=["batch_stats"])
  neutral = {"scale": np.ones(FEATURES), "bias": np.zeros(FEATURES)}
  expected = _numpy({**neutral, kept: params[kept]}, x, 1)[0]
  np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [3, 12])
def test_groups_that_do_not_fit_the_devices_are_refused(groups):
  params, x, weights = _inputs()
  evaluate = functools.partial(_evaluate, groups=groups, axis_name="shards")
  with pytest.raises(ValueError, match=f"{groups} BatchNorm groups and 8 dev"):
    jax.vmap(evaluate, in_axes=(None, 0, 0), axis_name="shards")(
        params,
        x.reshape(8, -1, *x.shape[1:]),
        weights.reshape(8, -1, *x.shape[1:]),
    )


def test_a_batch_that_groups_do_not_divide_is_refused():
  params, x, weights = _inputs()
  with pytest.raises(ValueError, match="batch of 15 images .* 8 BatchNorm"):
    _evaluate(params, x[:15], weights[:15], groups=8, axis_name=None)


def _normalise(x, **arguments):
  norm = BatchNorm(**arguments)
  variables = norm.init(jax.random.key(0), x, train=True)
  return norm.apply(variables, x, train=True, mutable=["batch_stats"])[0]


def test_a_group_of_a_single_value_is_refused():
  """It would become the bias, without gradient."""
  x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
  with pytest.raises(ValueError, match="single image.*of the 4 groups at leas"):
    _normalise(x, groups=4)
  with pytest.raises(ValueError, match="single image.*of the 1 groups at leas"):
    _normalise(x[:1, None, None])
  mapped = lambda groups: jax.vmap(
      lambda x: _normalise(x, groups=groups, axis_name="shards"),
      axis_name="shards",
  )(x[:, None])
  with pytest.raises(ValueError, match="single image"):
    mapped(4)
  assert np.std(mapped(2)) > 0.5  # Two devices share a group.
  maps = np.concatenate([x, x + 1], axis=1).reshape(4, 1, 2, 3)
  assert np.std(_normalise(maps, groups=4)) > 0.5  # A map has more values.
