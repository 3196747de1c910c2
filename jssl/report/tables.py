"""What a run's summary and config say, as rows of text."""

import collections
from collections.abc import Sequence
import json
from typing import Any, NamedTuple

from jssl import config as configs
from jssl.report import material as materials
from jssl.report.material import Log

SCORES = {
    "knn": "kNN",
    "one_shot": "one-shot",
    "five_shot": "five-shot",
    "rank": "rank",
}
_LONGEST = 300  # Characters of a value, such as the names of all classes.


class Scores(NamedTuple):
  """A table of scores.

  Attributes:
    columns: Names of the scores, those left out that nothing has.
    rows: (features, [a text for each column]).
  """

  columns: list[str]
  rows: list[tuple[str, list[str]]]


def scores(summary: dict[str, Any]) -> Scores:
  """Makes the table of the net, its stages and the baselines."""
  named = {
      "trained": summary,
      **summary["stages"],
      "untrained net": summary["baselines"]["untrained"],
      "raw pixels": summary["baselines"]["raw_pixels"],
  }
  keys = [
      key
      for key in SCORES
      if any(row[key] is not None for row in named.values())
  ]
  return Scores(
      [SCORES[key] for key in keys],
      [
          (name.replace("_", " "), [score(row[key], key) for key in keys])
          for name, row in named.items()
      ],
  )


def score(value: float | None, key: str) -> str:
  """Returns a score as text, a dash for None."""
  if value is None:
    return "–"
  return f"{value:.1f}" if key == "rank" else f"{value:.3f}"


def facts(log: Log) -> list[tuple[str, str]]:
  """Returns (name, value) of what a run was."""
  config, summary = log.config, log.summary or {}
  test_images = summary.get("images", {}).get("test")
  held_out = "" if test_images is None else f", {test_images:,} held out"
  epochs = log.step * config.epochs / max(materials.total_steps(config), 1)
  named = {
      "folder": log.workdir,
      "method": config.method.name,
      "net": config.net.name,
      "data": config.data.name,
      "images": f"{config.resolved.train_images:,} to train on{held_out}",
      "steps": (
          f"{log.step:,} of {config.batch_size:,} images ({epochs:.4g} epochs)"
      ),
      "time": duration(seconds(log)),
      "images a second": speed(summary),
      "devices": _counted(summary.get("devices", [])),
      "peak memory": memory(summary.get("peak_memory_bytes", {})),
      "versions": ", ".join(
          f"{name} {version}"
          for name, version in summary.get("versions", {}).items()
      ),
  }
  return [(name, value) for name, value in named.items() if value]


def settings(config: configs.ConfigDict) -> list[tuple[str, str]]:
  """Returns (key, value) of all entries of a config."""
  nothing = configs.ConfigDict()
  return [
      (key, setting(value))
      for key, _, value in configs.difference(nothing, config)
  ]


def differences(logs: Sequence[Log]) -> list[tuple[str, list[str]]]:
  """Returns (key, [a value for each run]) of the entries that are not equal."""
  tables = [dict(settings(log.config)) for log in logs]
  keys = sorted(set().union(*tables))
  rows = [(key, [table.get(key, "–") for table in tables]) for key in keys]
  return [(key, values) for key, values in rows if len(set(values)) > 1]


def setting(value: Any) -> str:
  """Returns the value of an entry as text, shortened if it is long."""
  text = value if isinstance(value, str) else json.dumps(value)
  return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def seconds(log: Log) -> float | None:
  """Returns how long a run trained; None if it wrote nothing down."""
  if log.summary:
    return log.summary["seconds"]
  return max((row["seconds"] for row in log.rows), default=None)


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
  """Returns images a second as text; "" if they are not known."""
  value = summary.get("images_per_second")
  return "" if value is None else f"{value:,.0f}"


def memory(peak: dict[str, int | None]) -> str:
  """Returns a summary's "peak_memory_bytes" as text."""
  parts = ((peak.get(name), name) for name in ("device", "host"))
  return ", ".join(
      f"{size / 2**30:.2f} GiB on the {name}" for size, name in parts if size
  )


def _counted(devices):
  counts = collections.Counter(devices)
  return ", ".join(f"{count} × {name}" for name, count in counts.items())
