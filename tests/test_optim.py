"""Optimizers and schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jssl import optim


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


def test_sgd_follows_a_schedule_after_the_momentum():
  schedule = lambda step: jnp.where(step < 1, 1.0, 0.1)
  optimizer = optim.sgd(schedule, momentum=0.5)
  state = optimizer.init(jnp.zeros(()))
  moves = []
  for _ in range(2):
    move, state = optimizer.update(jnp.ones(()), state, jnp.zeros(()))
    moves.append(float(move))
  # The velocity does not remember the rate: 1, then 0.1 * (0.5 + 1).
  np.testing.assert_allclose(moves, [-1.0, -0.15], rtol=1e-6)


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
      0.03, epochs=200, steps_per_epoch=5, drop_epochs=(120, 160)
  )
  np.testing.assert_allclose(schedule(step), expected, rtol=1e-5)


def test_schedules_agree_when_traced():
  for schedule in (
      optim.cosine(0.4, epochs=10, steps_per_epoch=10, warmup_epochs=2),
      optim.staircase(0.4, epochs=9, steps_per_epoch=3, drop_epochs=(5,)),
  ):
    steps = jnp.arange(0, 30, 5)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(schedule))(steps),
        [schedule(int(step)) for step in steps],
        rtol=1e-6,
    )
