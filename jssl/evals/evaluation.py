"""Evaluates the encoder of a run and its baselines by the protocols."""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from jssl import augment, data, experiment
from jssl.config import ConfigDict, lookup
from jssl.data.datasets import facts, set_name
from jssl.encoder import load, make, raw_pixels, untrained
from jssl.evals import results
from jssl.evals.features import compute
from jssl.evals.protocols import (
    DEFAULT_PROTOCOLS,
    Missing,
    PROTOCOLS,
    Results,
    Subject,
)
from jssl.evals.quality import RANK_IMAGES
from jssl.progress import Progress

_BATCH_SIZE = 512


def evaluate(
    workdir: str,
    *,
    protocols: Sequence[str] | None = None,
    dataset: str | None = None,
    data_dir: str | None = None,
) -> dict[str, Any]:
  """Evaluates the encoder of a run, every stage of it, and its baselines.

  The encoder is frozen, with BatchNorm's running statistics, unless it is
  fine-tuned. Baselines are raw pixels and the net before training; fine-tuned,
  the latter is the same net trained with labels alone.

  Args:
    workdir: The run's folder.
    protocols: Some of "knn", "linear", "few_shot", "label_free",
      "linear_augmented" (on views of the training images), "semi_supervised"
      (fine-tuning with 1% and 10% of the labels) and "fine_tune" (with all).
      None for those of the first four that apply; without labels, only
      "label_free" does.
    dataset: Another data set to evaluate on (transfer), as in a config; the
      run's by default.
    data_dir: Folder of TFDS's data sets; by default that of the run.

  Returns:
    The evaluation as written to the run's folder, see `results.write`. Results
    of other protocols at the same step, on the same pictures, are kept.

  Raises:
    ValueError: If a protocol is unknown or needs labels that the set does not
      have, or the images have another number of channels.
    FileNotFoundError: If the folder holds no run, or no checkpoint yet.
    OSError: If the results cannot be written.
  """
  for name in protocols or ():
    lookup("The protocol", name, PROTOCOLS)
  with contextlib.closing(Progress(step=0, total=None)) as progress:
    trained = load(workdir)
    own = trained.config
    name = dataset or own.data.name
    config = _config_for(own, dataset, data_dir)
    path = results.path_for(
        workdir, name, variant=_variant(own.data, config.data)
    )
    with progress.stage(f"loading {name}"):
      sources = _open(config, dataset is not None)
      train, test = (experiment.load_images(config, x) for x in sources)
    for note in dict.fromkeys(train.notes + test.notes):
      progress.log(f"WARNING: {note}")
    _check_channels(config, train, name)
    protocols, notes = _applicable(protocols, train, test, name)
    notes |= _left_out(train, test)
    trained = make(config, trained.method, trained.step, trained.params)
    encoders = {
        "trained": trained,
        "untrained": untrained(trained),
        "raw pixels": raw_pixels(trained),
    }
    recipe = _supervised_recipe(name, config.image_size)
    found: dict[str, Results] = {}
    for i, (kind, encoder) in enumerate(encoders.items(), start=1):
      title = f"{kind} ({i} of {len(encoders)})"
      subject = Subject(encoder, train, test, recipe)
      found[kind] = _evaluate_encoder(subject, protocols, progress, title)
  content = {
      "dataset": name,
      "step": trained.step,
      "train_images": len(train.image),
      "test_images": len(test.image),
      "classes": len(train.classes),
      "contents": [_identity(source) for source in sources],
      "canvas": config.data.canvas,
      "crop_fraction": config.eval.crop_fraction,
      "notes": notes | _split_missing(found),
      "results": found,
  }
  return results.write(content, path)


def _config_for(
    config: ConfigDict, dataset: str | None, data_dir: str | None
) -> ConfigDict:
  """Returns the run's config, changed to load another data set.

  The central crop and the canvas are the defaults of the evaluated set; if both
  sets are of the same kind, such as two folders, those of the run are used. A
  canvas of three times the encoder's image size is large enough for every crop,
  and saves memory.
  """
  own, config = config, config.copy_and_resolve_references()
  config.data.data_dir = data_dir or config.data.data_dir
  if dataset is None:
    return config
  config.data.update(name=dataset, train="train", test="test")
  known = facts(dataset)
  another = set_name(dataset) != set_name(own.data.name)
  if another:
    config.eval.crop_fraction = known.crop_fraction
  # Without a canvas, the run's pictures had one size.
  if another or not config.data.canvas:
    config.data.canvas = min(known.canvas, 3 * config.image_size)
  return config


def _open(
    config: ConfigDict, transfer: bool
) -> tuple[data.Source, data.Source]:
  """Opens both splits; drops the canvas where another set needs none."""
  train, test = (experiment.open_split(config, x) for x in ("train", "test"))
  if transfer and train.size and test.size:
    config.data.canvas = 0  # All pictures have one size and keep it.
  return train, test


