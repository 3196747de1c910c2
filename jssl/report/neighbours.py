"""Which training images lie nearest, and which classes are taken for which."""

from typing import NamedTuple

import jax
import numpy as np

from jssl import data
from jssl.embeddings import l2_normalize
from jssl.evals import knn_predict
from jssl.report import thumbnails
from jssl.report.material import Encoded
from jssl.report.thumbnails import Thumbnail

_QUERIES = 12
_NEIGHBOURS = 5
_MATRIX = 20  # More classes than these make a list of pairs, not a matrix.
_PAIRS = 20


class Neighbours(NamedTuple):
  """A test image and its nearest training images.

  Attributes:
    query: The test image.
    nearest: Training images, from the nearest on.
  """

  query: Thumbnail
  nearest: list[Thumbnail]


class Confusion(NamedTuple):
  """Which classes a kNN probe takes for which.

  Attributes:
    k: Neighbours that vote.
    images: Number of test images classified.
    bank: Number of training images that vote.
    accuracy: Share of right ones, in [0, 1].
    largest: Share of the largest class, what naming it always would get.
    names: Names of the classes of the matrix.
    matrix: `matrix[i][j]` images of class i were called j; None if there are
      too many classes.
    pairs: (true name, called, count) of the commonest mistakes.
  """

  k: int
  images: int
  bank: int
  accuracy: float
  largest: float
  names: list[str]
  matrix: list[list[int]] | None
  pairs: list[tuple[str, str, int]]


def find_nearest(train: Encoded, test: Encoded) -> list[Neighbours]:
  """Finds the nearest training images, by cosine, of a dozen test images.

  Args:
    train: Images to find.
    test: Images to choose the dozen from, evenly.

  Returns:
    A row for each query; a neighbour of another class is marked wrong.
  """
  count = min(_QUERIES, len(test.index))
  # In the middle of each twelfth: sets are often sorted by class.
  queries = ((np.arange(count) + 0.5) * len(test.index) / count).astype(int)
  similarity = _unit(test.features[queries]) @ _unit(train.features).T
  order = np.argsort(-similarity, axis=1, kind="stable")[:, :_NEIGHBOURS]
  rows = []
  for query, row, near in zip(queries, similarity, order):
    label = _label(test, query)
    nearest = []
    for i in near:
      other = _label(train, i)
      wrong = None not in (label, other) and label != other
      nearest.append(_picture(train, "training", i, row[i], wrong))
    rows.append(Neighbours(_picture(test, "test", query), nearest))
  return rows


def confuse(
    train: Encoded, test: Encoded, *, k: int, temperature: float
) -> Confusion | None:
  """Classifies test images by their neighbours and counts the mistakes.

  Args:
    train: Labelled images.
    test: Labelled images.
    k: See `jssl.evals.knn_predict`; all neighbours if there are fewer.
    temperature: See `jssl.evals.knn_predict`.

  Returns:
    The `Confusion`; None without labels, or with one class only.
  """
  # Slow to import.
  from sklearn.metrics import confusion_matrix

  classes = train.images.classes
  if len(classes) < 2 or test.images.label is None:
    return None
  labels = data.labels_of(train.images)
  known = data.labels_of(test.images) >= 0
  voting = labels >= 0
  true = data.labels_of(test.images)[known]
  if not known.any() or not voting.any():
    return None
  k = min(k, int(voting.sum()))
  predicted = np.asarray(
      knn_predict(
          test.features[known],
          train.features[voting],
          labels[voting],
          k=k,
          temperature=temperature,
          num_classes=len(classes),
      )
  )
  matrix = confusion_matrix(true, predicted, labels=np.arange(len(classes)))
  mistakes = matrix * (1 - np.eye(len(classes), dtype=int))
  commonest = np.argsort(-mistakes, axis=None, kind="stable")[:_PAIRS]
  pairs = [np.unravel_index(i, matrix.shape) for i in commonest]
  return Confusion(
      k=k,
      images=len(true),
      bank=int(voting.sum()),
      accuracy=float(np.mean(predicted == true)),
      largest=float(np.bincount(true).max() / len(true)),
      names=list(classes),
      matrix=matrix.tolist() if len(classes) <= _MATRIX else None,
      pairs=[
          (classes[i], classes[j], int(mistakes[i, j]))
          for i, j in pairs
          if mistakes[i, j]
      ],
  )


def _unit(features):
  return np.asarray(jax.jit(l2_normalize)(features))


def _label(encoded, i):
  """The class's name; None if it is not known."""
  labels = encoded.images.label
  if labels is None or labels[i] < 0:
    return None
  return encoded.images.classes[labels[i]]


def _picture(encoded, split, i, similarity=None, wrong=False):
  label = _label(encoded, i)
  extent = encoded.images.extent
  alt = f"{split} picture {encoded.index[i]}"
  if label is not None:
    alt += f", class {label}"
  if similarity is not None:
    alt += f", cosine {similarity:.2f}"
  if wrong:
    alt += ": another class than the query's"
  caption = [] if label is None else [label]
  if similarity is not None and label is None:
    caption.append(f"{similarity:.2f}")
  return thumbnails.make(
      encoded.images.image[i],
      alt,
      extent=None if extent is None else extent[i],
      caption=" ".join(caption),
      wrong=wrong,
  )
