"""Computes the features of a data set into a file."""

from collections.abc import Callable
import contextlib
import dataclasses
import functools
import json
import pathlib
from typing import Any
import warnings
import zlib

import jax
import numpy as np

from jssl import data
from jssl.config import lookup
from jssl.data import reader
from jssl.data.datasets import split_source
from jssl.data.loader import load_in_order
from jssl.embed import _partial, formats
from jssl.encoder import backbone, Encoder, pool_stages, stage_names
from jssl.evals.features import extract
from jssl.files import check_writable, exclusive
from jssl.progress import Progress

# Largest batch by default.
_BATCH_SIZE = 256
_COLORS = {1: "1 channel (gray)", 3: "3 channels (RGB)", 4: "4 channels (RGBA)"}
# Entries of `about` that may differ although the features are the same.
_DESCRIPTIONS = ("method", "net", "step", "dataset", "split")
_NAMED = 20  # Excluded pictures that are named on the screen.


@dataclasses.dataclass(frozen=True)
class Plan:
  """The pictures and features to compute.

  Attributes:
    source: The pictures.
    geometry: The form of the arrays that they are decoded to.
    encode: `(images, extent) -> [B, D]`, float32.
    batch_size: Pictures per batch.
    about: A description of all this, for JSON.
  """

  source: data.Source
  geometry: data.Geometry
  encode: Callable[[Any, Any], jax.Array]
  batch_size: int
  about: dict[str, Any]


def plan(
    encoder: Encoder,
    dataset: str,
    *,
    split: str | None = None,
    data_dir: str | None = None,
    stage: str = "pooled",
    batch_size: int | None = None,
    convert_channels: bool = False,
) -> Plan:
  """Plans what to compute, and checks that it is possible.

  Pictures are prepared as in the run's own evaluations: put on its canvas, with
  their true size. Without a canvas, pictures of one size are used as they are,
  and pictures that differ get a canvas of twice the run's image size.

  Args:
    encoder: The encoder, see `jssl.encoder.load`.
    dataset: As in `jssl.data.open_source`.
    split: As there; None for all pictures of a folder, and "train" for others.
    data_dir: As there; None for the run's own.
    stage: "pooled", or a stage of the net, whose map is averaged.
    batch_size: Pictures per batch; None for the run's, 256 at most.
    convert_channels: Whether to convert pictures to the number of channels that
      the encoder was trained on.

  Returns:
    The `Plan`.

  Raises:
    ValueError: If the stage is unknown, or the pictures do not fit.
    OSError: If the data cannot be found.
  """
  config = encoder.config
  lookup("--stage", stage, stage_names(encoder))
  if batch_size is not None and batch_size < 1:
    raise ValueError(f"--batch_size is {batch_size}; expected at least 1.")
  if split is None:
    split = "all" if split_source(dataset)[0] == "folder" else "train"
  data_dir = data_dir or config.data.data_dir or None
  source = data.open_source(dataset, split, data_dir=data_dir)
  _check_channels(source, config.resolved.channels, convert_channels)
  geometry = _geometry(source, config)
  encode = _make_encode(encoder, stage)
  return Plan(
      source=source,
      geometry=geometry,
      encode=encode,
      batch_size=batch_size or min(config.batch_size, _BATCH_SIZE),
      about={
          "encoder": _checksum(encoder),
          "method": config.method.name,
          "net": config.net.name,
          "step": encoder.step,
          "stage": stage,
          "dim": _dim(encode, geometry),
          "dataset": dataset,
          "split": split,
          "pictures": source.length,
          # Of some contents, and of the metadata of files.
          "data": [
              data.fingerprint(source),
              source.fingerprint() if source.fingerprint else None,
          ],
          "canvas": geometry.canvas,
          "layout": geometry.canvas and reader.LAYOUT,
          "channels": geometry.channels,
          "image_size": config.image_size,
          "crop_fraction": config.eval.crop_fraction,
      },
  )


