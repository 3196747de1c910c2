"""Optimizers and schedules."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jssl import optim
from jssl.nets import ViT
import tiny

GOLDEN = pathlib.Path(__file__).parent / "golden"

each_optimizer = pytest.mark.parametrize("name", optim.OPTIMIZERS)


def _follow(optimizer, params, gradients):
  """The parameters after each of the gradients, and the last state."""
  state = optimizer.init(params)
  update = jax.jit(optimizer.update)
  trajectory = []
  for gradient in gradients:
    updates, state = update(gradient, state, params)
    params = optax.apply_updates(params, updates)
    trajectory.append(params)
  # What a step returns must be able to enter the same compiled step.
  assert update._cache_size() == 1
  return trajectory, state


def _tree(seed):
  """One parameter of each number of dimensions, the last learned positions."""
  random = np.random.default_rng(seed)
  shapes = {"s": (), "b": (3,), "w": (4, 3), "p": (1, 5, 3)}
  return {
      name: jnp.asarray(random.normal(size=shape), jnp.float32)
      for name, shape in shapes.items()
  }


def test_sgd_is_the_formula_of_the_papers_code():
  """Four steps of PyTorch's SGD: decay in the gradient, then momentum."""
  rate, momentum, decay = 0.1, 0.9, 0.01
  random = np.random.default_rng(0)
  gradients = random.normal(size=(4, 3, 2)).astype(np.float32)
  start = random.normal(size=(3, 2)).astype(np.float32)

  optimizer = optim.sgd(rate, momentum=momentum, weight_decay=decay)
  params = {"w": jnp.asarray(start)}
  state = optimizer.init(params)
  expected, velocity = start.astype(np.float64), 0.0
  for gradient in gradients:
    updates, state = optimizer.update({"w": gradient}, state, params)
    params = optax.apply_updates(params, updates)
    velocity = momentum * velocity + (gradient + decay * expected)
    expected = expected - rate * velocity
    np.testing.assert_allclose(params["w"], expected, rtol=1e-5, atol=1e-6)


def test_sgd_applies_the_learning_rate_after_the_momentum():
  schedule = lambda step: jnp.where(step < 1, 1.0, 0.1)
  optimizer = optim.sgd(schedule, momentum=0.5)
  state = optimizer.init(jnp.zeros(()))
  moves = []
  for _ in range(2):
    move, state = optimizer.update(jnp.ones(()), state, jnp.zeros(()))
    moves.append(float(move))
  # The velocity does not remember the rate: 1, then 0.1 * (0.5 + 1).
  np.testing.assert_allclose(moves, [-1.0, -0.15], rtol=1e-6)


def test_lars_agrees_with_the_code_of_moco_v3():
  data = np.load(GOLDEN / "lars.npz")
  optimizer = optim.lars(
      float(data["learning_rate"]),
      weight_decay=float(data["weight_decay"]),
      momentum=float(data["momentum"]),
      trust_coefficient=float(data["trust_coefficient"]),
  )
  gradients = [{"w": w, "b": b} for w, b in zip(data["grad_w"], data["grad_b"])]
  params = {name: jnp.asarray(data[name]) for name in "wb"}
  trajectory, _ = _follow(optimizer, params, gradients)
  for step, after in enumerate(trajectory):
    for name in "wb":
      expected = data[f"{name}_after"][step]
      np.testing.assert_allclose(after[name], expected, rtol=1e-5, atol=1e-5)
      # A step of the matrix is hardly longer than that tolerance.
      moved = after[name] - data[name]
      np.testing.assert_allclose(
          moved, expected - data[name], rtol=1e-3, atol=1e-6
      )


