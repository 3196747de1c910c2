"""InfoNCE: classify the positive of a query among negatives.

Negatives come from a queue or from the batch. Losses that compare all views are
in `jssl.losses.all_pairs`.
"""

import jax
import jax.numpy as jnp
import optax

from jssl import parallel
from jssl.embeddings import l2_normalize
from jssl.losses.checks import check_global_batch, check_pair, check_temperature


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
      to it, unless the caller stops them as MoCo does.
    queue: Negatives, unit vectors, `[K, D]`, **before** this batch enters.
    temperature: Divisor of the cosine similarities, above 0.

  Returns:
    The mean over the batch, a float32 scalar; log(1 + K) is chance.

  Raises:
    ValueError: If shapes do not fit or the temperature is not positive.

  Reference:
    He et al., Momentum Contrast, 2020, equation 1.

  Example:
    >>> import jax
    >>> from jssl import losses, queue
    >>> query, key = jax.random.normal(jax.random.key(0), (2, 8, 16))
    >>> negatives = queue.init(jax.random.key(1), 64, 16)
    >>> loss = losses.info_nce(query, query, negatives.keys, temperature=0.1)
    >>> worse = losses.info_nce(query, key, negatives.keys, temperature=0.1)
    >>> bool(loss < worse)
    True
  """
  return cross_entropy_of_first(
      info_nce_logits(query, key, queue, temperature=temperature)
  )


def cross_entropy_of_first(logits: jax.Array) -> jax.Array:
  """Mean cross-entropy of logits `[B, N]` whose column 0 is the target."""
  return _cross_entropy(logits, jnp.zeros(logits.shape[0], jnp.int32))


def batch_info_nce_logits(
    query: jax.Array,
    key: jax.Array,
    *,
    temperature: float | jax.Array,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Similarities of each query to every key of the global batch.

  Args:
    query: Embeddings, `[B, D]`, normalised here.
    key: The positive of each query, `[B, D]`, normalised here.
    temperature: Divisor of the cosine similarities, above 0.
    axis_name: Axis that the batch is split over, or None.

  Returns:
    Logits, float32 `[B, N * B]` for N devices, and the column of each query's
    positive, int32 `[B]`.

  Raises:
    ValueError: If shapes do not fit, the temperature is not positive or the
      global batch has fewer than 2 images.
  """
  check_pair(query=query, key=key)
  check_temperature(temperature)
  check_global_batch(
      len(query), axis_name, name="batch_info_nce", purpose="a negative"
  )
  query = l2_normalize(query)
  keys = parallel.all_gather(l2_normalize(key), axis_name)
  logits = jnp.matmul(query, keys.T, precision=jax.lax.Precision.HIGHEST)
  size = query.shape[0]
  own = parallel.axis_index(axis_name) * size + jnp.arange(size)
  return logits / temperature, own


def batch_info_nce(
    query: jax.Array,
    key: jax.Array,
    *,
    temperature: float | jax.Array,
    axis_name: str | None = None,
) -> jax.Array:
  """InfoNCE with the keys of the other images as negatives, one direction.

  MoCo v3's loss is 2 T times the sum of two of these: the queries of each view
  against the keys of the other.

  Args:
    query: Embeddings, `[B, D]`, normalised here.
    key: The positive of each query, `[B, D]`, normalised here. Gradients flow
      to it from all devices, unless the caller stops them as MoCo v3 does.
    temperature: Divisor of the cosine similarities, above 0.
    axis_name: Axis that the batch is split over, or None. The negatives are
      those of the global batch.

  Returns:
    The mean over this device's queries, a float32 scalar; log(N) is chance for
    a global batch of N images.

  Raises:
    ValueError: If shapes do not fit, the temperature is not positive or the
      global batch has fewer than 2 images.

  Reference:
    Chen et al., An Empirical Study of Training Self-Supervised Vision
    Transformers, 2021, equation 1; the factor 2 T is in algorithm 1.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import losses
    >>> alike = jnp.ones((8, 16))  # Collapsed: a guess among 8 keys.
    >>> loss = losses.batch_info_nce(alike, alike, temperature=0.1)
    >>> round(float(loss), 4), round(float(jnp.log(8)), 4)
    (2.0794, 2.0794)
  """
  return _cross_entropy(
      *batch_info_nce_logits(
          query, key, temperature=temperature, axis_name=axis_name
      )
  )


def _cross_entropy(logits, labels):
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return jnp.mean(losses)
