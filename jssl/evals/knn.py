"""Weighted nearest-neighbour classification."""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp

from jssl.embeddings import AnyArray, l2_normalize
from jssl.evals import checks


def knn_predict(
    features: AnyArray,
    bank: AnyArray,
    labels: AnyArray,
    *,
    k: int = 200,
    temperature: float = 0.1,
    num_classes: int,
    block_size: int = 1024,
) -> jax.Array:
  """Predicts classes by a vote of the nearest features.

  A neighbour at cosine similarity s votes with weight exp(s / temperature).

  Args:
    features: Features to classify, `[N, D]`, normalised here.
    bank: Features of labelled images, `[M, D]`, normalised here.
    labels: Their classes, int `[M]`, in [0, num_classes). Leave images without
      a label (-1) out; if labels are traced, these do not vote.
    k: Number of neighbours that vote, at most M.
    temperature: See above.
    num_classes: Number of classes.
    block_size: Rows of `features` compared at a time, which limits the memory
      to `block_size * M` similarities.

  Returns:
    The predicted classes, int32 `[N]`.

  Raises:
    ValueError: If k exceeds the bank, the shapes do not fit, or a label is not
      a class.

  Reference:
    Wu et al., Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination, 2018, section 3.4.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jssl import evals
    >>> labels = jnp.arange(60) % 3
    >>> noise = 0.1 * jax.random.normal(jax.random.key(0), (60, 3))
    >>> features = jnp.eye(3)[labels] + noise
    >>> predicted = evals.knn_predict(
    ...     features[:20], features[20:], labels[20:], k=5, num_classes=3
    ... )
    >>> float((predicted == labels[:20]).mean())
    1.0
  """
  return knn_sweep(
      features,
      bank,
      labels,
      ks=(k,),
      temperatures=(temperature,),
      num_classes=num_classes,
      block_size=block_size,
  )[0, 0]


def knn_sweep(
    features: AnyArray,
    bank: AnyArray,
    labels: AnyArray,
    *,
    ks: Sequence[int],
    temperatures: Sequence[float],
    num_classes: int,
    block_size: int = 1024,
) -> jax.Array:
  """Predicts classes for several k and temperatures in one search.

  Args:
    features: As in `knn_predict`.
    bank: As in `knn_predict`.
    labels: As in `knn_predict`.
    ks: Numbers of neighbours.
    temperatures: Temperatures of the votes.
    num_classes: Number of classes.
    block_size: As in `knn_predict`.

  Returns:
    The predicted classes, int32 `[ks, temperatures, N]`.

  Raises:
    ValueError: If a k exceeds the bank, the shapes do not fit, or a label is
      not a class.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jssl import evals
    >>> labels = jnp.arange(60) % 3
    >>> noise = 0.1 * jax.random.normal(jax.random.key(0), (60, 3))
    >>> features = jnp.eye(3)[labels] + noise
    >>> predicted = evals.knn_sweep(
    ...     features[:20],
    ...     features[20:],
    ...     labels[20:],
    ...     ks=(1, 5),
    ...     temperatures=(0.07, 0.2),
    ...     num_classes=3,
    ... )
    >>> predicted.shape
    (2, 2, 20)
  """
  if features.shape[1:] != bank.shape[1:] or labels.shape != bank.shape[:1]:
    raise ValueError(
        f"features {features.shape}, bank {bank.shape} and labels"
        f" {labels.shape} do not fit; expected [N, D], [M, D] and [M]."
    )
  checks.check_labels(labels, num_classes)
  for k in ks:
    if not 1 <= k <= bank.shape[0]:
      raise ValueError(
          f"k is {k}, but the bank holds {bank.shape[0]} features; choose k"
          " between 1 and that."
      )
  bank, labels = jax.jit(l2_normalize)(bank), jnp.asarray(labels)
  divisors = jnp.asarray(temperatures, jnp.float32)
  predicted = []
  for start in range(0, features.shape[0], block_size):
    block = features[start : start + block_size]
    similarity, index = _nearest(block, bank, k=max(ks))
    votes = [
        _vote(
            similarity[:, :k],
            labels[index[:, :k]],
            divisors,
            num_classes=num_classes,
        )
        for k in ks
    ]
    predicted.append(jnp.stack(votes))
  return jnp.concatenate(predicted, axis=-1)


# Compiled apart from the vote: on CPU, XLA sorts the whole bank if one program
# both searches and slices.
@functools.partial(jax.jit, static_argnames="k")
def _nearest(features, bank, *, k):
  similarity = jnp.matmul(
      l2_normalize(features), bank.T, precision=jax.lax.Precision.HIGHEST
  )
  return jax.lax.top_k(similarity, k)  # [n, k] each


@functools.partial(jax.jit, static_argnames="num_classes")
def _vote(similarity, neighbours, temperatures, *, num_classes):
  rows = jnp.arange(len(neighbours))[:, None]
  # Index -1 would be the last class; an index past it is dropped.
  neighbours = jnp.where(neighbours < 0, num_classes, neighbours)

  def vote(temperature):
    # Relative to the nearest, or a low temperature overflows.
    weights = jnp.exp((similarity - similarity[:, :1]) / temperature)
    votes = jnp.zeros((len(neighbours), num_classes))
    votes = votes.at[rows, neighbours].add(weights, mode="drop")
    return jnp.argmax(votes, axis=-1).astype(jnp.int32)

  return jax.lax.map(vote, temperatures)  # [temperatures, n]
