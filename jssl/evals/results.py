"""Results of evaluations in a run's folder: as JSON and as tables.

An evaluation is a dict of: "dataset"; "step" of the checkpoint; "train_images",
"test_images" and "classes" (their numbers); "contents", which distinguishes
these pictures from others; "canvas" and "crop_fraction", with which they were
prepared; "notes", with a named sentence for each measure that does not apply
and for everything that was left out; and "results". These hold, for each
encoder ("trained", "untrained", "raw pixels"), each of its stages ("pooled"
first) and each measure, a dict with "accuracy" in [0, 1], its 95% "interval"
and more, or a number, or None where the measure does not apply. "at_edge" of a
measure names settings whose chosen value is the last of its grid.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import json
import os
import pathlib
import re
from typing import Any

from jssl.data.datasets import split_source
from jssl.files import check_writable, write_json

_LONGEST = 40  # Characters of a data set's name in the name of a file.


@dataclasses.dataclass(frozen=True)
class Table:
  """An evaluation as text.

  Attributes:
    title: The data set and the checkpoint.
    columns: Names of the measures.
    rows: (encoder and stage, [text per column]).
    notes: Sentences on what is missing, and on accuracies marked by a star.
  """

  title: str
  columns: list[str]
  rows: list[tuple[str, list[str]]]
  notes: list[str]


def path_for(
    workdir: str | os.PathLike, dataset: str, *, variant: Sequence[str] = ()
) -> pathlib.Path:
  """Chooses the file of an evaluation, and checks that it can be written.

  Args:
    workdir: The run's folder.
    dataset: The data set, as in a config.
    variant: What distinguishes it from the run's own set of this name, if
      anything.

  Returns:
    `evaluation/NAME.json`, with a name made from the data set's: short, of
    characters that every system accepts, and different for every data set.

  Raises:
    OSError: If it cannot be written.
  """
  path = _folder(workdir) / f"{_file_name(dataset, variant)}.json"
  check_writable(path)
  return path


def write(evaluation: dict[str, Any], path: pathlib.Path) -> dict[str, Any]:
  """Writes an evaluation as JSON and, next to it, as a table in Markdown.

  Args:
    evaluation: The evaluation. Measures in the file that are of the same
      pictures and step are kept.
    path: See `path_for`.

  Returns:
    The evaluation with the measures that were kept.
  """
  evaluation = _merge(path, evaluation)
  write_json(evaluation, path)
  text = markdown(evaluation)
  path.with_suffix(".md").write_text(
      text, encoding="utf-8", errors="backslashreplace"
  )
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
    evaluation: The evaluation, as in the file.
    intervals: Whether the 95% intervals follow the accuracies.
  """
  named = {
      name if stage == "pooled" else f"{name}, {stage}": measures
      for name, stages in evaluation["results"].items()
      for stage, measures in stages.items()
  }
  keys = list(dict.fromkeys(key for row in named.values() for key in row))
  kind = "; 95% intervals over test images or draws" if intervals else ""
  notes = evaluation.get("notes", {})
  return Table(
      f"{evaluation['dataset']}: {evaluation['train_images']:,} training and"
      f" {evaluation['test_images']:,} test images, step"
      f" {evaluation['step']}{kind}",
      [key.replace("_", " ") for key in keys],
      [
          (name, [_cell(row.get(key), intervals) for key in keys])
          for name, row in named.items()
      ],
      [f"{name.replace('_', ' ')}: {text}." for name, text in notes.items()]
      + _edges(named),
  )


def markdown(evaluation: dict[str, Any], *, intervals: bool = True) -> str:
  """Returns the table of an evaluation in Markdown, see `tabulate`."""
  table = tabulate(evaluation, intervals=intervals)
  cells = [["encoder", *table.columns]]
  cells += [[name, *row] for name, row in table.rows]
  widths = [max(map(len, column)) for column in zip(*cells)]
  cells.insert(1, ["-" * width for width in widths])
  lines = [f"| {' | '.join(map(str.ljust, line, widths))} |" for line in cells]
  notes = ["", *(f"- {note}" for note in table.notes)] if table.notes else []
  return "\n".join([table.title, "", *lines, *notes, ""])


def _folder(workdir):
  return pathlib.Path(workdir) / "evaluation"


def _file_name(dataset, variant):
  """Keeps a plain name; shortens any other and adds a checksum of all of it."""
  plain = re.fullmatch(r"[a-z0-9_]+", dataset) and len(dataset) <= _LONGEST
  if plain and not variant:
    return dataset
  source, path = split_source(dataset)
  if source == "folder":  # The same folder from anywhere.
    dataset = f"folder:{os.path.abspath(os.path.expanduser(path))}"
  identity = json.dumps([dataset, *variant])
  digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
  # The end of a path is more specific than its start.
  words = re.findall(r"[A-Za-z0-9]+", dataset)
  short = "_".join(words).lower()[-_LONGEST:].strip("_")
  return f"{short or 'set'}-{digest}"


def _merge(path, evaluation):
  """Adds the file's measures if they are of the same encoder and data."""
  if not path.exists():
    return evaluation
  old = json.loads(path.read_text())
  same = set(evaluation) - {"results", "notes"}
  if any(old.get(x) != evaluation[x] for x in same):
    return evaluation
  merged = old["results"]
  for encoder, stages in evaluation["results"].items():
    for stage, measures in stages.items():
      row = merged.setdefault(encoder, {}).setdefault(stage, {})
      row.update(measures)
  notes = {**old["notes"], **evaluation["notes"]}
  return {**evaluation, "notes": notes, "results": merged}


def _edges(named):
  """Returns a note on settings chosen at the edge of their grids, if any."""
  found = [
      f"{name}, {key.replace('_', ' ')}: {setting.replace('_', ' ')}"
      f" {value[setting]:g}"
      for name, row in named.items()
      for key, value in row.items()
      if isinstance(value, dict)
      for setting in value.get("at_edge", ())
  ]
  if not found:
    return []
  return [
      "* The best setting is the last of its grid, so a wider grid may give"
      f" a better one ({'; '.join(found)})."
  ]


def _cell(value: Any, intervals: bool) -> str:
  if value is None:
    return "-"
  if not isinstance(value, dict):
    return f"{value:#.3g}"
  text = f"{value['accuracy']:.3f}" + "*" * bool(value.get("at_edge"))
  if not intervals:
    return text
  low, high = value["interval"]
  return f"{text} ({low:.3f} to {high:.3f})"