def test_lars_applies_the_learning_rate_after_the_momentum():
  """Against NumPy, both the rate and the decay functions of the step."""
  rates, decays = np.array([1.0, 0.1, 0.3]), np.array([0.5, 0.0, 0.2])
  optimizer = optim.lars(
      lambda step: jnp.asarray(rates)[step],
      weight_decay=lambda step: jnp.asarray(decays)[step],
      momentum=0.5,
      trust_coefficient=0.1,
      vector_scale=0.25,
  )
  params, gradients = _tree(0), [_tree(seed) for seed in (1, 2, 3)]
  trajectory, _ = _follow(optimizer, params, gradients)
  for name, start in params.items():
    expected, velocity = np.asarray(start, np.float64), 0.0
    for step, gradient in enumerate(gradients):
      move = np.asarray(gradient[name], np.float64)
      if expected.ndim > 1:
        move = move + decays[step] * expected
        move *= 0.1 * np.linalg.norm(expected) / np.linalg.norm(move)
      else:
        move *= 0.25
      velocity = 0.5 * velocity + move
      expected = expected - rates[step] * velocity
      np.testing.assert_allclose(
          trajectory[step][name], expected, rtol=1e-5, atol=1e-6
      )


def test_lars_moves_a_matrix_of_zeros():
  params = {"w": jnp.zeros((2, 2))}
  (after,), _ = _follow(optim.lars(0.1), params, [{"w": jnp.ones((2, 2))}])
  np.testing.assert_allclose(after["w"], -0.1, rtol=1e-6)
  (after,), _ = _follow(optim.lars(0.1), {"w": jnp.ones((2, 2))}, [params])
  np.testing.assert_allclose(after["w"], 1.0)


@pytest.mark.parametrize("scheduled", [False, True])
def test_adamw_is_the_formula_of_the_paper(scheduled):
  rate, b1, b2 = 0.1, 0.8, 0.95
  decays = np.array([0.04, 0.1, 0.2, 0.4] if scheduled else [0.3] * 4)
  optimizer = optim.adamw(
      rate,
      weight_decay=(lambda step: jnp.asarray(decays)[step])
      if scheduled
      else 0.3,
      b1=b1,
      b2=b2,
  )
  params, gradients = _tree(0), [_tree(seed) for seed in range(1, 5)]
  trajectory, _ = _follow(optimizer, params, gradients)
  for name, start in params.items():
    expected = np.asarray(start, np.float64)
    mean, square = np.zeros_like(expected), np.zeros_like(expected)
    for step, gradient in enumerate(gradients):
      gradient = np.asarray(gradient[name], np.float64)
      mean = b1 * mean + (1 - b1) * gradient
      square = b2 * square + (1 - b2) * gradient**2
      move = mean / (1 - b1 ** (step + 1))
      move = move / (np.sqrt(square / (1 - b2 ** (step + 1))) + 1e-8)
      if name in "wp":
        move = move + decays[step] * expected
      expected = expected - rate * move
      np.testing.assert_allclose(
          trajectory[step][name], expected, rtol=1e-4, atol=1e-6
      )


@pytest.mark.parametrize(
    "decay", [0.1, lambda step: 0.1, lambda step: 0.1 + 0 * step]
)
# LARC leaves alone what has no gradient.
@pytest.mark.parametrize("name", sorted(optim.OPTIMIZERS.keys() - {"larc"}))
def test_biases_and_norms_decay_in_sgd_only(name, decay):
  params = _tree(0)
  zeros = jax.tree.map(jnp.zeros_like, params)
  optimizer = optim.OPTIMIZERS[name](0.5, weight_decay=decay)
  (after,), _ = _follow(optimizer, params, [zeros])
  for key, value in params.items():
    if name == "sgd" or key in "wp":
      assert not np.allclose(after[key], value, rtol=1e-5), key
    else:
      np.testing.assert_array_equal(after[key], value, key)


@each_optimizer
def test_the_global_norm_is_clipped_before_all_else(name):
  """A gradient is as good as the same one at the limit's length."""
  make = optim.OPTIMIZERS[name]
  params, long = _tree(0), _tree(1)
  norm = optax.tree.norm(long)
  short = jax.tree.map(lambda x: x * 0.5 / norm, long)
  clipped = make(0.1, weight_decay=0.1, clip_norm=0.5)
  free = make(0.1, weight_decay=0.1)
  tiny = jax.tree.map(lambda x: 1e-2 * x, short)
  (*_, one), _ = _follow(clipped, params, [long, tiny])
  (*_, two), _ = _follow(free, params, [short, tiny])
  (*_, three), _ = _follow(free, params, [long, tiny])
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-5), one, two)
  one, three = (after["b"] - params["b"] for after in (one, three))
  assert not np.allclose(one, three, rtol=1e-3)


