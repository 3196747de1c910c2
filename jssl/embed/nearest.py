"""Nearest neighbours and near-duplicates, a block of rows at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jssl.embed.formats import FeatureFile
from jssl.embeddings import l2_normalize

# Rows that are compared with as many others: 4 MiB of similarities at a time.
_BLOCK = 1024
_ROUNDING = 1e-6  # Error of the similarity of two equal rows.


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Rows that are nearly the same.

  Attributes:
    first: The first row of each pair, int64 `[P]`.
    second: The other row, of a higher index, int64 `[P]`.
    similarity: Their cosine similarity, float32 `[P]`, in descending order.
    count: Number of all pairs found, P or more.
  """

  first: np.ndarray
  second: np.ndarray
  similarity: np.ndarray
  count: int


def neighbours(
    query: np.ndarray, features: FeatureFile, *, k: int, leave_out: int = -1
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the rows of the highest cosine similarity.

  Args:
    query: float `[D]`.
    features: The rows to search, `[N, D]`.
    k: Number of rows, at least 1; all of them if there are fewer.
    leave_out: A row to leave out, such as the query's own; -1 for none.

  Returns:
    The rows, int64, and their similarities, float32, in descending order.

  Raises:
    ValueError: If the query and the rows differ in length.
  """
  count, dim = features.shape
  if query.shape != (dim,):
    raise ValueError(
        f"The query has shape {query.shape}, but rows have {dim} numbers: use"
        " features of the same encoder and stage."
    )
  rows, values = np.zeros(0, np.int64), np.zeros(0, np.float32)
  for start in range(0, count, _BLOCK):
    block = features.read(start, min(start + _BLOCK, count))
    similarity = np.asarray(_similarity(query[None], block))[0]
    index = np.arange(start, start + len(block))
    kept = index != leave_out
    rows = np.concatenate([rows, index[kept]])
    values = np.concatenate([values, similarity[kept]])
    best = np.argsort(-values, kind="stable")[:k]
    rows, values = rows[best], values[best]
  return rows, values


def duplicates(
    features: FeatureFile, threshold: float, *, limit: int = 1000
) -> Pairs:
  """Finds pairs of rows whose cosine similarity reaches a threshold.

  It takes N * (N + 1) / 2 products of vectors, but the memory of one block.

  Args:
    features: `[N, D]`.
    threshold: The similarity, in (0, 1].
    limit: Number of pairs to keep, the closest; all are counted.

  Returns:
    The pairs, the closest first.

  Raises:
    ValueError: If the threshold is out of range.
  """
  check_threshold(threshold)
  count, _ = features.shape
  starts = range(0, count, _BLOCK)
  none = np.zeros(0, np.int64)
  kept = Pairs(none, none, np.zeros(0, np.float32), 0)
  for i in starts:
    rows = features.read(i, min(i + _BLOCK, count))
    for j in starts[i // _BLOCK :]:
      others = rows if j == i else features.read(j, min(j + _BLOCK, count))
      similarity = np.asarray(_similarity(rows, others))
      hit = similarity >= threshold - _ROUNDING
      first, second = np.nonzero(np.triu(hit, 1) if i == j else hit)
      new = Pairs(first + i, second + j, similarity[first, second], len(first))
      kept = _closest(kept, new, limit)
  return kept


def check_threshold(threshold: float) -> None:
  """Checks the threshold of `duplicates`.

  Raises:
    ValueError: If it is not in (0, 1].
  """
  if not 0 < threshold <= 1:
    raise ValueError(
        f"The threshold of duplicates is {threshold}; expected a cosine"
        " similarity in (0, 1], such as 0.95."
    )


def _closest(a, b, limit):
  """Joins pairs and keeps the closest; ties are in the order of the rows."""
  first, second, similarity = (
      np.concatenate([getattr(a, name), getattr(b, name)])
      for name in ("first", "second", "similarity")
  )
  order = np.lexsort((second, first, -similarity))[:limit]
  return Pairs(
      first[order], second[order], similarity[order], a.count + b.count
  )


@jax.jit
def _similarity(a, b):
  product = jnp.matmul(
      l2_normalize(a), l2_normalize(b).T, precision=jax.lax.Precision.HIGHEST
  )
  return jnp.minimum(product, 1.0)
