"""How sure a measured accuracy is."""

from collections.abc import Sequence
import statistics
from typing import Any

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
  checks.check_labels(labels)
  from scipy import stats  # Slow to import.

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
