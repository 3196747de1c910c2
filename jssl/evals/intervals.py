"""Confidence intervals of accuracies, and settings at the edge of a grid."""

from collections.abc import Mapping, Sequence
import statistics
from typing import Any

import numpy as np

from jssl.evals import checks

CONFIDENCE = 0.95


def of_images(predicted: Any, labels: Any) -> dict[str, Any]:
  """Returns the accuracy with Wilson's interval over the draw of test images.

  Args:
    predicted: Classes, int `[N]`.
    labels: The true classes, int `[N]`.

  Returns:
    "accuracy" in [0, 1] and "interval", its lower and upper 95% limits.

  Raises:
    ValueError: If an image has no label.
  """
  from scipy import stats  # Slow to import.

  checks.check_labels(labels)
  correct = int((predicted == labels).sum())
  test = stats.binomtest(correct, len(labels))
  interval = test.proportion_ci(CONFIDENCE, method="wilson")
  return {
      "accuracy": correct / len(labels),
      "interval": [float(interval.low), float(interval.high)],
  }


def of_draws(accuracies: Sequence[float] | np.ndarray) -> dict[str, Any]:
  """Returns the mean of several draws with Student's interval of the mean.

  Args:
    accuracies: One per draw, at least two.

  Returns:
    "accuracy", the mean; "std" over the draws; and "interval", the lower and
    upper 95% limits of the mean.
  """
  from scipy import stats

  values = [float(x) for x in accuracies]
  mean, std = statistics.mean(values), statistics.stdev(values)
  half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
  half = float(half) * std / len(values) ** 0.5
  return {"accuracy": mean, "std": std, "interval": [mean - half, mean + half]}


def at_edge(
    scores: np.ndarray,
    chosen: Sequence[int],
    grid: Mapping[str, Sequence[float]],
    *,
    limits: Mapping[str, float],
) -> tuple[str, ...]:
  """Returns the settings whose best value may lie outside of their grid.

  These are settings whose chosen value is at the edge of the grid and scores
  more than all other values, unless no value exists beyond it.

  Args:
    scores: Scores of all combinations, one axis per setting.
    chosen: Index of the chosen combination.
    grid: The values of each setting, in the order of the axes.
    limits: Values at the limit of what is possible, such as a weight decay of
      0.

  Returns:
    Names of `grid`.
  """
  names = []
  for axis, (index, (name, values)) in enumerate(zip(chosen, grid.items())):
    others = np.delete(scores, index, axis=axis)
    if (
        index in (0, len(values) - 1)
        and values[index] != limits.get(name)
        and others.size
        and others.max() < scores[tuple(chosen)]
    ):
      names.append(name)
  return tuple(names)
