"""The verdict at the end of a run: `summary.json`."""

import importlib.metadata
import pathlib
import platform
import resource
import statistics
import sys
from typing import Any

import jax

from jssl import __version__
from jssl import encoder
from jssl import progress
from jssl import run as runs
from jssl.evals.features import Features
from jssl.files import write_json
from jssl.run import Run
from jssl.step import TrainState

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def write(
    run: Run,
    workdir: str,
    state: TrainState,
    rows: list[dict[str, Any]],
    features: Features | None = None,
) -> dict[str, Any]:
  """Evaluates the encoder and its baselines and writes `summary.json`.

  Args:
    run: The run.
    workdir: Its folder.
    state: The trained state.
    rows: The run's metrics.
    features: Of the trained state; None to compute them here.

  Returns:
    What was written: "knn", "one_shot" and "five_shot" accuracy (0 to 1; null
    without labels) and effective "rank" of the pooled features, the same of
    every one of the net's "stages", "baselines" with the same of "raw_pixels"
    and of the "untrained" net, "steps", "seconds", "images_per_second"
    (median), number of "images" of each split, "devices", "peak_memory_bytes"
    of a "device" (null if it does not tell) and of the "host"'s process, and
    "versions".
  """
  raw_pixels = encoder.make_raw_pixels(
      image_size=run.config.image_size,
      crop_fraction=run.config.eval.crop_fraction,
  )
  speeds = [row["images_per_second"] for row in rows if "loss" in row]
  with progress.stage("evaluating (1 of 3: trained)"):
    features = features or runs.compute_features(run, state)
    trained = runs.summarize(run, features)
  with progress.stage("evaluating (2 of 3: untrained)"):
    features = runs.compute_features(run, runs.initial_state(run))
    untrained = runs.summarize(run, features)
  with progress.stage("evaluating (3 of 3: raw pixels)"):
    raw = runs.summarize(run, runs.features_of(run, raw_pixels, None))
    del raw["stages"]
  content = {
      **trained,
      "baselines": {"raw_pixels": raw, "untrained": untrained},
      "steps": int(state.step),
      "seconds": max((row["seconds"] for row in rows), default=0.0),
      "images_per_second": statistics.median(speeds) if speeds else None,
      "images": {"train": run.feed.size, "test": len(run.test.image)},
      "devices": [device.device_kind for device in jax.devices()],
      "peak_memory_bytes": _peak_memory(),
      "versions": {
          "jssl": __version__,
          "python": platform.python_version(),
          **{name: importlib.metadata.version(name) for name in _PACKAGES},
      },
  }
  write_json(content, pathlib.Path(workdir) / "summary.json")
  return content


def _peak_memory() -> dict[str, int | None]:
  """Largest memory so far, of the first device and of this process."""
  stats = jax.local_devices()[0].memory_stats() or {}
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return {
      "device": stats.get("peak_bytes_in_use"),
      "host": peak if sys.platform == "darwin" else 1024 * peak,
  }


def table(content: dict[str, Any]) -> str:
  """Returns the verdict as a small table for the terminal."""
  rows = {
      "trained": content,
      **{f"  {name}": row for name, row in content["stages"].items()},
      "untrained net": content["baselines"]["untrained"],
      "raw pixels": content["baselines"]["raw_pixels"],
  }
  return side_by_side(rows)


def side_by_side(rows: dict[str, dict[str, Any]]) -> str:
  """Returns scores as a small table for the terminal.

  Args:
    rows: A line each: its name, and a dict with "knn", "one_shot", "five_shot"
      (None without labels) and "rank", such as summaries and their baselines.
  """
  names = ("knn", "one_shot", "five_shot", "rank")
  lines = [f"{'':15}" + "".join(f"{name:>11}" for name in names)]
  if all(row["knn"] is None for row in rows.values()):
    lines.insert(0, "No labels to judge by, but by the rank of the features:")
  for label, values in rows.items():
    cells = (values[name] for name in names)
    text = ("-" if cell is None else f"{cell:#.3g}" for cell in cells)
    lines.append(f"{label:15}" + "".join(f"{cell:>11}" for cell in text))
  return "\n".join(lines)
