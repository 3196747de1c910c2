"""The scores during and after training: kNN and few-shot accuracy, rank."""

from typing import Any

import jax
import numpy as np

from jssl.config import ConfigDict
from jssl.data import Images
from jssl.data.images import evenly
from jssl.embeddings import feature_std
from jssl.evals.features import Features, Labelled, labelled
from jssl.evals.few_shot import few_shot, only_present
from jssl.evals.knn import knn_predict
from jssl.evals.quality import RANK_IMAGES, rankme

_SHOTS = {"one_shot": 1, "five_shot": 5}
# The k of kNN in papers, for CIFAR-10 and ImageNet.
MOST_NEIGHBOURS = 200


def quick(
    features: Features, train: Images, test: Images, settings: ConfigDict
) -> dict[str, float]:
  """Evaluates pooled features while training.

  Args:
    features: The features of both splits.
    train: The images of `features.train`.
    test: The images of `features.test`.
    settings: The config's "eval", with "k" (see `choose_k`) and "temperature"
      of `knn_predict`.

  Returns:
    Effective "rank" and "encoder_std" of the test images; if both splits have
    labels, "knn" accuracy in [0, 1].
  """
  rank, std = _rank_and_std(_rank_rows(features.test["pooled"]))
  row = {"rank": float(rank), "encoder_std": float(std)}
  known = labelled(features, train, test)
  if known is not None:
    row["knn"] = _knn_accuracy(known, settings)
  return row


def summarize(
    features: Features, train: Images, test: Images, settings: ConfigDict
) -> dict[str, Any]:
  """Evaluates all stages after training.

  Args:
    features: As in `quick`.
    train: As in `quick`.
    test: As in `quick`.
    settings: As in `quick`.

  Returns:
    "knn", "one_shot" and "five_shot" accuracy in [0, 1] and effective "rank" of
    the pooled features, and "stages" with the same of each stage. Few-shot
    accuracies are the mean of ten draws (the same draws for all features) of
    the classes that have labelled training images; None if one of these has too
    few. Without labels all accuracies are None.
  """
  stages = {}
  for stage, rows in features.test.items():
    known = labelled(features, train, test, stage=stage)
    rank, _ = _rank_and_std(_rank_rows(rows))
    stages[stage] = {**_accuracies(known, settings), "rank": float(rank)}
  return {**stages.pop("pooled"), "stages": stages}


def nearest_classes(
    features: Labelled, *, k: int, temperature: float
) -> np.ndarray:
  """Classifies test images by their nearest training images.

  Args:
    features: Features of both splits.
    k: See `choose_k`.
    temperature: See `knn_predict`.

  Returns:
    The predicted classes, int32 `[N]`.
  """
  predicted = knn_predict(
      features.test,
      features.train,
      features.train_label,
      k=choose_k(k, features.train_label),
      temperature=temperature,
      num_classes=len(features.classes),
  )
  return np.asarray(predicted)


def choose_k(k: int, labels: np.ndarray) -> int:
  """Returns the number of neighbours that vote.

  Args:
    k: The config's "eval.k"; 0 for 200, or the number of images of the smallest
      class if that is less: further neighbours can only be of larger classes,
      and would outvote it.
    labels: Classes of the labelled training images, int `[M]`, 0 or more.

  Returns:
    The number, at most M.

  Example:
    >>> import numpy as np
    >>> labels = np.array([0, 0, 0, 0, 0, 1, 1, 1])
    >>> choose_k(0, labels), choose_k(5, labels), choose_k(20, labels)
    (3, 5, 8)
  """
  if k:
    return min(k, len(labels))
  _, counts = np.unique(labels, return_counts=True)
  return min(MOST_NEIGHBOURS, int(counts.min()))


def few_shot_draws(features: Labelled, shots: int) -> np.ndarray | None:
  """Classifies test images by a few labels per class, see `few_shot`.

  Classes without labelled training images cannot be drawn from, so their test
  images are never classified correctly.

  Args:
    features: Features of both splits.
    shots: Labelled images per class.

  Returns:
    The accuracy of each of ten draws, float32 `[10]` (the same draws for all
    features); None if a class has fewer images.
  """
  present, train_label, test_label = only_present(
      features.train_label, features.test_label
  )
  if np.bincount(train_label).min() < shots:
    return None
  accuracies = few_shot(
      jax.random.key(0),
      features.train,
      train_label,
      features.test,
      test_label,
      shots=shots,
      num_classes=len(present),
  )
  return np.asarray(accuracies)


def _knn_accuracy(features, settings):
  predicted = nearest_classes(
      features, k=settings.k, temperature=settings.temperature
  )
  return float(np.mean(predicted == features.test_label))


def _accuracies(features, settings):
  """Returns kNN and few-shot accuracies, None where they do not apply."""
  result: dict[str, float | None] = dict.fromkeys(("knn", *_SHOTS))
  if features is None:
    return result
  result["knn"] = _knn_accuracy(features, settings)
  for name, shots in _SHOTS.items():
    draws = few_shot_draws(features, shots)
    result[name] = None if draws is None else float(np.mean(draws))
  return result


def _rank_rows(rows):
  return rows[evenly(len(rows), RANK_IMAGES)]


@jax.jit
def _rank_and_std(rows):
  return rankme(rows), feature_std(rows)
