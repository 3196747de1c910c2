"""The results at the end of a run: `summary.json`."""

import importlib.metadata
import os
import pathlib
import platform
import resource
import statistics
import sys
from typing import Any

import jax

from jssl import __version__, progress
from jssl.data import Images
from jssl.encoder import Encoder, raw_pixels, untrained
from jssl.evals.features import compute_for_scores, Features
from jssl.evals.scores import summarize
from jssl.files import write_json

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def write(
    encoder: Encoder,
    workdir: str | os.PathLike,
    train: Images,
    test: Images,
    rows: list[dict[str, Any]],
    *,
    features: Features | None = None,
) -> dict[str, Any]:
  """Evaluates the encoder and its baselines and writes `summary.json`.

  Args:
    encoder: The trained encoder.
    workdir: The run's folder.
    train: Training images, all or some of them.
    test: Test images.
    rows: The run's metrics.
    features: The encoder's features of these images; None to compute them here.

  Returns:
    The content of the file: "knn", "one_shot" and "five_shot" accuracy (0 to 1;
    null without labels) and effective "rank" of the pooled features, the same
    of each of the net's "stages", "baselines" with the same of "raw_pixels" and
    of the "untrained" net, "steps", "seconds", "images_per_second" (median),
    number of "images" per split, "devices", "peak_memory_bytes" of a "device"
    (null if it does not report it) and of the "host"'s process, and "versions".
  """
  config = encoder.config

  def evaluate(encoder, features=None):
    features = features or compute_for_scores(encoder, train, test)
    return summarize(features, train, test, config.eval)

  with progress.stage("evaluating (1 of 3: trained)"):
    trained = evaluate(encoder, features)
  with progress.stage("evaluating (2 of 3: untrained)"):
    before = evaluate(untrained(encoder))
  with progress.stage("evaluating (3 of 3: raw pixels)"):
    pixels = evaluate(raw_pixels(encoder))
    del pixels["stages"]  # There are none.
  speeds = [row["images_per_second"] for row in rows if "loss" in row]
  content = {
      **trained,
      "baselines": {"raw_pixels": pixels, "untrained": before},
      "steps": encoder.step,
      "seconds": max((row["seconds"] for row in rows), default=0.0),
      "images_per_second": statistics.median(speeds) if speeds else None,
      "images": {
          "train": config.resolved.train_images,
          "test": len(test.image),
      },
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
  """Peak memory so far, of the first device and of this process."""
  stats = jax.local_devices()[0].memory_stats() or {}
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return {
      "device": stats.get("peak_bytes_in_use"),
      "host": peak if sys.platform == "darwin" else 1024 * peak,
  }


def table(content: dict[str, Any]) -> str:
  """Returns the content of `summary.json` as a table for the terminal."""
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
    rows: For each line its name and a dict with "knn", "one_shot", "five_shot"
      (None without labels) and "rank", such as summaries and their baselines.
  """
  names = ("knn", "one_shot", "five_shot", "rank")
  lines = [f"{'':15}" + "".join(f"{name:>11}" for name in names)]
  if all(row["knn"] is None for row in rows.values()):
    lines.insert(0, "No labels: only the rank of the features is evaluated.")
  for label, values in rows.items():
    cells = (values[name] for name in names)
    text = ("-" if cell is None else f"{cell:#.3g}" for cell in cells)
    lines.append(f"{label:15}" + "".join(f"{cell:>11}" for cell in text))
  return "\n".join(lines)