def compute(
    plan: Plan, output: pathlib.Path, *, overwrite: bool = False
) -> formats.FeatureFile:
  """Computes features of all pictures into a file, or resumes doing so.

  A complete file of the same encoder and pictures is reused; an unfinished one
  is finished. Pictures that cannot be decoded are left out and reported. Memory
  does not grow with the number of pictures, except for their names and labels.

  Args:
    plan: What to compute.
    output: The file: `.npz`, `.npy` or `.parquet`.
    overwrite: Whether to replace a file of another encoder or data set.

  Returns:
    The file, opened.

  Raises:
    ValueError: If the file is of another encoder or data set, no picture can be
      decoded, or features are not finite.
    OSError: If the file cannot be written, or another process writes it.
  """
  formats.check(output)
  if output.exists() and not overwrite:
    return _complete(plan, output)
  # Its name is the longest of those next to the output.
  check_writable(_partial.journal_of(output))
  lock = exclusive(
      output.with_name(output.name + ".lock"),
      busy=(
          f"Another process is writing {output}: wait for it, or give another"
          " --output."
      ),
  )
  with lock:
    return _compute(plan, output, overwrite)


def _compute(plan, output, overwrite):
  if overwrite:
    _partial.discard(output)
    output.unlink(missing_ok=True)
  if output.exists():  # Another process has finished it by now.
    return _complete(plan, output)
  before = _partial.read_about(output)
  if before is not None:
    _check_same(before, plan.about, output)
  partial = _partial.open_partial(
      output, plan.about, count=plan.source.length, dim=plan.about["dim"]
  )
  with partial.journal, warnings.catch_warnings():
    warnings.filterwarnings("ignore", module="PIL")  # Odd metadata, mostly.
    _fill(plan, partial)
  pictures = partial.pictures
  if not partial.count:
    _partial.discard(output)
    raise ValueError(
        f"None of the {plan.source.length} pictures of {plan.source.name} can"
        f" be decoded: check the files. The first is {pictures['skipped'][0]}."
    )
  label, classes = np.asarray(pictures["label"], np.int32), plan.source.classes
  labelled = bool(classes) and label.max() >= 0
  columns = formats.Columns(
      name=pictures["name"],
      index=np.asarray(pictures["index"], np.int64),
      label=label if labelled else None,
      classes=classes if labelled else (),
  )
  formats.write(output, partial.rows[: partial.count], columns, plan.about)
  _partial.discard(output)
  return formats.read(output)


def _complete(plan, output):
  """Opens a complete file, if it is of the same encoder and pictures."""
  features = formats.read(output)
  _check_same(features.about, plan.about, output)
  _partial.discard(output)
  return features


def encode_picture(plan: Plan, encoded: bytes) -> np.ndarray:
  """Encodes one picture in the same way as those of the plan.

  Args:
    plan: See `plan`.
    encoded: The bytes of a picture file.

  Returns:
    Its features, float32 `[D]`.

  Raises:
    ValueError: If the bytes are not a picture, with the reason.
  """
  canvas, channels = plan.geometry.canvas, plan.geometry.channels
  pixels, size = data.decode(encoded, canvas, channels=channels)
  extent = None if canvas is None else np.asarray([size], np.int32)
  return np.asarray(plan.encode(pixels[None], extent), np.float32)[0]


