"""The report of a run, or of several, as one HTML file."""

from collections.abc import Sequence
import os
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from jssl import files
from jssl.evals import results
from jssl.report import (
    conclusions,
    curves,
    embedding_map,
    feature_maps,
    neighbours,
    tables,
    thumbnails,
    views,
)
from jssl.report.run import loaded, Run, splits

# Parts of a run's page that are left out without images or finite features.
_OF_IMAGES = (
    "train test views map neighbours confusion reconstructions"
    " feature_maps".split()
)


def write(run: Run, path: str | os.PathLike) -> None:
  """Writes the report of a run.

  Args:
    run: The run, see `jssl.report.load`. What needs its images is left out if
      they could not be loaded.
    path: The file to write, atomically. It needs no other file and no network.

  Raises:
    OSError: If it cannot be written.
  """
  content = {
      **dict.fromkeys(_OF_IMAGES),
      **_summary(run),
      "missing": run.missing,
      "panels": curves.panels({run.workdir: run.rows}),
      "description": tables.describe(run),
      "settings": tables.settings(run.config),
      "scores": tables.scores(run.summary) if run.summary else None,
      "evaluations": list(
          map(results.tabulate, results.read(run.workdir, step=run.step))
      ),
      "last_reconstructions": _drawn_while_training(run.workdir),
  }
  if run.missing is None:
    content |= _of_images(run)
  _render("run.html", content, path)


def write_comparison(runs: Sequence[Run], path: str | os.PathLike) -> None:
  """Writes a comparison of runs.

  Args:
    runs: The runs; encoders and images are not needed, see `jssl.report.read`.
    path: As in `write`.

  Raises:
    OSError: If it cannot be written.
  """
  names = _short_names([run.workdir for run in runs])
  rows = {name: run.rows for name, run in zip(names, runs, strict=True)}
  content = {
      "runs": [
          {**_summary(run), "name": name, "scores": _compared(run)}
          for name, run in zip(names, runs)
      ],
      "names": names,
      "panels": curves.panels(rows),
      "differences": tables.differences(runs),
      "one_set": len({run.config.data.name for run in runs}) == 1,
  }
  _render("comparison.html", content, path)


def _summary(run: Run) -> dict[str, Any]:
  """The run, its title, and its results in a sentence."""
  if run.summary:
    classes = len(run.config.resolved.classes)
    conclusion = conclusions.finished(run.summary, classes=classes)
  else:
    conclusion = conclusions.unfinished(run.step, run.total_steps, run.rows)
  title = f"{run.config.method.name} on {run.config.data.name}"
  return {"run": run, "title": title, "conclusion": conclusion}


def _of_images(run: Run) -> dict[str, Any]:
  """The sections that need the encoder and images."""
  encoder, train_images, test_images = loaded(run)
  train, test = splits(run)
  content = {
      "train": train,
      "test": test,
      "views": views.make_views(encoder.method, train_images),
      "map": embedding_map.make_map(test),
      "reconstructions": views.reconstruct(encoder, test_images),
      "feature_maps": feature_maps.make_feature_maps(encoder, test_images),
  }
  if np.isfinite(train.features).all() and np.isfinite(test.features).all():
    k, temperature = run.config.eval.k, run.config.eval.temperature
    content["neighbours"] = neighbours.find_nearest(train, test)
    content["confusion"] = neighbours.confuse(
        train, test, k=k, temperature=temperature
    )
  return content


def _drawn_while_training(workdir):
  """The last file of reconstructions, for when they cannot be made again."""
  path = pathlib.Path(workdir) / "reconstructions.png"
  if not path.exists():
    return None
  pixels = np.asarray(Image.open(path).convert("RGB"))
  return thumbnails.data_uri(pixels, lossless=False)


def _compared(run):
  """Scores and facts of a run, in the order of the table's columns."""
  summary = run.summary or {}
  baselines = summary.get("baselines", {})
  untrained = baselines.get("untrained", {}).get("knn")
  return [
      run.config.method.name,
      run.config.net.name,
      run.config.data.name,
      *(tables.score(summary.get(key), key) for key in tables.SCORES),
      tables.score(untrained, "knn"),
      f"{run.step:,}",
      tables.duration(tables.seconds(run)) or "–",
      tables.speed(summary) or "–",
  ]


def _short_names(workdirs):
  """Removes the folders that all have in common; equal names get a number."""
  parts = [pathlib.Path(workdir).absolute().parts for workdir in workdirs]
  common = len(os.path.commonprefix(parts))
  names = ["/".join(path[min(common, len(path) - 1) :]) for path in parts]
  return [
      f"{name} ({names[:i].count(name)})" if names.count(name) > 1 else name
      for i, name in enumerate(names, start=1)
  ]


def _render(template, content, path):
  import jinja2  # Slow to import.

  environment = jinja2.Environment(
      loader=jinja2.PackageLoader("jssl.report"),
      autoescape=True,
      undefined=jinja2.StrictUndefined,
      trim_blocks=True,
      lstrip_blocks=True,
  )
  text = environment.get_template(template).render(content)
  with files.atomic(path) as temporary:
    # The name of a folder need not be valid UTF-8.
    temporary.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")
