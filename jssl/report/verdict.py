"""What came of a run, in one sentence."""

import math
from typing import Any

from jssl.evals import quality


def finished(summary: dict[str, Any], *, classes: int) -> str:
  """Judges a finished run against its baselines.

  A difference to the untrained net counts if it exceeds two standard errors of
  the difference of two shares of so many held-out images. Of a few images no
  score counts.

  Args:
    summary: What `summary.json` holds, see `jssl.evals.summary.write`.
    classes: Number of classes; 0 without labels.

  Returns:
    A sentence.
  """
  untrained, pixels = (
      summary["baselines"][name] for name in ("untrained", "raw_pixels")
  )
  images = summary.get("images", {}).get("test")
  if images is not None and images < quality.ENOUGH_IMAGES:
    return (
        f"Trained; {images} held-out image{'s' * (images != 1)} cannot show"
        " whether training helped or the features collapsed: hold out"
        f" {quality.ENOUGH_IMAGES} or more."
    )
  collapsed = quality.collapse_warning({"rank": summary["rank"]}) is not None
  if summary["knn"] is None or classes < 2:
    one = classes == 1
    reason = "there is only one class" if one else "there are no labels"
    start = "The features have collapsed" if collapsed else "Trained"
    return (
        f"{start}; {reason}, so kNN says nothing: what remains is the features'"
        f" effective rank, {summary['rank']:.1f} against"
        f" {untrained['rank']:.1f} for the untrained net and"
        f" {pixels['rank']:.1f} for raw pixels."
    )
  effect = (
      "The features have collapsed"
      if collapsed
      else _effect(summary["knn"], untrained["knn"], images)
  )
  return (
      f"{effect}: kNN gets {summary['knn']:.3f} of held-out images right,"
      f" against {untrained['knn']:.3f} for the untrained net,"
      f" {pixels['knn']:.3f} for raw pixels and {1 / classes:.3f} by chance."
  )


def unfinished(step: int, total: int, rows: list[dict[str, Any]]) -> str:
  """Tells how far a run is that has not been judged yet.

  Args:
    step: Steps taken.
    total: Steps of the whole training.
    rows: Its metrics.

  Returns:
    A sentence.
  """
  start = (
      f"Not finished, at step {step:,} of {total:,}"
      if step < total
      else f"Trained for {step:,} steps, but not judged yet"
  )
  signs = next((row for row in reversed(rows) if "rank" in row), None)
  if signs is None:
    return f"{start}; there was no evaluation yet."
  at = f"after epoch {signs['epoch']:.4g}"
  rank = f"the features' effective rank was {signs['rank']:.1f}"
  if "knn" not in signs:
    return f"{start}; {at} {rank}."
  return (
      f"{start}; {at} kNN got {signs['knn']:.3f} of held-out images right, and"
      f" {rank}."
  )


def _effect(knn, untrained, images):
  variance = sum(p * (1 - p) for p in (knn, untrained)) / (images or math.inf)
  if abs(knn - untrained) <= 2 * math.sqrt(variance):
    return "Training made no clear difference"
  return "Training helped" if knn > untrained else "Training made it worse"
