"""The quick look at an encoder: kNN and few-shot accuracy, and rank."""

import jax
import numpy as np

from jssl.data import Images
from jssl.data import labels_of
from jssl.embeddings import feature_std
from jssl.evals.features import evenly
from jssl.evals.few_shot import few_shot
from jssl.evals.few_shot import only_present
from jssl.evals.knn import knn_predict
from jssl.evals.quality import RANK_IMAGES
from jssl.evals.quality import rankme


def labelled(train: Images, test: Images) -> bool:
  """Whether both splits have labels, so that accuracies exist."""
  return train.label is not None and test.label is not None


def knn_accuracy(
    train_features: np.ndarray,
    test_features: np.ndarray,
    train: Images,
    test: Images,
    *,
    k: int,
    temperature: float,
) -> float:
  """Share of test images whose class the nearest training images name.

  Args:
    train_features: `[M, D]`.
    test_features: `[N, D]`.
    train: The labelled images of `train_features`.
    test: The labelled images of `test_features`.
    k: Number of neighbours; all M if there are fewer.
    temperature: See `knn_predict`.
  """
  train_features, train_label = _known(train_features, train)
  test_features, test_label = _known(test_features, test)
  predicted = knn_predict(
      test_features,
      train_features,
      train_label,
      k=min(k, len(train_features)),
      temperature=temperature,
      num_classes=len(train.classes),
  )
  return float(np.mean(np.asarray(predicted) == test_label))


def accuracies(
    train_features: np.ndarray | None,
    test_features: np.ndarray,
    train: Images,
    test: Images,
    *,
    k: int,
    temperature: float,
) -> dict[str, float | None]:
  """Returns "knn", "one_shot" and "five_shot" accuracy, in [0, 1].

  Arguments as in `knn_accuracy`. Few-shot accuracies are the mean of ten draws
  (the same draws for all features), of the classes that have labelled training
  images; None where one has too few, and all are None without labels.
  """
  if train_features is None or not labelled(train, test):
    return dict.fromkeys(("knn", "one_shot", "five_shot"))
  result: dict[str, float | None] = {
      "knn": knn_accuracy(
          train_features,
          test_features,
          train,
          test,
          k=k,
          temperature=temperature,
      )
  }
  train_features, train_label = _known(train_features, train)
  test_features, test_label = _known(test_features, test)
  present, train_label, test_label = only_present(train_label, test_label)
  fewest = np.bincount(train_label).min()
  for name, shots in (("one_shot", 1), ("five_shot", 5)):
    result[name] = None
    if fewest >= shots:
      draws = few_shot(
          jax.random.key(0),
          train_features,
          train_label,
          test_features,
          test_label,
          shots=shots,
          num_classes=len(present),
      )
      result[name] = float(np.mean(draws))
  return result


def spread(features: np.ndarray) -> dict[str, float]:
  """Returns the effective "rank" and the "encoder_std" of features `[N, D]`."""
  rank, std = _spread(features[evenly(len(features), RANK_IMAGES)])
  return {"rank": float(rank), "encoder_std": float(std)}


def _known(features, images):
  """Leaves out images whose label is -1: not known."""
  label = labels_of(images)
  return features[label >= 0], label[label >= 0]


@jax.jit
def _spread(features):
  return rankme(features), feature_std(features)