@pytest.mark.parametrize(
    "name,key,value",
    [
        *((n, "weight_decay", -0.1) for n in optim.OPTIMIZERS),
        *((n, "clip_norm", -1.0) for n in optim.OPTIMIZERS),
        *((n, "learning_rate", -0.5) for n in optim.OPTIMIZERS),
        ("sgd", "momentum", 1.0),
        ("lars", "momentum", -0.1),
        ("lars", "trust_coefficient", float("nan")),
        ("lars", "vector_scale", -1.0),
        ("larc", "momentum", 1.0),
        ("larc", "trust_coefficient", -0.1),
        ("sgd", "learning_rate", float("inf")),
        ("adamw", "weight_decay", float("nan")),
        ("adamw", "b1", 1.5),
        ("adamw", "b2", -0.5),
    ],
)
def test_a_value_out_of_its_range_is_refused(name, key, value):
  arguments = {"learning_rate": 0.1, key: value}
  with pytest.raises(ValueError, match=f"{key} is {value}; expected"):
    optim.OPTIMIZERS[name](arguments.pop("learning_rate"), **arguments)


@pytest.mark.parametrize(
    "name,key",
    [
        *((n, "peak") for n in optim.SCHEDULES),
        ("cosine", "start"),
        ("cosine", "end"),
        ("linear", "start"),
        ("staircase", "factor"),
        ("staircase", "warmup_epochs"),
    ],
)
@pytest.mark.parametrize("value", [-1e-6, float("nan"), float("inf")])
def test_a_schedule_of_negative_values_is_refused(name, key, value):
  arguments = {"peak": 0.1, "epochs": 10, "steps_per_epoch": 2}
  if name == "linear":
    arguments |= {"start": 0.0, "warmup_epochs": 1}
  arguments[key] = value
  with pytest.raises(ValueError, match=f"{key} is {value}; expected"):
    optim.SCHEDULES[name](**arguments)


def test_nesterov_looks_ahead_as_in_pytorch():
  rate, momentum, decay = 0.1, 0.9, 0.01
  optimizer = optim.sgd(
      rate, momentum=momentum, weight_decay=decay, nesterov=True
  )
  params, gradients = _tree(0), [_tree(seed) for seed in (1, 2, 3)]
  trajectory, _ = _follow(optimizer, params, gradients)
  for name, start in params.items():
    expected, velocity = np.asarray(start, np.float64), 0.0
    for step, gradient in enumerate(gradients):
      move = np.asarray(gradient[name], np.float64) + decay * expected
      velocity = momentum * velocity + move
      expected = expected - rate * (move + momentum * velocity)
      np.testing.assert_allclose(
          trajectory[step][name], expected, rtol=1e-5, atol=1e-6
      )


@each_optimizer
def test_gradients_can_be_clipped_per_parameter(name):
  """As in DINO's code: to the limit over the length plus 1e-6, if below 1."""
  limit = 0.5
  scale = {"s": 1e-3, "b": 1.0, "w": 10.0, "p": 0.0}
  long = {key: scale[key] * x for key, x in _tree(1).items()}
  short = {}
  for key, x in long.items():
    share = limit / (np.linalg.norm(np.ravel(x)) + 1e-6)
    short[key] = x * min(share, 1.0)
  make = optim.OPTIMIZERS[name]
  clipped = make(
      0.1, weight_decay=0.1, clip_norm=limit, clip_per_parameter=True
  )
  next_one = jax.tree.map(lambda x: 1e-2 * x, short)
  params = _tree(0)
  (*_, actual), _ = _follow(clipped, params, [long, next_one])
  free = make(0.1, weight_decay=0.1)
  (*_, expected), _ = _follow(free, params, [short, next_one])
  jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, 1e-5), actual, expected
  )
  assert np.all(np.isfinite(actual["p"]))


def test_biases_and_norms_can_decay_in_adamw():
  optimizer = optim.adamw(0.5, weight_decay=0.25, exclude_vectors=False)
  params = _tree(0)
  zeros = jax.tree.map(jnp.zeros_like, params)
  (after,), _ = _follow(optimizer, params, [zeros])
  for key, value in params.items():
    np.testing.assert_allclose(after[key], (1 - 0.5 * 0.25) * value, rtol=1e-5)


