"""The protocols of a frozen encoder: features in, measures out."""

from typing import Any, NamedTuple

import jax
import numpy as np

from jssl import embeddings
from jssl.evals import intervals
from jssl.evals import quality
from jssl.evals.features import evenly
from jssl.evals.few_shot import few_shot as classify_by_few
from jssl.evals.few_shot import only_present
from jssl.evals.knn import knn_predict
from jssl.evals.knn import knn_sweep
from jssl.evals.linear import linear_probe
from jssl.evals.linear import LinearProbe

PAIRED = 2048  # Images of which all pairs are compared, or views are drawn.
_KS = (1, 5, 10, 20, 50, 100, 200)
_TEMPERATURES = (0.03, 0.07, 0.1, 0.2, 0.5)
_SHOTS = {"one_shot": 1, "five_shot": 5, "ten_shot": 10}
_FEWEST_DIRECTIONS = 12  # Fewer have no slope to fit, see `alpha_req`.
# Below, rounding leaves nothing of them to choose a setting by.
_FEWEST_TO_CHOOSE_BY = 6


class Missing(NamedTuple):
  """In the place of a measure that does not apply.

  Attributes:
    reason: Why not, in a sentence without its period.
  """

  reason: str


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
  """Nearest neighbours, k and temperature chosen on a tenth of `train`.

  Of a single labelled image there is nothing to choose.
  """
  chosen: dict[str, Any] = {"k": 1, "temperature": _TEMPERATURES[0]}
  edge: tuple[str, ...] = ()
  if len(x.train) > 1:
    chosen, edge = _choose_votes(key, x)
  predicted = knn_predict(
      x.test, x.train, x.train_label, num_classes=len(x.classes), **chosen
  )
  accuracy = intervals.of_images(np.asarray(predicted), x.test_label)
  return {"knn": {**accuracy, **chosen, "at_edge": list(edge)}}


def _choose_votes(key, x):
  order = np.asarray(jax.random.permutation(key, len(x.train)))
  held, rest = np.split(order, [max(1, len(order) // 10)])
  grid = {
      "k": [k for k in _KS if k <= len(rest)],
      "temperature": list(_TEMPERATURES),
  }
  predicted = knn_sweep(
      x.train[held],
      x.train[rest],
      x.train_label[rest],
      ks=grid["k"],
      temperatures=grid["temperature"],
      num_classes=len(x.classes),
  )
  right = np.mean(np.asarray(predicted) == x.train_label[held], axis=-1)
  best = np.unravel_index(np.argmax(right), right.shape)
  chosen = {name: values[i] for i, (name, values) in zip(best, grid.items())}
  return chosen, intervals.at_edge(right, best, grid, limits={"k": 1})


def linear(key: jax.Array, x: Labelled) -> dict[str, Any]:
  """The linear probe."""
  missing = too_few_to_choose(len(x.train))
  if missing:
    return {"linear": missing}
  probe = linear_probe(
      key, x.train, x.train_label, x.test, num_classes=len(x.classes)
  )
  return probed("linear", probe, x)


def too_few_to_choose(count: int) -> Missing | None:
  """Says why a probe's setting cannot be chosen, if it cannot.

  Args:
    count: Number of labelled training images.
  """
  if count >= _FEWEST_TO_CHOOSE_BY:
    return None
  return Missing(
      f"choosing a setting takes {_FEWEST_TO_CHOOSE_BY} labelled training"
      f" images, and there {'is' if count == 1 else 'are'} {count}"
  )


def probed(name: str, probe: LinearProbe, x: Labelled) -> dict[str, Any]:
  """What a linear probe is worth, and the setting that was chosen."""
  accuracy = intervals.of_images(probe.predicted, x.test_label)
  return {
      name: {
          **accuracy,
          "learning_rate": probe.learning_rate,
          "weight_decay": probe.weight_decay,
          "at_edge": list(probe.at_edge),
      }
  }


def few_shot(key: jax.Array, x: Labelled) -> dict[str, Any]:
  """1, 5 and 10 labels per class, of ten draws.

  A class without labelled training images cannot be drawn from: its test images
  are never classified correctly.
  """
  present, train_label, test_label = only_present(x.train_label, x.test_label)
  counts = np.bincount(train_label)
  fewest = int(counts.min())
  result: dict[str, Any] = {}
  for name, shots in _SHOTS.items():
    if shots > fewest:
      rarest = x.classes[present[counts.argmin()]]
      result[name] = Missing(
          f"class {rarest} has {fewest} labelled training"
          f" image{'s' * (fewest != 1)}"
      )
      continue
    draws = classify_by_few(
        key,
        x.train,
        train_label,
        x.test,
        test_label,
        shots=shots,
        num_classes=len(present),
    )
    result[name] = intervals.of_draws(np.asarray(draws).tolist())
  return result


def label_free(
    features: np.ndarray, views: np.ndarray, *, more: np.ndarray
) -> dict[str, Any]:
  """What features show without labels.

  Args:
    features: Of the test images, `[N, D]`.
    views: Features of an augmented view of some of them, `[2, n, D]`: of one,
      and of another.
    more: Of training images, `[M, D]`: rank and alpha-ReQ are of these too, for
      they need many.
  """
  most = quality.RANK_IMAGES
  rows = features[evenly(len(features), most)]
  if len(more) and len(rows) < most:
    fill = more[evenly(len(more), most - len(rows))]
    rows = np.concatenate([rows, fill])
  paired = features[evenly(len(features), PAIRED)]
  single = Missing("one image has no spread")
  directions = min(len(rows) - 1, rows.shape[1])
  return {
      "rank": float(quality.rankme(rows)) if len(rows) > 1 else single,
      "alpha_req": (
          float(quality.alpha_req(rows))
          if directions >= _FEWEST_DIRECTIONS
          else Missing(
              f"fewer than {_FEWEST_DIRECTIONS} directions have no slope to fit"
          )
      ),
      "alignment": float(quality.alignment(*views)),
      "uniformity": (
          float(quality.uniformity(paired)) if len(paired) > 1 else single
      ),
      "feature_std": (
          float(embeddings.feature_std(paired)) if len(paired) > 1 else single
      ),
  }


LABELLED = {"knn": knn, "linear": linear, "few_shot": few_shot}
