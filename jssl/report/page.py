"""The report of a run, or of several, as one HTML file."""

from collections.abc import Sequence
import os
import pathlib
from typing import Any

import numpy as np

from jssl import files
from jssl.evals import evaluations
from jssl.report import curves
from jssl.report import embedding_map
from jssl.report import feature_maps
from jssl.report import material as materials
from jssl.report import neighbours
from jssl.report import tables
from jssl.report import thumbnails
from jssl.report import verdict
from jssl.report import views
from jssl.report.material import Log
from jssl.report.material import Material

# What the page of a run lacks without images, or features that can be used.
_NO_PICTURES: dict[str, Any] = {
    "views": [],
    "map": None,
    "neighbours": [],
    "confusion": None,
    "reconstructions": [],
    "maps": None,
    "trained_on": None,
    "tested_on": None,
}


def write(material: Material, path: str | os.PathLike) -> None:
  """Writes the report of a run.

  Args:
    material: The run.
    path: The file to write, whole or not at all. It needs no other file, and
      no network.

  Raises:
    OSError: If it cannot be written.
  """
  log = material.log
  content = {
      **_written(log),
      "missing": material.missing,
      "panels": curves.panels({log.workdir: log.rows}),
      "facts": tables.facts(log),
      "settings": tables.settings(log.config),
      "scores": tables.scores(log.summary) if log.summary else None,
      "evaluations": [
          evaluations.tabulate(one)
          for one in evaluations.read(log.workdir, step=log.step)
      ],
      "stale": _drawn_while_training(log.workdir),
  }
  pictured = _pictured(material) if material.missing is None else {}
  _render("run.html", {**_NO_PICTURES, **content, **pictured}, path)


def write_comparison(logs: Sequence[Log], path: str | os.PathLike) -> None:
  """Writes a comparison of runs.

  Args:
    logs: What each of them wrote down.
    path: As in `write`.

  Raises:
    OSError: If it cannot be written.
  """
  names = _short_names([log.workdir for log in logs])
  rows = {name: log.rows for name, log in zip(names, logs, strict=True)}
  content = {
      "runs": [
          {**_written(log), "name": name, "scores": _compared(log)}
          for name, log in zip(names, logs)
      ],
      "names": names,
      "panels": curves.panels(rows),
      "differences": tables.differences(logs),
      "one_set": len({log.config.data.name for log in logs}) == 1,
  }
  _render("comparison.html", content, path)


def _written(log: Log) -> dict[str, Any]:
  """What can be said without the encoder."""
  config = log.config
  total = materials.total_steps(config)
  return {
      "log": log,
      "title": f"{config.method.name} on {config.data.name}",
      "verdict": (
          verdict.finished(log.summary, classes=len(config.resolved.classes))
          if log.summary
          else verdict.unfinished(log.step, total, log.rows)
      ),
  }


def _pictured(material: Material) -> dict[str, Any]:
  """What the encoder makes of images."""
  train = materials.encode_some(material, train=True)
  test = materials.encode_some(material, train=False)
  content: dict[str, Any] = {"views": views.make_views(material)}
  content["map"] = embedding_map.make_map(test)
  content["maps"] = feature_maps.make_feature_maps(material)
  content["reconstructions"] = views.reconstruct(material)
  if np.isfinite(train.features).all() and np.isfinite(test.features).all():
    content["neighbours"] = neighbours.find_nearest(train, test)
    content["confusion"] = neighbours.confuse(
        train,
        test,
        k=material.log.config.eval.k,
        temperature=material.log.config.eval.temperature,
    )
  for name, encoded, train_split in (
      ("trained_on", train, True),
      ("tested_on", test, False),
  ):
    images = materials.images_of(material, train=train_split)
    content[name] = len(encoded.index), len(images.image)
  return content


def _drawn_while_training(workdir):
  """The pictures that training left, for when they cannot be made again."""
  from PIL import Image

  path = pathlib.Path(workdir) / "reconstructions.png"
  if not path.exists():
    return None
  with Image.open(path) as image:
    return thumbnails.data_uri(np.asarray(image.convert("RGB")), lossless=False)


def _compared(log):
  """Scores and facts of a run, in the order of the table's columns."""
  summary = log.summary or {}
  baselines = summary.get("baselines", {})
  untrained = baselines.get("untrained", {}).get("knn")
  return [
      log.config.method.name,
      log.config.net.name,
      log.config.data.name,
      *(tables.score(summary.get(key), key) for key in tables.SCORES),
      tables.score(untrained, "knn"),
      f"{log.step:,}",
      tables.duration(tables.seconds(log)) or "–",
      tables.speed(summary) or "–",
  ]


def _short_names(workdirs):
  """Leaves out the folders that all have in common, and tells equals apart."""
  parts = [pathlib.Path(workdir).absolute().parts for workdir in workdirs]
  common = len(os.path.commonprefix(parts))
  names = ["/".join(path[min(common, len(path) - 1) :]) for path in parts]
  seen = lambda i: names[: i + 1].count(names[i])
  return [
      f"{name} ({seen(i)})" if names.count(name) > 1 else name
      for i, name in enumerate(names)
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