def _variant(own: ConfigDict, evaluated: ConfigDict) -> list[str]:
  """Returns what distinguishes a set from the run's own of the same name."""
  keys = ["data_dir"]
  if own.name == evaluated.name:
    keys += ["train", "test"]
  return [evaluated[key] for key in keys if evaluated[key] != own[key]]


def _identity(source: data.Source) -> list[int]:
  """Returns what distinguishes the pictures of a split from others."""
  about = [source.length, data.fingerprint(source)]
  return about + ([source.fingerprint()] if source.fingerprint else [])


def _check_channels(config, train, dataset):
  channels, expected = train.image.shape[-1], config.resolved.channels
  if channels != expected:
    raise ValueError(
        f"{dataset} has images of {channels} channels, and the encoder was"
        f" trained on {expected}; evaluate on images of {expected}, or train on"
        f" {dataset}."
    )


def _applicable(
    protocols: Sequence[str] | None,
    train: data.Images,
    test: data.Images,
    dataset: str,
) -> tuple[list[str], dict[str, str]]:
  """Returns the protocols to run, in order, and why others do not apply.

  Raises:
    ValueError: If one that was asked for by name does not apply.
  """
  asked = [x for x in PROTOCOLS if x in (protocols or DEFAULT_PROTOCOLS)]
  splits = {"training": train, "test": test}
  unlabelled = [name for name, x in splits.items() if x.label is None]
  refused = [x for x in asked if "labels" in PROTOCOLS[x].needs]
  if not unlabelled or not refused:
    return asked, {}
  reason = f"{' and '.join(unlabelled)} images of {dataset} have no labels"
  names = ", ".join(refused)
  if protocols:
    raise ValueError(
        f"The {reason}, which {names} need; give --protocols=label_free, or"
        " another --dataset: a folder has labels if its pictures lie in one"
        " sub-folder per class."
    )
  return [x for x in asked if x not in refused], {names: f"the {reason}"}


def _left_out(train: data.Images, test: data.Images) -> dict[str, str]:
  """Returns notes on excluded pictures, and on what accuracies cannot show."""
  notes = {}
  broken = list(dict.fromkeys(train.skipped + test.skipped))
  if broken:
    notes["pictures"] = (
        f"{len(broken):,} could not be decoded; the first is {broken[0]}"
    )
  if train.label is None or test.label is None:
    return notes
  parts = [
      f"{count:,} of {len(images.image):,} {name} images"
      for name, images in (("training", train), ("test", test))
      if (count := len(images.image) - len(images.labelled()))
  ]
  if parts:
    notes["labels"] = f"{' and '.join(parts)} have no label and are left out"
  absent = len(train.classes) - len(np.unique(train.label[train.label >= 0]))
  if len(train.classes) == 1:
    notes["classes"] = "there is only one, so accuracies are meaningless"
  elif absent:
    notes["classes"] = (
        f"{absent:,} of {len(train.classes):,} have no labelled training image,"
        " so their test images cannot be classified correctly"
    )
  return notes


def _evaluate_encoder(
    subject: Subject, protocols: Sequence[str], progress: Progress, title: str
) -> Results:
  """Returns the results of one encoder; its features are computed once."""
  encoder, bank, test = subject.encoder, subject.train, subject.test
  chosen = {name: PROTOCOLS[name] for name in protocols}
  if not encoder.params:
    chosen = {k: x for k, x in chosen.items() if "net" not in x.needs}
  if any("features" in x.needs for x in chosen.values()):
    if not any({"features", "labels"} <= x.needs for x in chosen.values()):
      # The rank needs these in addition to the test images.
      bank = bank.evenly(max(RANK_IMAGES - len(test.image), 0))
    count = f"{len(bank.image):,} training and {len(test.image):,}"
    with progress.stage(f"{title}: encoding {count} test images"):
      features = compute(
          encoder,
          bank if len(bank.image) else None,
          test,
          batch_size=_BATCH_SIZE,
      )
    subject = dataclasses.replace(subject, features=features)
  found: Results = {"pooled": {}}
  for i, (name, protocol) in enumerate(chosen.items(), start=1):
    step = f"evaluating {name} ({i} of {len(chosen)})"
    with progress.stage(f"{title}: {step}"):
      for stage, row in protocol.measure(subject).items():
        found.setdefault(stage, {}).update(row)
  return found


def _split_missing(found: dict[str, Results]) -> dict[str, str]:
  """Replaces measures that do not apply with None; returns the reasons."""
  reasons: dict[str, str] = {}
  rows = [row for stages in found.values() for row in stages.values()]
  for row in rows:
    missing = {k: x.reason for k, x in row.items() if isinstance(x, Missing)}
    row |= dict.fromkeys(missing)
    reasons |= missing
  return reasons


def _supervised_recipe(dataset: str, size: int) -> Callable[..., jax.Array]:
  """Returns the mild augmentation of supervised training on a data set."""
  known = facts(dataset)
  if known.crop_scale is None:
    return functools.partial(augment.digits, size=size)
  return functools.partial(
      augment.crop_and_flip,
      size=size,
      scale=known.crop_scale,
      flip_probability=0.5 if known.flips else 0.0,
  )
