"""Contrastive losses: tell a positive pair from negatives."""

import jax
import jax.numpy as jnp
import optax

from jssl.embeddings import l2_normalize


def info_nce_logits(
    query: jax.Array, key: jax.Array, queue: jax.Array, *, temperature: float
) -> jax.Array:
  """Similarities of each query to its own key and to every queued key.

  Args:
    query: Embeddings, `[B, D]`, normalised here.
    key: The positive of each query, `[B, D]`, normalised here.
    queue: Negatives, unit vectors, `[K, D]`.
    temperature: Divisor of the cosine similarities, above 0.

  Returns:
    Logits, float32 `[B, 1 + K]`; column 0 is the positive.

  Raises:
    ValueError: If shapes do not fit or the temperature is not positive.
  """
  if query.shape != key.shape or query.shape[-1] != queue.shape[-1]:
    raise ValueError(
        f"query {query.shape}, key {key.shape} and queue {queue.shape} do not"
        " fit; expected [B, D], [B, D] and [K, D]."
    )
  check_temperature(temperature)
  query, key = l2_normalize(query), l2_normalize(key)
  positive = jnp.sum(query * key, axis=-1, keepdims=True)
  # As exact as the positive: TPU and GPU would round to fewer bits.
  negative = jnp.matmul(
      query, queue.astype(jnp.float32).T, precision=jax.lax.Precision.HIGHEST
  )
  return jnp.concatenate([positive, negative], axis=-1) / temperature


def info_nce(
    query: jax.Array, key: jax.Array, queue: jax.Array, *, temperature: float
) -> jax.Array:
  """MoCo's loss: cross-entropy of the positive among 1 + K candidates.

  A batch split over devices needs no axis here: every device sees the whole
  queue, and the mean of the shards' means is the mean of the global batch.

  Args:
    query: Embeddings, `[B, D]`, normalised here.
    key: The positive of each query, `[B, D]`, normalised here. Gradients flow
      to it; MoCo stops them before.
    queue: Negatives, unit vectors, `[K, D]`, **before** this batch enters.
    temperature: Divisor of the cosine similarities, above 0.

  Returns:
    The mean over the batch, a float32 scalar; log(1 + K) is chance.

  Raises:
    ValueError: If shapes do not fit or the temperature is not positive.

  Reference:
    He et al., Momentum Contrast, 2020, equation 1.
  """
  return cross_entropy_of_first(
      info_nce_logits(query, key, queue, temperature=temperature)
  )


def cross_entropy_of_first(logits: jax.Array) -> jax.Array:
  """Mean cross-entropy of logits `[B, N]` whose column 0 is the target."""
  labels = jnp.zeros(logits.shape[0], jnp.int32)
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return jnp.mean(losses)


def check_temperature(temperature: float) -> None:
  """Raises ValueError unless the temperature is above 0 (or traced)."""
  if not isinstance(temperature, jax.core.Tracer) and temperature <= 0:
    raise ValueError(
        f"temperature is {temperature}; expected a value above 0, for example"
        " 0.07."
    )
