"""The protocols of a frozen encoder: features in, measures out."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from jssl import embeddings
from jssl.evals import intervals
from jssl.evals import quality
from jssl.evals.few_shot import few_shot as classify_by_few
from jssl.evals.knn import knn_predict
from jssl.evals.knn import knn_sweep
from jssl.evals.linear import linear_probe
from jssl.evals.linear import LinearProbe

ROWS = 2048  # Enough for a spectrum, few enough for all their pairs.
_KS = (1, 5, 10, 20, 50, 100, 200)
_TEMPERATURES = (0.03, 0.07, 0.1, 0.2, 0.5)
_SHOTS = {"one_shot": 1, "five_shot": 5, "ten_shot": 10}
_FIRST_DIRECTIONS = 12  # Fewer have no slope to fit, see `alpha_req`.


class Labelled(NamedTuple):
  """Features of one encoder at one stage, with known labels.

  Attributes:
    train: float32 `[M, D]`.
    train_label: int `[M]`.
    test: float32 `[N, D]`.
    test_label: int `[N]`.
    classes: Their names.
  """

  train: np.ndarray
  train_label: np.ndarray
  test: np.ndarray
  test_label: np.ndarray
  classes: tuple[str, ...]


def knn(key: jax.Array, x: Labelled) -> dict[str, Any]:
  """Nearest neighbours, k and temperature chosen on a tenth of `train`."""
  order = np.asarray(jax.random.permutation(key, len(x.train)))
  held, rest = np.split(order, [max(1, len(order) // 10)])
  ks = [k for k in _KS if k <= len(rest)]
  sweep = functools.partial(
      knn_sweep, temperatures=_TEMPERATURES, num_classes=len(x.classes)
  )
  predicted = sweep(x.train[held], x.train[rest], x.train_label[rest], ks=ks)
  right = np.mean(np.asarray(predicted) == x.train_label[held], axis=-1)
  best = np.unravel_index(np.argmax(right), right.shape)
  k, temperature = ks[best[0]], _TEMPERATURES[best[1]]
  predicted = knn_predict(
      x.test,
      x.train,
      x.train_label,
      k=k,
      temperature=temperature,
      num_classes=len(x.classes),
  )
  accuracy = intervals.of_images(np.asarray(predicted), x.test_label)
  return {"knn": {**accuracy, "k": k, "temperature": temperature}}


def linear(key: jax.Array, x: Labelled) -> dict[str, Any]:
  """The linear probe."""
  probe = linear_probe(
      key, x.train, x.train_label, x.test, num_classes=len(x.classes)
  )
  return probed("linear", probe, x)


def probed(name: str, probe: LinearProbe, x: Labelled) -> dict[str, Any]:
  """What a linear probe is worth, and the setting that was chosen."""
  accuracy = intervals.of_images(probe.predicted, x.test_label)
  return {
      name: {
          **accuracy,
          "learning_rate": probe.learning_rate,
          "weight_decay": probe.weight_decay,
      }
  }


def few_shot(key: jax.Array, x: Labelled) -> dict[str, Any]:
  """1, 5 and 10 labels a class, of ten draws; None where images are too few."""
  fewest = np.bincount(x.train_label, minlength=len(x.classes)).min()
  result = dict.fromkeys(_SHOTS)
  for name, shots in _SHOTS.items():
    if shots <= fewest:
      draws = classify_by_few(
          key,
          x.train,
          x.train_label,
          x.test,
          x.test_label,
          shots=shots,
          num_classes=len(x.classes),
      )
      result[name] = intervals.of_draws(np.asarray(draws).tolist())
  return result


def label_free(features: np.ndarray, views: np.ndarray) -> dict[str, Any]:
  """What features show without labels.

  Args:
    features: `[N, D]`.
    views: Features of an augmented view of some of them, `[2, n, D]`: of one,
      and of another.
  """
  rows = features[:: -(-len(features) // ROWS)]
  enough = min(rows.shape) >= _FIRST_DIRECTIONS
  return {
      "rank": float(quality.rankme(rows)),
      "alpha_req": float(quality.alpha_req(rows)) if enough else None,
      "alignment": float(quality.alignment(*views)),
      "uniformity": float(quality.uniformity(rows)) if len(rows) > 1 else None,
      "feature_std": float(embeddings.feature_std(rows)),
  }


LABELLED = {"knn": knn, "linear": linear, "few_shot": few_shot}
