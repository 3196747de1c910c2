"""Summary and config of a run as rows of text."""

import collections
from collections.abc import Sequence
import json
from typing import Any

from jssl.config import ConfigDict, difference
from jssl.evals.results import Table
from jssl.report.run import Run

SCORES = {
    "knn": "kNN",
    "one_shot": "one-shot",
    "five_shot": "five-shot",
    "rank": "rank",
}
_LONGEST = 300  # Characters of a value, such as the names of all classes.


def scores(summary: dict[str, Any]) -> Table:
  """Makes the table of an encoder, its stages and the baselines.

  Scores that no row has are left out.
  """
  named = {
      "trained": summary,
      **summary["stages"],
      "untrained net": summary["baselines"]["untrained"],
      "raw pixels": summary["baselines"]["raw_pixels"],
  }
  known = lambda key: any(row[key] is not None for row in named.values())
  keys = list(filter(known, SCORES))
  rows = [
      (name.replace("_", " "), [score(row[key], key) for key in keys])
      for name, row in named.items()
  ]
  return Table("Scores", [SCORES[key] for key in keys], rows, notes=[])


def score(value: float | None, key: str) -> str:
  """Returns a score as text, a dash for None."""
  if value is None:
    return "–"
  return f"{value:.1f}" if key == "rank" else f"{value:.3f}"


def describe(run: Run) -> list[tuple[str, str]]:
  """Returns (name, value) pairs that describe a run, without unknown ones."""
  config, summary = run.config, run.summary or {}
  test_images = summary.get("images", {}).get("test")
  held_out = "" if test_images is None else f", {test_images:,} held out"
  epochs = run.step * config.epochs / max(run.total_steps, 1)
  devices = collections.Counter(summary.get("devices", []))
  peak = summary.get("peak_memory_bytes", {})
  versions = summary.get("versions", {})
  named = {
      "folder": run.workdir,
      "method": config.method.name,
      "net": config.net.name,
      "data": config.data.name,
      "images": f"{config.resolved.train_images:,} to train on{held_out}",
      "steps": (
          f"{run.step:,} with {config.batch_size:,} images each"
          f" ({epochs:.4g} epochs)"
      ),
      "time": duration(seconds(run)),
      "images per second": speed(summary),
      "devices": ", ".join(f"{n} × {name}" for name, n in devices.items()),
      "peak memory": ", ".join(
          f"{peak[name] / 2**30:.2f} GiB on the {name}"
          for name in ("device", "host")
          if peak.get(name)
      ),
      "versions": ", ".join(
          f"{k} {version}" for k, version in versions.items()
      ),
  }
  return [(name, value) for name, value in named.items() if value]


def settings(config: ConfigDict) -> list[tuple[str, str]]:
  """Returns (key, value) of all entries of a config, long ones shortened."""
  rows = []
  for key, _, value in difference(ConfigDict(), config):
    text = value if isinstance(value, str) else json.dumps(value)
    cut = len(text) > _LONGEST
    rows.append((key, f"{text[:_LONGEST]} ..." if cut else text))
  return rows


def differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
  """Returns (key, [a value for each run]) of entries that differ."""
  tables = [dict(settings(run.config)) for run in runs]
  keys = sorted(set().union(*tables))
  rows = [(key, [table.get(key, "–") for table in tables]) for key in keys]
  return [(key, values) for key, values in rows if len(set(values)) > 1]


def seconds(run: Run) -> float | None:
  """Returns the training time; None if there are no metrics yet."""
  if run.summary:
    return run.summary["seconds"]
  return max((row["seconds"] for row in run.rows), default=None)


def duration(value: float | None) -> str:
  """Returns seconds as "42 s", "12 min" or "3 h 20 min"; "" for None."""
  if value is None:
    return ""
  if value < 120:
    return f"{value:.0f} s"
  minutes = round(value / 60)
  hours = f"{minutes // 60} h " if minutes >= 120 else ""
  return f"{hours}{minutes % 60 if hours else minutes} min"


def speed(summary: dict[str, Any]) -> str:
  """Returns images per second as text; "" if unknown."""
  value = summary.get("images_per_second")
  return "" if value is None else f"{value:,.0f}"
