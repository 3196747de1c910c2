"""What a report is made of: a run's files, its encoder, its images."""

from collections.abc import Callable
import json
import os
import pathlib
import shlex
from typing import Any, NamedTuple

import jax
import numpy as np

from jssl import config as configs
from jssl import data
from jssl import encoder
from jssl import metrics
from jssl import run as runs
from jssl.checkpoint import Checkpoints
from jssl.config import ConfigDict
from jssl.evals import features
from jssl.method import Method
from jssl.run import Run
from jssl.step import TrainState

PyTree = Any

# Enough to find neighbours among and to draw a map of, few enough to encode
# again, and to keep the page small.
_TRAIN_ROWS = 5000
_TEST_ROWS = 1500


class Log(NamedTuple):
  """What a run wrote down.

  Attributes:
    workdir: Its folder.
    config: Its config, with "resolved" facts about the data.
    step: Steps taken by its newest checkpoint.
    rows: Its metrics.
    summary: What `summary.json` holds; None if there is none of this step.
  """

  workdir: str
  config: ConfigDict
  step: int
  rows: list[dict[str, Any]]
  summary: dict[str, Any] | None


class Material(NamedTuple):
  """A run with its encoder and images.

  Attributes:
    log: What it wrote down.
    method: The method.
    params: What `encode` takes first, (params, carried) of the state.
    encode: See `jssl.encoder.make_encode`.
    train: Images it is trained on; None if they cannot be loaded (any more).
    test: Held-out images, or None.
    missing: Why there are no images, or None.
  """

  log: Log
  method: Method
  params: PyTree
  encode: Callable[..., Any]
  train: data.Images | None
  test: data.Images | None
  missing: str | None


class Encoded(NamedTuple):
  """Some images of a split, and their features.

  Attributes:
    images: At most a few thousand, evenly from the whole split.
    index: Their places in the split, int `[N]`.
    features: float32 `[N, D]`.
  """

  images: data.Images
  index: np.ndarray  # type: ignore[assignment]
  features: np.ndarray


def read(workdir: str) -> Log:
  """Reads what a run wrote down, without its encoder or images.

  Raises:
    FileNotFoundError: If the folder holds no run, or no checkpoint yet.
  """
  config = configs.load(workdir)
  checkpoints = Checkpoints(workdir, read_only=True)
  step = checkpoints.latest
  checkpoints.close()
  if step is None:
    raise FileNotFoundError(
        f"{workdir} holds no checkpoint, so there is nothing to report yet;"
        " train first, with python -m jssl.train --config=METHOD:DATASET"
        f" --workdir={shlex.quote(workdir)}."
    )
  return _log(workdir, config, step)


def load(workdir: str) -> Material:
  """Loads a run: its newest checkpoint, and its images if they are there.

  Raises:
    FileNotFoundError: If the folder holds no run, or no checkpoint yet.
  """
  log = read(workdir)
  trained = encoder.load(workdir)
  train = test = missing = None
  try:
    train, test = (
        runs.some_images(log.config, runs.open_source(log.config, split))
        for split in ("train", "test")
    )
  except (OSError, ValueError) as error:
    missing = str(error)
  return Material(
      log=log,
      method=trained.method,
      params=trained.params,
      encode=trained.encode,
      train=train,
      test=test,
      missing=missing,
  )


def of_run(run: Run, workdir: str, state: TrainState) -> Material:
  """Gathers the same of a run that has just been trained."""
  return Material(
      log=_log(workdir, run.config, int(state.step)),
      method=run.method,
      params=(state.params, state.carried),
      encode=run.encode,
      train=run.train,
      test=run.test,
      missing=None,
  )


def images_of(material: Material, *, train: bool) -> data.Images:
  """Returns the images of a split, of a run that has images."""
  images = material.train if train else material.test
  assert images is not None, material.missing
  return images


def encode_some(material: Material, *, train: bool) -> Encoded:
  """Encodes images of a split, evenly chosen if there are many.

  Args:
    material: A run with images.
    train: Which split.
  """
  images = images_of(material, train=train)
  index = features.evenly(
      len(images.image), _TRAIN_ROWS if train else _TEST_ROWS
  )
  images = take(images, index)
  pooled = lambda x, extent: stages(material, x, extent)["pooled"]
  encoded = features.extract(
      pooled,
      images.image,
      extent=images.extent,
      # For this size, a run that has just been trained is compiled.
      batch_size=material.log.config.batch_size,
  )
  return Encoded(images, index, encoded)


def stages(
    material: Material, images: jax.Array, extent: jax.Array | None
) -> dict[str, jax.Array]:
  """Encodes a batch to all stages, see `jssl.encoder.make_encode`."""
  return material.encode(material.params, images, extent, stages=True)


def take(images: data.Images, index: np.ndarray) -> data.Images:
  """Returns some of the images."""
  pick = lambda x: None if x is None else x[index]
  return images._replace(
      image=images.image[index],
      label=pick(images.label),
      extent=pick(images.extent),
  )


def total_steps(config: ConfigDict) -> int:
  """Returns the number of steps of the whole training."""
  images, batch_size = config.resolved.train_images, config.batch_size
  return round(config.epochs * data.steps_per_epoch(images, batch_size))


def _log(workdir, config, step):
  path = pathlib.Path(workdir) / "summary.json"
  summary = json.loads(path.read_text()) if path.exists() else None
  if summary and summary["steps"] != step:
    summary = None  # Of an earlier end of a run that goes on.
  rows = [row for row in metrics.read(workdir) if row["step"] <= step]
  return Log(os.fspath(workdir), config, step, rows, summary)
