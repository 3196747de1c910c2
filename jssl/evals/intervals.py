"""How sure a measured accuracy is, and the setting that it was reached by."""

from collections.abc import Mapping, Sequence
import statistics
from typing import Any

import numpy as np

from jssl.evals import checks

CONFIDENCE = 0.95


def of_images(predicted: Any, labels: Any) -> dict[str, Any]:
  """Accuracy, and Wilson's interval over which images were drawn.

  Args:
    predicted: Classes, int `[N]`.
    labels: The true ones, int `[N]`.

  Returns:
    "accuracy" in [0, 1] and "interval", its lower and upper 95% limit.

  Raises:
    ValueError: If an image has no label.
  """
  from scipy import stats  # Slow to import.

  checks.check_labels(labels)
  right = int((predicted == labels).sum())
  test = stats.binomtest(right, len(labels))
  interval = test.proportion_ci(CONFIDENCE, method="wilson")
  return {
      "accuracy": right / len(labels),
      "interval": [float(interval.low), float(interval.high)],
  }


def of_draws(accuracies: Sequence[float]) -> dict[str, Any]:
  """Mean of several draws, and Student's interval of that mean.

  Args:
    accuracies: One of each draw, two at least.

  Returns:
    "accuracy", the mean; "std" over the draws; and "interval", the lower and
    upper 95% limit of the mean.
  """
  from scipy import stats

  values = [float(x) for x in accuracies]
  mean, std = statistics.mean(values), statistics.stdev(values)
  half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
  half = float(half) * std / len(values) ** 0.5
  return {
      "accuracy": mean,
      "std": std,
      "interval": [mean - half, mean + half],
  }


def at_edge(
    scores: np.ndarray,
    chosen: Sequence[int],
    grid: Mapping[str, Sequence[float]],
    *,
    limits: Mapping[str, float],
) -> tuple[str, ...]:
  """Names the settings whose best value may lie outside of their grid.

  A value at the edge of a grid counts if every other one of its setting scores
  less, and there is something beyond.

  Args:
    scores: Of each combination, an axis for each setting.
    chosen: Where the chosen one is.
    grid: The values of each setting, in the order of the axes.
    limits: Values that nothing lies beyond, such as a weight decay of 0.

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