@pytest.mark.parametrize("decay", [0.3, lambda step: 0.3 / (1 + step)])
def test_larc_is_the_formula_of_apex(decay):
  """Three steps: the ratio has the sum of two norms, not the norm of a sum."""
  rate, momentum, trust = 0.5, 0.9, 0.02
  optimizer = optim.larc(
      rate, weight_decay=decay, momentum=momentum, trust_coefficient=trust
  )
  params, gradients = _tree(0), [_tree(seed) for seed in (1, 2, 3)]
  params["zero"] = jnp.zeros(3)
  for gradient in gradients:
    gradient["zero"] = jnp.arange(3.0)
    gradient["p"] *= 0.0
  trajectory, _ = _follow(optimizer, params, gradients)
  for name, start in params.items():
    expected, velocity = np.asarray(start, np.float64), 0.0
    for step, gradient in enumerate(gradients):
      move = np.asarray(gradient[name], np.float64)
      length, size = (np.linalg.norm(np.ravel(x)) for x in (move, expected))
      now = decay(step) if callable(decay) else decay
      if length and size:
        ratio = trust * size / (length + now * size + 1e-8)
        move = ratio * (move + now * expected)
      velocity = momentum * velocity + move
      expected = expected - rate * velocity
      np.testing.assert_allclose(
          trajectory[step][name], expected, rtol=1e-4, atol=1e-6, err_msg=name
      )
  np.testing.assert_array_equal(trajectory[-1]["p"], params["p"])


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
@each_optimizer
def test_accumulated_steps_are_one_step_of_the_mean_gradient(name, clip_norm):
  schedule = lambda step: 0.1 / (1.0 + step)
  make = lambda: optim.OPTIMIZERS[name](
      schedule, weight_decay=schedule, clip_norm=clip_norm
  )
  params, gradients = _tree(0), [_tree(seed) for seed in range(1, 7)]
  means = [
      jax.tree.map(lambda *x: sum(x) / 3, *gradients[i : i + 3]) for i in (0, 3)
  ]
  small, _ = _follow(optim.accumulate(make(), 3), params, gradients)
  large, _ = _follow(make(), params, means)
  for key in params:
    for step, after in zip((2, 5), large):
      np.testing.assert_allclose(small[step][key], after[key], 1e-5, 1e-6)
    for step, before in zip((0, 1, 3, 4), [params] * 2 + [small[2]] * 2):
      np.testing.assert_array_equal(small[step][key], before[key])


def test_accumulating_one_step_is_the_optimizer_itself():
  optimizer = optim.sgd(0.1)
  assert optim.accumulate(optimizer, 1) is optimizer


@pytest.mark.parametrize("steps", [0, -2, 1.5])
def test_accumulating_less_than_a_step_is_refused(steps):
  with pytest.raises(ValueError, match=f"accumulate_steps is {steps};"):
    optim.accumulate(optim.sgd(0.1), steps)


@pytest.mark.parametrize(
    "step,expected",
    [(0, 0.4), (25, 0.2 * (1 + 0.5**0.5)), (50, 0.2), (100, 0.0), (120, 0.0)],
)
def test_cosine_falls_from_its_peak_to_zero(step, expected):
  schedule = optim.cosine(0.4, epochs=10, steps_per_epoch=10)
  np.testing.assert_allclose(schedule(step), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "step,expected", [(0, 0.0), (10, 0.2), (20, 0.4), (60, 0.2), (100, 0.0)]
)
def test_cosine_after_a_warm_up_ends_at_the_same_step(step, expected):
  schedule = optim.cosine(0.4, epochs=10, steps_per_epoch=10, warmup_epochs=2)
  np.testing.assert_allclose(schedule(step), expected, rtol=1e-5, atol=1e-7)


