"""The result of a run in one sentence."""

import math
from typing import Any

from jssl.evals import quality


def finished(summary: dict[str, Any], *, classes: int) -> str:
  """Compares a finished run with its baselines.

  A difference to the untrained net counts if it exceeds two standard errors of
  the difference between two accuracies on the held-out images. With fewer than
  `quality.ENOUGH_IMAGES` of them, the sentence draws no conclusion.

  Args:
    summary: The content of `summary.json`, see `jssl.evals.summary.write`.
    classes: Number of classes; 0 without labels.

  Returns:
    A sentence.
  """
  baselines = summary["baselines"]
  untrained, pixels = baselines["untrained"], baselines["raw_pixels"]
  images = summary.get("images", {}).get("test")
  if images is not None and images < quality.ENOUGH_IMAGES:
    return (
        f"Trained; {images} held-out image{'s' * (images != 1)} cannot show"
        " whether training helped or the features collapsed: hold out"
        f" {quality.ENOUGH_IMAGES} or more."
    )
  collapsed = quality.collapse_warning({"rank": summary["rank"]}) is not None
  if summary["knn"] is None or classes < 2:
    cause = "is only one class" if classes == 1 else "are no labels"
    start = "The features have collapsed" if collapsed else "Trained"
    return (
        f"{start}; there {cause}, so there is no kNN accuracy. The effective"
        f" rank of the features is {summary['rank']:.1f}, compared with"
        f" {untrained['rank']:.1f} for the untrained net and"
        f" {pixels['rank']:.1f} for raw pixels."
    )
  effect = (
      "The features have collapsed"
      if collapsed
      else _effect(summary["knn"], untrained["knn"], images)
  )
  return (
      f"{effect}: kNN accuracy on held-out images is {summary['knn']:.3f},"
      f" compared with {untrained['knn']:.3f} for the untrained net,"
      f" {pixels['knn']:.3f} for raw pixels and {1 / classes:.3f} for chance."
  )


def unfinished(step: int, total: int, rows: list[dict[str, Any]]) -> str:
  """Describes the progress of a run that has no summary yet.

  Args:
    step: Number of steps taken.
    total: Number of steps of the whole training.
    rows: Its metrics.

  Returns:
    A sentence.
  """
  start = (
      f"Not finished, at step {step:,} of {total:,}"
      if step < total
      else f"Trained for {step:,} steps, but not evaluated yet"
  )
  last = next((row for row in reversed(rows) if "rank" in row), None)
  if last is None:
    return f"{start}; there was no quick evaluation yet."
  at = f"after epoch {last['epoch']:.4g}"
  rank = f"the effective rank of the features was {last['rank']:.1f}"
  if "knn" not in last:
    return f"{start}; {at} {rank}."
  return (
      f"{start}; {at} kNN accuracy on held-out images was {last['knn']:.3f},"
      f" and {rank}."
  )


def _effect(knn, untrained, images):
  variance = sum(p * (1 - p) for p in (knn, untrained)) / (images or math.inf)
  if abs(knn - untrained) <= 2 * math.sqrt(variance):
    return "Training made no clear difference"
  return "Training helped" if knn > untrained else "Training hurt"
