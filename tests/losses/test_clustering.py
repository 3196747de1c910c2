"""SwAV and DINO."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import losses

TOLERANCE = 1e-5  # Of float32 sums in another order.

SWAV = {"temperature": 0.1, "epsilon": 0.05, "iterations": 3}
DINO = {"student_temperature": 0.1, "teacher_temperature": 0.05}

sinkhorn = jax.jit(losses.sinkhorn, static_argnames=("epsilon", "iterations"))
swav = jax.jit(
    jax.value_and_grad(losses.swav, argnums=(0, 1)),
    static_argnames=("temperature", "epsilon", "iterations"),
)
dino = jax.jit(jax.value_and_grad(losses.dino, argnums=(0, 1, 2)))


def _scores(views=2, batch=8, prototypes=5, seed=0):
  random = np.random.default_rng(seed)
  scores = random.uniform(-1, 1, size=(views, batch, prototypes))
  return scores.astype(np.float32)


def _softmax(x):
  x = np.exp(x - x.max(axis=-1, keepdims=True))
  return x / x.sum(axis=-1, keepdims=True)


def _slow_prediction(targets, scores, temperature):
  """Cross-entropy and its gradient, pair of views by pair, in float64."""
  targets, scores = (x.astype(np.float64) for x in (targets, scores))
  probabilities = _softmax(scores / temperature)
  total, gradient, pairs = 0.0, np.zeros_like(scores), 0
  for t, target in enumerate(targets):
    for v, probability in enumerate(probabilities):
      if t != v:
        total -= np.sum(target * np.log(probability), axis=-1).mean()
        gradient[v] += (probability - target) / temperature / len(target)
        pairs += 1
  return total / pairs, gradient / pairs


def test_sinkhorn_agrees_with_the_reference(golden):
  data = golden("sinkhorn")
  assignment = sinkhorn(
      data["scores"],
      epsilon=float(data["epsilon"]),
      iterations=int(data["iterations"]),
  )
  np.testing.assert_allclose(assignment, data["assignment"], rtol=TOLERANCE)


@pytest.mark.slow
def test_sinkhorn_gives_equal_shares():
  scores = _scores()[0]
  few, many = (sinkhorn(scores, epsilon=0.5, iterations=n) for n in (1, 50))
  for assignment in (few, many):
    np.testing.assert_allclose(assignment.sum(axis=1), 1.0, rtol=TOLERANCE)
  np.testing.assert_allclose(many.sum(axis=0), 8 / 5, rtol=TOLERANCE)
  assert np.ptp(few.sum(axis=0)) > 1e-3


def test_sinkhorn_of_equal_scores_is_uniform():
  assignment = sinkhorn(jnp.ones((8, 5)), epsilon=0.05, iterations=3)
  np.testing.assert_allclose(assignment, 0.2, rtol=TOLERANCE)


def test_sinkhorn_is_finite_where_exponentials_underflow():
  scores = 100 * _scores()[0]
  scores[0] -= 1000.0  # Its exponentials are 0 next to the others'.
  scores[:, 1] -= 1000.0
  assignment = sinkhorn(scores, epsilon=0.05, iterations=3)
  np.testing.assert_allclose(assignment.sum(axis=1), 1.0, rtol=TOLERANCE)


def test_sinkhorn_has_no_gradient():
  square = lambda x: jnp.sum(
      losses.sinkhorn(x, epsilon=0.05, iterations=3) ** 2
  )
  np.testing.assert_array_equal(jax.grad(square)(_scores()[0]), 0.0)


@pytest.mark.parametrize("devices", [2, 8])
def test_sinkhorn_of_shards_is_that_of_the_global_batch(devices):
  scores = _scores()[0]
  run = lambda x, axis_name: losses.sinkhorn(
      x, epsilon=0.05, iterations=3, axis_name=axis_name
  )
  shards = jax.vmap(lambda x: run(x, "shards"), axis_name="shards")(
      scores.reshape(devices, -1, 5)
  )
  np.testing.assert_allclose(
      shards.reshape(8, 5), run(scores, None), rtol=TOLERANCE, atol=1e-7
  )


def test_sinkhorn_refuses_a_single_image():
  with pytest.raises(ValueError, match=r"batch of 1 image.*at least 2"):
    losses.sinkhorn(np.ones((1, 5)), epsilon=0.5, iterations=3)


def test_sinkhorn_refuses_what_does_not_fit():
  with pytest.raises(ValueError, match=r"\(2, 8, 5\); expected \[B, P\]"):
    losses.sinkhorn(_scores(), epsilon=0.05, iterations=3)
  with pytest.raises(ValueError, match="epsilon is 0; expected .* above 0"):
    losses.sinkhorn(_scores()[0], epsilon=0, iterations=3)
  with pytest.raises(ValueError, match="iterations is 0; expected 1"):
    losses.sinkhorn(_scores()[0], epsilon=0.05, iterations=0)


def test_swav_agrees_with_the_reference(golden):
  data = golden("swav")
  value, (gradient, _) = swav(
      data["high"],
      data["low"],
      temperature=float(data["temperature"]),
      epsilon=float(data["epsilon"]),
      iterations=int(data["iterations"]),
  )
  np.testing.assert_allclose(value, data["loss"][0], rtol=TOLERANCE)
  np.testing.assert_allclose(
      gradient, data["grad_high"], rtol=TOLERANCE, atol=1e-7
  )


@pytest.mark.parametrize("small", [0, 3])
def test_swav_predicts_each_code_from_the_other_views(small):
  high, low = _scores(2), _scores(small, seed=1)
  value, gradients = swav(high, low, **SWAV)
  codes = np.stack(
      [sinkhorn(scores, epsilon=0.05, iterations=3) for scores in high]
  )
  expected, gradient = _slow_prediction(
      codes, np.concatenate([high, low]), temperature=0.1
  )
  np.testing.assert_allclose(value, expected, rtol=TOLERANCE)
  np.testing.assert_allclose(gradients[0], gradient[:2], atol=1e-6)
  np.testing.assert_allclose(gradients[1], gradient[2:], atol=1e-6)


def test_codes_get_no_gradient():
  high = _scores()
  gradient = jax.grad(losses.swapped_prediction)(
      _softmax(high), high, high[:0], temperature=0.1
  )
  np.testing.assert_array_equal(gradient, 0.0)


def test_swav_of_constant_scores_is_chance():
  same = jnp.ones((2, 8, 5))
  value, _ = swav(same, same, **SWAV)
  np.testing.assert_allclose(value, np.log(5), rtol=TOLERANCE)


def test_swav_takes_zeros_and_bfloat16():
  high, low = (
      jnp.asarray(_scores(seed=seed), jnp.bfloat16).at[:, 0].set(0.0)
      for seed in (0, 1)
  )
  value, gradients = swav(high, low, **SWAV)
  assert value.dtype == jnp.float32
  assert all(np.all(np.isfinite(x.astype(float))) for x in gradients)
  exact, _ = swav(high.astype(jnp.float32), low.astype(jnp.float32), **SWAV)
  np.testing.assert_allclose(value, exact, rtol=1e-6)


def test_swav_refuses_what_does_not_fit():
  high, low = _scores(), _scores(3)
  with pytest.raises(ValueError, match=r"\(2, 8, 5\) and low \(3, 7, 5\)"):
    losses.swav(high, low[:, 1:], **SWAV)
  with pytest.raises(ValueError, match=r"codes \(1, 8, 5\) and high \(2, 8,"):
    losses.swapped_prediction(high[:1], high, low, temperature=0.1)
  with pytest.raises(ValueError, match="temperature is 0; expected"):
    losses.swav(high, low, **SWAV | {"temperature": 0})
  with pytest.raises(ValueError, match=r"are 1 view\(s\).* at least 2"):
    losses.swav(high[:1], low[:0], **SWAV)


def test_dino_agrees_with_the_reference(golden):
  data = golden("dino")
  warm = np.linspace(
      data["warmup_teacher_temp"],
      data["teacher_temp"],
      data["warmup_epochs"],
  )
  center = jnp.zeros(data["center_after"].shape[-1])
  for call, epoch in enumerate(data["epoch"]):
    value, _ = dino(
        data["student"][call],
        data["teacher"][call],
        center,
        student_temperature=float(data["student_temp"]),
        teacher_temperature=warm[min(epoch, len(warm) - 1)],
    )
    center = losses.update_center(
        center, data["teacher"][call], momentum=float(data["center_momentum"])
    )
    np.testing.assert_allclose(value, data["loss"][call], rtol=TOLERANCE)
    np.testing.assert_allclose(
        center, data["center_after"][call], rtol=TOLERANCE, atol=1e-7
    )


def test_dino_is_the_equation_of_the_paper():
  student, teacher = _scores(4), _scores(2, seed=1)
  center = _scores(1, 1, seed=2)[0, 0]
  value, gradients = dino(student, teacher, center, **DINO)
  targets = _softmax((teacher.astype(np.float64) - center) / 0.05)
  expected, gradient = _slow_prediction(targets, student, temperature=0.1)
  np.testing.assert_allclose(value, expected, rtol=TOLERANCE)
  np.testing.assert_allclose(gradients[0], gradient, atol=1e-6)
  # Neither the teacher nor the centre learns.
  np.testing.assert_array_equal(gradients[1], 0.0)
  np.testing.assert_array_equal(gradients[2], 0.0)


def test_dino_of_constant_scores_is_chance():
  same = jnp.ones((2, 8, 5))
  value, _ = dino(same, same, jnp.ones(5), **DINO)
  np.testing.assert_allclose(value, np.log(5), rtol=TOLERANCE)


def test_dino_computes_bfloat16_in_float32():
  student, teacher = (
      jnp.asarray(_scores(seed=seed), jnp.bfloat16) for seed in (0, 1)
  )
  value, _ = dino(student, teacher, jnp.zeros(5), **DINO)
  assert value.dtype == jnp.float32
  exact, _ = dino(
      student.astype(jnp.float32),
      teacher.astype(jnp.float32),
      jnp.zeros(5),
      **DINO,
  )
  np.testing.assert_allclose(value, exact, rtol=1e-6)


def test_dino_refuses_what_does_not_fit():
  student, teacher, center = _scores(4), _scores(2), np.zeros(5)
  with pytest.raises(ValueError, match=r"teacher \(2, 7, 5\) and student \(4"):
    losses.dino(student, teacher[:, 1:], center, **DINO)
  with pytest.raises(ValueError, match=r"student \(1, 8, 5\) has fewer views"):
    losses.dino(student[:1], teacher, center, **DINO)
  with pytest.raises(ValueError, match=r"center \(4,\) and teacher \(2, 8, 5"):
    losses.dino(student, teacher, center[:-1], **DINO)
  for name in DINO:
    with pytest.raises(ValueError, match=f"{name} is 0; expected"):
      losses.dino(student, teacher, center, **DINO | {name: 0})


@pytest.mark.parametrize("devices", [2, 8])
def test_the_centre_of_shards_is_that_of_the_global_batch(devices):
  teacher, center = _scores(), _scores(1, 1, seed=1)[0, 0]
  shards = np.stack(np.split(teacher, devices, axis=1))
  update = lambda x: losses.update_center(
      center, x, momentum=0.9, axis_name="shards"
  )
  actual = jax.vmap(update, axis_name="shards")(shards)
  expected = 0.9 * center + 0.1 * teacher.mean(axis=(0, 1))
  for row in actual:
    np.testing.assert_allclose(row, expected, rtol=TOLERANCE, atol=1e-7)


def test_the_centre_refuses_what_does_not_fit():
  with pytest.raises(ValueError, match=r"center \(4,\) and teacher \(2, 8, 5"):
    losses.update_center(np.zeros(4), _scores(), momentum=0.9)
  with pytest.raises(ValueError, match=r"teacher is \(8, 5\); expected"):
    losses.update_center(np.zeros(5), _scores()[0], momentum=0.9)
  with pytest.raises(ValueError, match=r"momentum is 1.5; .* in \[0, 1\]"):
    losses.update_center(np.zeros(5), _scores(), momentum=1.5)
