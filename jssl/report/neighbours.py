"""Nearest training images, and the confusion matrix of a kNN classifier."""

import dataclasses

import numpy as np

from jssl.embeddings import l2_normalize
from jssl.evals.features import Features, labelled
from jssl.evals.scores import choose_k, nearest_classes
from jssl.report import thumbnails
from jssl.report.run import spaced, Split
from jssl.report.thumbnails import Thumbnail

_QUERIES = 12
_NEIGHBOURS = 5
_MATRIX = 20  # With more classes, a list of pairs replaces the matrix.
_PAIRS = 20


@dataclasses.dataclass(frozen=True)
class Confusion:
  """Which classes a kNN classifier confuses.

  Attributes:
    k: Number of neighbours that vote.
    images: Number of held-out images that were classified.
    bank: Number of training images among which neighbours are found.
    accuracy: Share of images that were classified correctly, in [0, 1].
    largest: Share of the largest class: the accuracy of always predicting it.
    names: Names of the classes.
    matrix: `matrix[i][j]` images of class i were predicted as j; None if there
      are too many classes.
    pairs: (true class, predicted class, count) of the most common mistakes.
  """

  k: int
  images: int
  bank: int
  accuracy: float
  largest: float
  names: list[str]
  matrix: list[list[int]] | None
  pairs: list[tuple[str, str, int]]


def find_nearest(train: Split, test: Split) -> list[list[Thumbnail]]:
  """Finds the training images nearest by cosine to a dozen held-out images.

  Args:
    train: Images among which neighbours are found.
    test: Images to choose the dozen from, evenly spaced.

  Returns:
    For each of the dozen, its image and the five nearest ones, the nearest
    first; those of another class are marked as wrong.
  """
  queries = spaced(len(test.index), _QUERIES)
  chosen = l2_normalize(test.features[queries])
  similarity = np.asarray(chosen @ l2_normalize(train.features).T)
  order = np.argsort(-similarity, axis=1, kind="stable")[:, :_NEIGHBOURS]
  rows = []
  for query, row, near in zip(queries, similarity, order):
    label = _label(test, query)
    shown = [_thumbnail(test, "test", query)]
    for i in near:
      other = _label(train, i)
      wrong = None not in (label, other) and label != other
      shown.append(_thumbnail(train, "training", i, f"{row[i]:.2f}", wrong))
    rows.append(shown)
  return rows


def confuse(
    train: Split, test: Split, *, k: int, temperature: float
) -> Confusion | None:
  """Classifies held-out images by kNN and counts the mistakes.

  Args:
    train: Training images.
    test: Held-out images.
    k: See `jssl.evals.scores.choose_k`.
    temperature: See `jssl.evals.knn_predict`.

  Returns:
    The `Confusion`; None without labels, or with only one class.
  """
  # Slow to import.
  from sklearn.metrics import confusion_matrix

  features = Features({"pooled": train.features}, {"pooled": test.features})
  pair = labelled(features, train.images, test.images)
  if pair is None or len(pair.classes) < 2:
    return None
  true = pair.test_label
  predicted = nearest_classes(pair, k=k, temperature=temperature)
  count = len(pair.classes)
  matrix = confusion_matrix(true, predicted, labels=np.arange(count))
  mistakes = matrix * (1 - np.eye(count, dtype=int))
  most_common = np.argsort(-mistakes, axis=None, kind="stable")[:_PAIRS]
  return Confusion(
      k=choose_k(k, pair.train_label),
      images=len(true),
      bank=len(pair.train),
      accuracy=float(np.mean(predicted == true)),
      largest=float(np.bincount(true).max() / len(true)),
      names=list(pair.classes),
      matrix=matrix.tolist() if count <= _MATRIX else None,
      pairs=[
          (pair.classes[i], pair.classes[j], int(mistakes[i, j]))
          for i, j in zip(*np.unravel_index(most_common, matrix.shape))
          if mistakes[i, j]
      ],
  )


def _label(split, i):
  """The name of an image's class; None if it is unknown."""
  labels = split.images.label
  if labels is None or labels[i] < 0:
    return None
  return split.images.classes[labels[i]]


def _thumbnail(split, name, i, similarity="", wrong=False):
  label = _label(split, i)
  alt = [
      f"{name} image {split.index[i]}",
      label and f"class {label}",
      similarity and f"cosine {similarity}",
      wrong and "another class than the query",
  ]
  pixels = thumbnails.shrink_one(split.images, i)
  words = ", ".join(filter(None, alt))
  return Thumbnail(pixels, words, label or similarity, wrong)
