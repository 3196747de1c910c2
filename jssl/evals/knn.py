"""Weighted nearest-neighbour classification."""

import functools

import jax
import jax.numpy as jnp

from jssl.embeddings import l2_normalize


def knn_predict(
    features: jax.Array,
    bank: jax.Array,
    labels: jax.Array,
    *,
    k: int = 200,
    temperature: float = 0.1,
    num_classes: int,
    block_size: int = 1024,
) -> jax.Array:
  """Predicts classes by a vote of the nearest features.

  A neighbour at cosine similarity s votes with weight exp(s / temperature).

  Args:
    features: What to classify, `[N, D]`, normalised here.
    bank: Features of labelled images, `[M, D]`, normalised here.
    labels: Their classes, int `[M]`, in [0, num_classes).
    k: Number of neighbours that vote, at most M.
    temperature: See above.
    num_classes: Number of classes.
    block_size: Rows of `features` compared at a time: bounds the memory to
      `block_size * M` similarities.

  Returns:
    The predicted classes, int32 `[N]`.

  Raises:
    ValueError: If k exceeds the bank, or the shapes do not fit.

  Reference:
    Wu et al., Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination, 2018, section 3.4.
  """
  if features.shape[1:] != bank.shape[1:] or labels.shape != bank.shape[:1]:
    raise ValueError(
        f"features {features.shape}, bank {bank.shape} and labels"
        f" {labels.shape} do not fit; expected [N, D], [M, D] and [M]."
    )
  if not 1 <= k <= bank.shape[0]:
    raise ValueError(
        f"k is {k}, but the bank holds {bank.shape[0]} features; choose k"
        " between 1 and that."
    )
  bank, labels = jax.jit(l2_normalize)(bank), jnp.asarray(labels)
  blocks = [
      _vote(
          features[i : i + block_size],
          bank,
          labels,
          temperature,
          k=k,
          num_classes=num_classes,
      )
      for i in range(0, features.shape[0], block_size)
  ]
  return jnp.concatenate(blocks)


@functools.partial(jax.jit, static_argnames=("k", "num_classes"))
def _vote(features, bank, labels, temperature, *, k, num_classes):
  similarity = jnp.matmul(
      l2_normalize(features), bank.T, precision=jax.lax.Precision.HIGHEST
  )
  similarity, index = jax.lax.top_k(similarity, k)  # [n, k]
  # Relative to the nearest, or a low temperature overflows.
  weights = jnp.exp((similarity - similarity[:, :1]) / temperature)
  rows = jnp.arange(features.shape[0])[:, None]
  votes = jnp.zeros((features.shape[0], num_classes))
  votes = votes.at[rows, labels[index]].add(weights)
  return jnp.argmax(votes, axis=-1).astype(jnp.int32)
