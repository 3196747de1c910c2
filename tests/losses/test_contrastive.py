"""Contrastive losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import losses
from jssl.losses import contrastive

TOLERANCE = 1e-5  # Of float32 sums in another order.

value_and_gradients = jax.jit(
    jax.value_and_grad(losses.info_nce, argnums=(0, 1, 2)),
    static_argnames="temperature",
)


def _inputs(batch=16, dim=8, size=24):
  random = np.random.default_rng(0)
  query, key, queue = (
      random.normal(size=(n, dim)).astype(np.float32)
      for n in (batch, batch, size)
  )
  return query, key, queue / np.linalg.norm(queue, axis=-1, keepdims=True)


def _slow_info_nce(query, key, queue, temperature):
  """Equation 1 of the paper, query by query, in float64."""
  total = 0.0
  for q, k in zip(query.astype(np.float64), key.astype(np.float64)):
    q, k = q / np.linalg.norm(q), k / np.linalg.norm(k)
    positive = np.exp(q @ k / temperature)
    negatives = sum(np.exp(q @ n / temperature) for n in queue)
    total -= np.log(positive / (positive + negatives))
  return total / len(query)


def test_info_nce_agrees_with_the_reference(golden):
  data = golden("moco_queue")
  temperature = float(data["temperature"])
  # A step's loss sees the queue before the step's own keys are pushed.
  before = [data["queue_initial"], *data["queue_after"][:-1]]
  for step, queue in enumerate(before):
    value, (gradient, _, _) = value_and_gradients(
        data["q"][step], data["k"][step], queue, temperature=temperature
    )
    np.testing.assert_allclose(value, data["loss"][step], rtol=TOLERANCE)
    np.testing.assert_allclose(
        gradient, data["grad_q"][step], rtol=TOLERANCE, atol=1e-6
    )


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_info_nce_is_the_equation_of_the_paper(temperature):
  inputs = _inputs()
  np.testing.assert_allclose(
      losses.info_nce(*inputs, temperature=temperature),
      _slow_info_nce(*inputs, temperature),
      rtol=TOLERANCE,
  )


def test_info_nce_ignores_the_length_of_embeddings():
  query, key, queue = _inputs()
  np.testing.assert_allclose(
      losses.info_nce(7 * query, 0.1 * key, queue, temperature=0.2),
      losses.info_nce(query, key, queue, temperature=0.2),
      rtol=TOLERANCE,
  )


def test_info_nce_of_constant_embeddings_is_chance():
  same = jnp.ones((4, 8))
  queue = jnp.full((24, 8), 8**-0.5)
  loss = losses.info_nce(same, same, queue, temperature=0.07)
  np.testing.assert_allclose(loss, np.log(1 + 24), rtol=TOLERANCE)


def test_zero_vectors_give_finite_values_and_no_gradient():
  query, key, queue = _inputs()
  query[0], key[1] = 0.0, 0.0
  value, gradients = value_and_gradients(query, key, queue, temperature=0.07)
  assert np.isfinite(value)
  # Bounded as for other vectors: 1 / 1e-12 would throw the encoder away.
  for gradient in gradients:
    assert np.all(np.abs(gradient) < 10)
  np.testing.assert_array_equal(gradients[0][0], 0.0)
  np.testing.assert_array_equal(gradients[1][1], 0.0)


def test_bfloat16_embeddings_are_computed_in_float32():
  inputs = [jnp.asarray(x, jnp.bfloat16) for x in _inputs()]
  loss = losses.info_nce(*inputs, temperature=0.07)
  assert loss.dtype == jnp.float32
  exact = losses.info_nce(
      *[x.astype(jnp.float32) for x in inputs], temperature=0.07
  )
  np.testing.assert_allclose(loss, exact, rtol=1e-6)


@pytest.mark.parametrize("temperature", [0, -0.1])
def test_a_temperature_not_above_zero_is_refused(temperature):
  with pytest.raises(ValueError, match=f"{temperature}; expected .* above 0"):
    losses.info_nce(*_inputs(), temperature=temperature)


def test_a_traced_temperature_is_accepted():
  inputs = _inputs()
  traced = jax.jit(lambda t: losses.info_nce(*inputs, temperature=t))(0.2)
  np.testing.assert_allclose(
      traced, losses.info_nce(*inputs, temperature=0.2), rtol=TOLERANCE
  )


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_shapes_that_do_not_fit_are_refused(bad):
  inputs = list(_inputs())
  inputs[bad] = inputs[bad][:, :-1]
  with pytest.raises(ValueError, match=r"\(16, 7\)|\(24, 7\)"):
    losses.info_nce(*inputs, temperature=0.1)


def test_the_first_logit_is_the_positive():
  query, key, queue = _inputs()
  logits = contrastive.info_nce_logits(query, 2 * query, queue, temperature=0.5)
  assert logits.shape == (16, 25)
  np.testing.assert_allclose(logits[:, 0], 1 / 0.5, rtol=TOLERANCE)


@pytest.mark.parametrize("devices", [2, 8])
def test_shards_equal_the_global_batch(devices):
  query, key, queue = _inputs()

  def shard(query, key, queue):
    def loss(query, key, queue):
      value = losses.info_nce(query, key, queue, temperature=0.2)
      return jax.lax.pmean(value, "shards")

    value, gradients = jax.value_and_grad(loss, argnums=(0, 1, 2))(
        query, key, queue
    )
    return value, gradients[:2], jax.lax.pmean(gradients[2], "shards")

  split = lambda x: x.reshape(devices, -1, x.shape[-1])
  mapped = jax.jit(jax.vmap(shard, (0, 0, None), axis_name="shards"))
  value, own, queue_gradient = mapped(split(query), split(key), queue)
  expected, gradients = value_and_gradients(query, key, queue, temperature=0.2)
  np.testing.assert_allclose(value, np.full(devices, expected), rtol=TOLERANCE)
  # A shard's own rows weigh 1 / N in the global mean.
  for actual, gradient in zip(own, gradients):
    np.testing.assert_allclose(
        actual.reshape(gradient.shape) / devices, gradient, atol=1e-6
    )
  for row in queue_gradient:
    np.testing.assert_allclose(row, gradients[2], atol=1e-6)


value_and_batch_gradients = jax.jit(
    jax.value_and_grad(losses.batch_info_nce, argnums=(0, 1)),
    static_argnames="temperature",
)


def _slow_batch_info_nce(query, key, temperature):
  """Equation 1 of MoCo v3's paper, query by query, in float64."""
  query, key = (
      x / np.linalg.norm(x, axis=-1, keepdims=True)
      for x in (query.astype(np.float64), key.astype(np.float64))
  )
  total = 0.0
  for i, q in enumerate(query):
    terms = [np.exp(q @ k / temperature) for k in key]
    total -= np.log(terms[i] / sum(terms))
  return total / len(query)


