"""The parts of a report: the files of a run, its encoder and its images."""

import dataclasses
import json
import os
import pathlib
import shlex
from typing import Any

import numpy as np

from jssl import config, data, encoder, experiment
from jssl.checkpoint import Checkpoints
from jssl.config import ConfigDict
from jssl.encoder import Encoder
from jssl.evals.features import compute, Features
from jssl.recorder import read_metrics

# Enough for nearest neighbours and a map, few enough to encode again and to
# keep the page small.
_TRAIN_ROWS = 5000
_TEST_ROWS = 1500


@dataclasses.dataclass(frozen=True)
class Run:
  """A run, with what a report needs of it.

  Attributes:
    workdir: The run's folder.
    config: Its config, with "resolved" facts about the data.
    step: Number of steps of its newest checkpoint.
    rows: Its metrics.
    summary: The content of `summary.json`; None if there is none of this step.
    encoder: The encoder of this checkpoint; None if it was not loaded.
    train: Training images: all, or evenly spaced ones of a large set; None if
      they were not loaded.
    test: Held-out images, in the same way.
    features: Features of these images; None to compute them for the report.
    missing: Why the images could not be loaded; None if nothing went wrong.
  """

  workdir: str
  config: ConfigDict
  step: int
  rows: list[dict[str, Any]]
  summary: dict[str, Any] | None
  encoder: Encoder | None = None
  train: data.Images | None = None
  test: data.Images | None = None
  features: Features | None = None
  missing: str | None = None

  @property
  def total_steps(self) -> int:
    """Number of steps of the whole training."""
    size, batch_size = self.config.resolved.train_images, self.config.batch_size
    return round(self.config.epochs * data.steps_per_epoch(size, batch_size))


@dataclasses.dataclass(frozen=True)
class Split:
  """Images of one split that a report shows, and their features.

  Attributes:
    images: At most a few thousand, evenly spaced in the split.
    index: Their numbers in the split, int `[N]`.
    features: Their pooled features, float32 `[N, D]`.
    total: Number of images in the split.
  """

  images: data.Images
  index: np.ndarray
  features: np.ndarray
  total: int


def read(workdir: str | os.PathLike) -> Run:
  """Reads the files of a run, without its encoder and images.

  Args:
    workdir: The run's folder.

  Raises:
    FileNotFoundError: If the folder has no run, or no checkpoint yet.
  """
  workdir = os.fspath(workdir)
  settings = config.load_config(workdir)
  checkpoints = Checkpoints(workdir, read_only=True)
  step = checkpoints.latest
  checkpoints.close()
  if step is None:
    raise FileNotFoundError(
        f"{workdir} has no checkpoint, so there is nothing to report yet;"
        " train first, with python -m jssl.train --config=METHOD:DATASET"
        f" --workdir={shlex.quote(workdir)}."
    )
  return _read(workdir, settings, step)


def load(workdir: str | os.PathLike) -> Run:
  """Loads a run: its newest checkpoint and, if they still exist, its images.

  Args:
    workdir: The run's folder.

  Raises:
    FileNotFoundError: If the folder has no run, or no checkpoint yet.
  """
  run = read(workdir)
  run = dataclasses.replace(run, encoder=encoder.load(run.workdir))
  try:
    train, test = (
        experiment.load_images(
            run.config, experiment.open_split(run.config, split)
        )
        for split in ("train", "test")
    )
  except (OSError, ValueError) as error:
    return dataclasses.replace(run, missing=str(error))
  return dataclasses.replace(run, train=train, test=test)


def gather(
    trained: Encoder,
    workdir: str | os.PathLike,
    train: data.Images,
    test: data.Images,
    features: Features | None = None,
) -> Run:
  """Gathers the same for a run that is in memory.

  Args:
    trained: The encoder, before, during or after training.
    workdir: The run's folder.
    train: Training images.
    test: Held-out images.
    features: Features of these images by this encoder; None to compute them
      for the report.
  """
  run = _read(workdir, trained.config, trained.step)
  return dataclasses.replace(
      run, encoder=trained, train=train, test=test, features=features
  )


def spaced(length: int, count: int) -> list[int]:
  """Selects at most `count` of `length` images, evenly spaced.

  From the middle of equal parts, as sets are often sorted by class.
  """
  count = min(count, length)
  return [int((i + 0.5) * length / count) for i in range(count)]


def loaded(run: Run) -> tuple[Encoder, data.Images, data.Images]:
  """Returns the encoder, the training images and the held-out images.

  Args:
    run: The run.

  Raises:
    ValueError: If they were not loaded.
  """
  if run.encoder is None or run.train is None or run.test is None:
    cause = run.missing or "load the run with jssl.report.load."
    raise ValueError(f"The images of {run.workdir} are not loaded: {cause}")
  return run.encoder, run.train, run.test


def splits(run: Run) -> tuple[Split, Split]:
  """Selects images of both splits, with their features.

  At most 5,000 training and 1,500 held-out images. They are encoded here
  unless the run has their features.

  Args:
    run: A run with images.

  Returns:
    The training and the held-out images.

  Raises:
    ValueError: If the images were not loaded.
  """
  trained, train, test = loaded(run)
  known = run.features or Features(None, {})
  return (
      _split(trained, train, known.train or {}, _TRAIN_ROWS),
      _split(trained, test, known.test, _TEST_ROWS),
  )


def _split(trained, images, features, count):
  total = len(images.image)
  index = data.evenly(total, count)
  images = images.take(index)
  if "pooled" in features:
    return Split(images, index, features["pooled"][index], total)
  # After training, `encode` is compiled for batches of this size.
  size = trained.config.batch_size
  found = compute(trained, None, images, batch_size=size)
  return Split(images, index, found.test["pooled"], total)


def _read(workdir, settings, step):
  path = pathlib.Path(workdir) / "summary.json"
  summary = json.loads(path.read_text()) if path.exists() else None
  if summary and summary["steps"] != step:
    summary = None  # Older than the resumed run.
  rows = [row for row in read_metrics(workdir) if row["step"] <= step]
  return Run(os.fspath(workdir), settings, step, rows, summary)