def _fill(plan, partial):
  """Computes the rows that are missing."""
  start, total = partial.stop, plan.source.length
  skipped = partial.pictures["skipped"]
  remarked: dict[str, reader.Tally] = {}
  progress = Progress(step=start, total=total, unit="picture")
  batches = load_in_order(
      plan.source, plan.geometry, start=start, batch_size=plan.batch_size
  )
  with contextlib.closing(progress), contextlib.closing(batches):
    if start:
      progress.log(f"resuming from picture {start:,} of {total:,}")
    for note in plan.source.notes:
      progress.log(f"WARNING: {note}")
    for reason in plan.source.skipped[:_NAMED]:
      progress.log(f"left out: {reason}")
    for batch in batches:
      broken, whole = list(batch.broken.values()), batch.whole
      for reason in broken[: max(_NAMED - len(skipped), 0)]:
        progress.log(f"left out: {reason}")
      remarked = reader.tally(batch.remarks, remarked)
      block = {
          "name": [batch.name[row] for row in whole],
          "index": batch.index[whole].tolist(),
          "label": batch.label[whole].tolist(),
          "skipped": broken,
      }
      _partial.append(partial, _rows(plan, batch), block)
      progress.advance(len(batch.index))
      progress.note(f"{len(skipped)} left out")
  for note in reader.describe_remarks(remarked, total, plan.source.name):
    progress.log(f"WARNING: {note}")
  if skipped:
    progress.log(f"{len(skipped)} of {total:,} pictures left out")


def _rows(plan, batch):
  """Encodes the pictures of a batch that were decoded, `[n, D]`."""
  whole = batch.whole
  if not whole:
    return np.zeros((0, plan.about["dim"]), np.float32)
  # All are encoded: choosing some of them would copy the images.
  rows = extract(
      plan.encode,
      batch.image,
      extent=None if plan.geometry.canvas is None else batch.extent,
      batch_size=plan.batch_size,
  )[whole]
  finite = np.isfinite(rows).all(axis=1)
  if not finite.all():
    name = batch.name[whole[int(np.argmin(finite))]]
    raise ValueError(
        f"The features of {name} are not finite: the encoder's training has"
        " diverged; use an earlier checkpoint."
    )
  return rows


def _make_encode(encoder, stage):

  @jax.jit
  def encode(params, images, extent):
    features = encoder.encode(params, images, extent, stages=True)
    return pool_stages(features)[stage]

  return functools.partial(encode, encoder.params)


def _dim(encode, geometry):
  image = np.zeros((1, *geometry.size, geometry.channels), np.uint8)
  extent = None if geometry.canvas is None else np.ones((1, 2), np.int32)
  return jax.eval_shape(encode, image, extent).shape[1]


def _geometry(source, config):
  canvas, channels = config.data.canvas, config.resolved.channels
  if not canvas and (size := data.common_size(source)):
    return data.Geometry(size, None, channels)
  canvas = canvas or 2 * config.image_size
  return data.Geometry((canvas, canvas), canvas, channels)


def _check_channels(source, expected, convert):
  if source.channels != expected and not convert:
    raise ValueError(
        f"The encoder was trained on images of {_COLORS[expected]}, but those"
        f" of {source.name} have {_COLORS[source.channels]}: pass"
        " --convert_channels to convert them, or use a run on such images."
    )


def _check_same(saved, now, output):
  """Refuses a file of another encoder or other pictures."""
  changed = [key for key in now if saved.get(key) != now[key]]
  if set(changed) <= set(_DESCRIPTIONS):
    return
  different = "".join(
      f"\n  {key}: {saved.get(key)!r} in the file, {now[key]!r} now"
      for key in changed
  )
  hint = ""
  if "data" in changed:
    hint = "\nPictures were edited, added, removed or copied later."
  raise ValueError(
      f"{output} was begun with other settings:{different}{hint}\nGive another"
      " --output, or --overwrite to replace it."
  )


def _checksum(encoder):
  """Returns a checksum of an encoder that does not depend on its run's folder.

  Features depend on mean, deviation and precision too, which are not variables.
  """
  config = encoder.config
  settings = [config.method.name, config.net.to_dict(), config.precision]
  checksum = zlib.crc32(json.dumps(settings, sort_keys=True).encode())
  for leaf in jax.tree.leaves(backbone(encoder).variables):
    checksum = zlib.crc32(np.ascontiguousarray(leaf), checksum)
  return checksum