def test_a_cosine_warm_up_starts_at_its_start():
  schedule = optim.cosine(
      4.8, epochs=10, steps_per_epoch=10, warmup_epochs=2, start=0.3
  )
  for step, value in {0: 0.3, 10: 2.55, 20: 4.8, 60: 2.4, 100: 0.0}.items():
    np.testing.assert_allclose(schedule(step), value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("peak,end", [(0.4, 0.1), (0.04, 0.4), (0.0, 0.4)])
@pytest.mark.parametrize("warmup", [0, 2])
def test_cosine_goes_to_an_end_below_or_above(peak, end, warmup):
  schedule = optim.cosine(
      peak, epochs=10, steps_per_epoch=10, warmup_epochs=warmup, end=end
  )
  first = 10 * warmup
  middle = first + (100 - first) // 4
  quarter = end + (peak - end) * (1 + 0.5**0.5) / 2
  expected = {first: peak, middle: quarter, 100: end, 130: end}
  if warmup:
    expected |= {0: 0.0, first // 2: peak / 2}
  for step, value in expected.items():
    np.testing.assert_allclose(schedule(step), value, rtol=1e-5, atol=1e-7)


def test_a_momentum_ends_at_exactly_one():
  schedule = optim.cosine(0.996, epochs=10, steps_per_epoch=10, end=1.0)
  values = jax.jit(jax.vmap(schedule))(jnp.arange(120))
  assert values[100] == values[119] == 1.0 and values.max() == 1.0
  assert np.all(np.diff(values) >= 0)


@pytest.mark.parametrize("epochs,warmup", [(1, 0.6), (0.4, 0), (10.3, 9.8)])
def test_cosine_takes_parts_of_an_epoch_at_one_step_each(epochs, warmup):
  """As `load_encoder` makes it, to which the length does not matter."""
  schedule = optim.cosine(
      0.4, epochs=epochs, steps_per_epoch=1, warmup_epochs=warmup
  )
  assert np.isfinite(schedule(0)) and np.isfinite(schedule(20))


@pytest.mark.parametrize("warmup", [10, 12, -1])
def test_a_warm_up_that_does_not_fit_is_refused(warmup):
  with pytest.raises(ValueError, match=f"{warmup} epochs .* of 10;"):
    optim.cosine(0.4, epochs=10, steps_per_epoch=10, warmup_epochs=warmup)


@pytest.mark.parametrize(
    "step,expected",
    [(0, 0.03), (599, 0.03), (600, 0.003), (799, 0.003), (800, 0.0003)],
)
def test_staircase_drops_when_its_epochs_begin(step, expected):
  schedule = optim.staircase(
      0.03, epochs=200, steps_per_epoch=5, drops=(0.6, 0.8)
  )
  np.testing.assert_allclose(schedule(step), expected, rtol=1e-5)


@pytest.mark.parametrize("epochs", [10, 100, 200])
def test_staircase_drops_in_a_training_of_any_length(epochs):
  schedule = optim.staircase(1.0, epochs=epochs, steps_per_epoch=10)
  values = [schedule(epochs * 10 * x // 10) for x in (5, 7, 9)]
  np.testing.assert_allclose(values, [1.0, 0.1, 0.01], rtol=1e-5)


@pytest.mark.parametrize("drops", [(120, 160), (0.0,), (0.5, 1.1)])
def test_drops_that_are_not_fractions_are_refused(drops):
  with pytest.raises(ValueError, match="drops is .*; expected fractions"):
    optim.staircase(1.0, epochs=200, steps_per_epoch=10, drops=drops)


def test_staircase_warms_up_from_zero():
  """As `get_lr` of google/revisiting-self-supervised, with a warm-up."""
  schedule = optim.staircase(
      0.1,
      epochs=35,
      steps_per_epoch=10,
      drops=(15 / 35, 25 / 35),
      warmup_epochs=5,
  )
  expected = {0: 0.0, 25: 0.05, 49: 0.098, 50: 0.1, 149: 0.1, 150: 0.01}
  expected |= {249: 0.01, 250: 0.001, 349: 0.001}
  for step, value in expected.items():
    np.testing.assert_allclose(schedule(step), value, rtol=1e-5)


def test_a_staircase_that_drops_in_its_warm_up_is_refused():
  with pytest.raises(
      ValueError, match="warm-up of 20 .* drops .* at epoch 15; lower"
  ):
    optim.staircase(
        0.1,
        epochs=35,
        steps_per_epoch=10,
        drops=(15 / 35, 25 / 35),
        warmup_epochs=20,
    )


@pytest.mark.parametrize(
    "step,expected",
    [(0, 0.04), (30, 0.05), (60, 0.06), (90, 0.07), (91, 0.07), (500, 0.07)],
)
@pytest.mark.parametrize("epochs", [100, 10])
def test_linear_is_a_line_then_constant(step, expected, epochs):
  """Also where the training is shorter than the line."""
  schedule = optim.linear(
      0.07, epochs=epochs, steps_per_epoch=3, start=0.04, warmup_epochs=30
  )
  np.testing.assert_allclose(schedule(step), expected, rtol=1e-5)


@pytest.mark.parametrize("warmup", [0, 0.04])
def test_a_line_of_less_than_half_a_step_is_its_end(warmup):
  schedule = optim.linear(
      0.07, epochs=10, steps_per_epoch=10, start=0.04, warmup_epochs=warmup
  )
  assert schedule(0) == schedule(7) == 0.07


@pytest.mark.parametrize("epochs", [4, 300, 600])
def test_a_line_without_a_length_follows_the_training(epochs):
  schedule = optim.linear(1.0, epochs=epochs, steps_per_epoch=5, start=0.996)
  np.testing.assert_allclose(schedule(0), 0.996, rtol=1e-6)
  np.testing.assert_allclose(schedule(epochs * 5 / 2), 0.998, rtol=1e-6)
  assert schedule(epochs * 5) == 1.0


def test_layer_decay_agrees_with_the_code_of_beit():
  net = ViT(
      8,
      depth=2,
      heads=1,
      patch_size=4,
      image_size=8,
      positions="relative",
      pooling="patches",
      layer_scale=0.1,
      key_bias=False,
  )
  images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
  shapes = jax.eval_shape(net.init, jax.random.key(0), images)
  ones = jax.tree.map(lambda x: jnp.ones(x.shape), shapes["params"])
  decay = optim.layer_decay(0.5)
  scaled, _ = decay.update(ones, decay.init(ones))
  expected = {"patch": 0.125, "class_token": 0.125, "norm": 1.0}
  # The shared table counts as the last layer there.
  expected |= {"relative_positions": 1.0, "class_relative_positions": 1.0}
  expected |= {"block_1": 0.25, "block_2": 0.5}
  assert set(scaled) == set(expected)
  for name, factor in expected.items():
    for x in jax.tree.leaves(scaled[name]):
      np.testing.assert_allclose(x, factor)


@pytest.mark.parametrize("name", ["cosine", "staircase"])
def test_a_staircase_warm_up_starts_at_its_start(name):
  schedule = optim.SCHEDULES[name](
      0.5, epochs=200, steps_per_epoch=4, warmup_epochs=2, start=0.1
  )
  values = [schedule(step) for step in (0, 4, 8)]
  np.testing.assert_allclose(values, [0.1, 0.3, 0.5], rtol=1e-6)


def test_named_parameters_do_not_decay():
  params = {
      "net": {"class_token": jnp.ones((1, 2)), "kernel": jnp.ones((2, 2))},
      "mask_token": jnp.ones((1, 2)),
      "bias": jnp.ones(2),
  }
  still = jax.tree.map(jnp.zeros_like, params)
  for schedule in (0.5, lambda step: 0.5):
    optimizer = optim.adamw(
        0.1, weight_decay=schedule, exclude_names=("class_token",)
    )
    updates, _ = optimizer.update(still, optimizer.init(params), params)
    moved = jax.tree.map(lambda x: float(x.ravel()[0]), updates)
    assert moved["net"]["class_token"] == moved["bias"] == 0
    for x in (moved["net"]["kernel"], moved["mask_token"]):
      assert x == pytest.approx(-0.05)


def test_a_line_of_negative_length_is_refused():
  with pytest.raises(ValueError, match="warmup_epochs is -1; expected"):
    optim.linear(
        0.07, epochs=10, steps_per_epoch=10, start=0.04, warmup_epochs=-1
    )


def test_constant_stays():
  schedule = optim.constant(0.3, epochs=10, steps_per_epoch=10)
  assert schedule(0) == schedule(1000) == 0.3


@pytest.mark.parametrize(
    "name,more",
    [
        ("constant", {}),
        ("cosine", {}),
        ("cosine", {"warmup_epochs": 2}),
        ("cosine", {"warmup_epochs": 2, "end": 0.9}),
        ("linear", {"start": 0.1, "warmup_epochs": 3}),
        ("linear", {"start": 0.1, "warmup_epochs": 0}),
        ("staircase", {"drops": (0.5,)}),
        ("staircase", {"drops": (0.5,), "warmup_epochs": 2}),
    ],
)
@pytest.mark.parametrize("steps_per_epoch", [10, 2.5])
def test_schedules_agree_when_traced(name, more, steps_per_epoch):
  """Of which an epoch may be part of a step, where gradients accumulate."""
  schedule = optim.SCHEDULES[name](
      0.4, epochs=10, steps_per_epoch=steps_per_epoch, **more
  )
  steps = jnp.arange(0, 120, 5)
  np.testing.assert_allclose(
      jax.jit(jax.vmap(schedule))(steps),
      [schedule(int(step)) for step in steps],
      rtol=1e-5,
      atol=1e-7,
  )


def test_named_parameters_keep_the_first_learning_rate():
  schedule = lambda step: jnp.where(step < 1, 1.0, 0.1)
  optimizer = optim.sgd(schedule, momentum=0.0, constant_rate=("predictor",))
  params = {"net": {"w": jnp.zeros(())}, "predictor": {"w": jnp.zeros(())}}
  state = optimizer.init(params)
  for net, predictor in ((-1.0, -1.0), (-0.1, -1.0)):
    gradients = jax.tree.map(jnp.ones_like, params)
    updates, state = optimizer.update(gradients, state, params)
    np.testing.assert_allclose(updates["net"]["w"], net, rtol=1e-6)
    np.testing.assert_allclose(updates["predictor"]["w"], predictor, rtol=1e-6)


def _blocks():
  """Parameters of a transformer of three blocks with a head, in a wrapping."""
  names = ("patch", "class_token", "block_1", "block_2", "block_3", "norm")
  net = {name: {"kernel": jnp.ones(2)} for name in names}
  return {"encoder": {"net": net}, "head": {"kernel": jnp.ones(2)}}


def test_early_blocks_of_a_transformer_get_smaller_updates():
  optimizer = optim.layer_decay(0.5)
  updates, _ = optimizer.update(_blocks(), optimizer.init(_blocks()))
  net = updates["encoder"]["net"]
  scales = {name: float(x["kernel"][0]) for name, x in net.items()}
  assert scales == {
      "patch": 0.5**4,
      "class_token": 0.5**4,
      "block_1": 0.5**3,
      "block_2": 0.5**2,
      "block_3": 0.5,
      "norm": 1.0,
  }
  assert float(updates["head"]["kernel"][0]) == 1.0


def test_layer_decay_does_not_change_a_resnet():
  params = {"stage_1_block_1": {"kernel": jnp.ones(2)}, "stem": jnp.ones(2)}
  optimizer = optim.layer_decay(0.5)
  updates, _ = optimizer.update(params, optimizer.init(params))
  jax.tree.map(np.testing.assert_array_equal, updates, params)


@pytest.mark.slow
def test_layer_decay_finds_the_blocks_of_our_transformers():
  net = tiny.vit()
  params = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
  optimizer = optim.layer_decay(0.5)
  updates, _ = optimizer.update(
      jax.tree.map(jnp.ones_like, params), optimizer.init(params)
  )
  first = lambda x: jnp.ravel(jax.tree.leaves(x)[0])[0]
  scales = {name: first(x) for name, x in updates.items()}
  # Two blocks.
  expected = {"block_1": 0.25, "block_2": 0.5, "norm": 1.0}
  assert {name: float(scales.pop(name)) for name in expected} == expected
  assert set(map(float, scales.values())) == {0.125}, list(scales)


@pytest.mark.parametrize("decay", [0.0, -1.0, 1.1])
def test_a_layer_decay_out_of_range_is_refused(decay):
  with pytest.raises(ValueError, match=f"decay is {decay}; expected"):
    optim.layer_decay(decay)
