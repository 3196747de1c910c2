"""What evaluations found, in a run's folder: as JSON and as tables.

An evaluation is a dict: "dataset", "step" of the checkpoint, "train_images",
"test_images", "classes" (their number), and "results", which gives for each
encoder ("trained", "untrained", "raw pixels"), each stage of it ("pooled"
first) and each measure a dict of "accuracy" in [0, 1], its 95% "interval" and
more, or a number, or None where it does not apply.
"""

import json
import os
import pathlib
from typing import Any, NamedTuple

from jssl.config import write_json


class Table(NamedTuple):
  """An evaluation as text.

  Attributes:
    title: What it is of.
    columns: Names of the measures.
    rows: (encoder and stage, [a text for each column]).
  """

  title: str
  columns: list[str]
  rows: list[tuple[str, list[str]]]


def write(
    evaluation: dict[str, Any], workdir: str | os.PathLike
) -> dict[str, Any]:
  """Writes `evaluation/DATASET.json` and the same as a table in Markdown.

  Args:
    evaluation: What was found. Measures that are there already, of the same
      data and step, are kept beside it.
    workdir: The run's folder.

  Returns:
    The evaluation with what was there.
  """
  folder = _folder(workdir)
  folder.mkdir(parents=True, exist_ok=True)
  name = "".join(c if c.isalnum() else "_" for c in evaluation["dataset"])
  path = folder / f"{name}.json"
  evaluation = _merge(path, evaluation)
  write_json(evaluation, path)
  path.with_suffix(".md").write_text(markdown(evaluation))
  return evaluation


def read(workdir: str | os.PathLike, *, step: int) -> list[dict[str, Any]]:
  """Reads all evaluations of one checkpoint.

  Args:
    workdir: The run's folder.
    step: Steps taken by the checkpoint.
  """
  paths = sorted(_folder(workdir).glob("*.json"))
  evaluations = [json.loads(path.read_text()) for path in paths]
  return [one for one in evaluations if one["step"] == step]


def tabulate(evaluation: dict[str, Any], *, intervals: bool = True) -> Table:
  """Makes a table of an evaluation.

  Args:
    evaluation: See above.
    intervals: Whether the 95% intervals stand beside the accuracies.
  """
  named = {
      name if stage == "pooled" else f"{name}, {stage}": measures
      for name, stages in evaluation["results"].items()
      for stage, measures in stages.items()
  }
  keys = list(dict.fromkeys(key for row in named.values() for key in row))
  kind = "; 95% intervals over test images or draws" if intervals else ""
  return Table(
      f"{evaluation['dataset']}: {evaluation['train_images']:,} training and"
      f" {evaluation['test_images']:,} test images, step"
      f" {evaluation['step']}{kind}",
      [key.replace("_", " ") for key in keys],
      [
          (name, [_cell(row.get(key), intervals) for key in keys])
          for name, row in named.items()
      ],
  )


def markdown(evaluation: dict[str, Any], *, intervals: bool = True) -> str:
  """Returns the table of an evaluation in Markdown, see `tabulate`."""
  title, columns, rows = tabulate(evaluation, intervals=intervals)
  cells = [["encoder", *columns], *([name, *row] for name, row in rows)]
  widths = [max(map(len, column)) for column in zip(*cells)]
  cells.insert(1, ["-" * width for width in widths])
  lines = [f"| {' | '.join(map(str.ljust, line, widths))} |" for line in cells]
  return "\n".join([title, "", *lines, ""])


def _folder(workdir):
  return pathlib.Path(workdir) / "evaluation"


def _merge(path, evaluation):
  """Adds measures of before, if the encoder and the data are these."""
  if not path.exists():
    return evaluation
  old = json.loads(path.read_text())
  if any(old.get(x) != evaluation[x] for x in evaluation if x != "results"):
    return evaluation
  merged = old["results"]
  for encoder, stages in evaluation["results"].items():
    for stage, measures in stages.items():
      row = merged.setdefault(encoder, {}).setdefault(stage, {})
      row.update(measures)
  return {**evaluation, "results": merged}


def _cell(value: Any, intervals: bool) -> str:
  if value is None:
    return "-"
  if not isinstance(value, dict):
    return f"{value:#.3g}"
  text = f"{value['accuracy']:.3f}"
  if not intervals:
    return text
  low, high = value["interval"]
  return f"{text} ({low:.3f} to {high:.3f})"