def test_batch_info_nce_agrees_with_the_reference(golden):
  data = golden("moco_v3")
  temperature = float(data["temperature"])
  total = 0.0
  # The query of a view meets the key of the other view.
  for query, key in (("q1", "k2"), ("q2", "k1")):
    value, (gradient, _) = value_and_batch_gradients(
        data[query], data[key], temperature=temperature
    )
    total += 2 * temperature * value
    np.testing.assert_allclose(
        2 * temperature * gradient,
        data[f"grad_{query}"],
        rtol=TOLERANCE,
        atol=1e-7,
    )
  np.testing.assert_allclose(total, data["loss"], rtol=TOLERANCE)


def test_batch_info_nce_is_the_equation_of_the_paper():
  query, key, _ = _inputs()
  value, gradients = value_and_batch_gradients(query, key, temperature=0.2)
  slow = lambda q, k: _slow_batch_info_nce(q, k, 0.2)
  np.testing.assert_allclose(value, slow(query, key), rtol=TOLERANCE)
  # The reference has no gradient of the keys, which NNCLR trains through.
  step = 1e-5 * np.random.default_rng(1).normal(size=key.shape)
  change = slow(query, key + step) - slow(query, key - step)
  np.testing.assert_allclose(2 * np.sum(step * gradients[1]), change, rtol=1e-4)


def test_batch_info_nce_of_constant_embeddings_is_chance():
  same = jnp.ones((16, 8))
  loss = losses.batch_info_nce(same, same, temperature=0.2)
  np.testing.assert_allclose(loss, np.log(16), rtol=TOLERANCE)


def test_batch_logits_hold_the_positives_at_their_labels():
  query, _, _ = _inputs()

  def shard(query):
    return contrastive.batch_info_nce_logits(
        query, 2 * query, temperature=0.5, axis_name="shards"
    )

  logits, labels = jax.vmap(shard, axis_name="shards")(query.reshape(4, 4, 8))
  assert logits.shape == (4, 4, 16) and labels.shape == (4, 4)
  np.testing.assert_array_equal(labels.ravel(), np.arange(16))
  positives = np.take_along_axis(logits, labels[..., None], axis=-1)
  np.testing.assert_allclose(positives, 1 / 0.5, rtol=TOLERANCE)


@pytest.mark.parametrize("bad", [0, 1])
def test_a_batch_whose_shapes_do_not_fit_is_refused(bad):
  inputs = list(_inputs()[:2])
  inputs[bad] = inputs[bad][:-1]
  with pytest.raises(ValueError, match=r"\(15, 8\).* expected \[B, D\]"):
    losses.batch_info_nce(*inputs, temperature=0.1)
