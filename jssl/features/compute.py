"""From a run and a data set to a file of features."""

from collections.abc import Callable
import contextlib
import functools
import json
import pathlib
from typing import Any, NamedTuple
import warnings
import zlib

import jax
import numpy as np

from jssl import data
from jssl import encoder
from jssl import parallel
from jssl.config import lookup
from jssl.data import reader
from jssl.data.datasets import split_source
from jssl.features import formats
from jssl.features import partial as partials
from jssl.features import stream
from jssl.files import check_writable
from jssl.files import exclusive
from jssl.progress import Progress

# Pictures at a time, where the run's own batches are larger.
_BATCH_SIZE = 256
_COLORS = {1: "1 channel (gray)", 3: "3 channels (RGB)", 4: "4 channels (RGBA)"}
# What must be equal for features to be the same; the rest of `about` explains.
_IDENTITY = (
    "encoder",
    "stage",
    "dim",
    "pictures",
    "data",
    "canvas",
    "layout",
    "channels",
    "image_size",
    "crop_fraction",
)
_NAMED = 20  # Pictures left out that are named on the screen.


class Plan(NamedTuple):
  """What is computed of which pictures.

  Attributes:
    source: The pictures.
    geometry: The arrays they become.
    encode: `(images, extent) -> [B, D]`, float32.
    batch_size: Pictures at a time.
    about: All this in words and numbers, as JSON has it.
  """

  source: data.Source
  geometry: data.Geometry
  encode: Callable[[Any, Any], jax.Array]
  batch_size: int
  about: dict[str, Any]


def plan(
    trained: encoder.Encoder,
    dataset: str,
    *,
    split: str | None = None,
    data_dir: str | None = None,
    stage: str = "pooled",
    batch_size: int | None = None,
    convert_channels: bool = False,
) -> Plan:
  """Settles what is computed, and refuses what cannot be.

  Pictures are prepared as the run's own evaluations prepare theirs: put
  on its canvas, with their true size. A run without a canvas takes
  pictures of one size as they are, and gets a canvas of twice its image size
  for pictures that differ.

  Args:
    trained: The encoder, see `jssl.encoder.load`.
    dataset: As in `jssl.data.open_source`.
    split: As there; None for all pictures of a folder, and "train" of others.
    data_dir: As there; None for the run's own.
    stage: "pooled", or a stage of the net, whose map is averaged.
    batch_size: Pictures at a time; None for the run's, 256 at most.
    convert_channels: Whether pictures are converted to the number of channels
      that the encoder was trained on, should theirs be another.

  Returns:
    The `Plan`.

  Raises:
    ValueError: If the stage is unknown, or the pictures do not fit.
    OSError: If the data cannot be found.
  """
  config = trained.config
  lookup("--stage", stage, encoder.stage_names(trained))
  if batch_size is not None and batch_size < 1:
    raise ValueError(f"--batch_size is {batch_size}; expected at least 1.")
  if split is None:
    split = "all" if split_source(dataset)[0] == "folder" else "train"
  data_dir = data_dir or config.data.data_dir or None
  source = data.open_source(dataset, split, data_dir=data_dir)
  _check_channels(source, config.resolved.channels, convert_channels)
  geometry = _geometry(source, config)
  encode = _make_encode(trained, stage)
  batch_size = batch_size or min(config.batch_size, _BATCH_SIZE)
  devices = jax.local_device_count()
  return Plan(
      source=source,
      geometry=geometry,
      encode=encode,
      batch_size=-(-batch_size // devices) * devices,
      about={
          "encoder": _checksum(trained),
          "method": config.method.name,
          "net": config.net.name,
          "step": trained.step,
          "stage": stage,
          "dim": _dim(encode, geometry),
          "dataset": dataset,
          "split": split,
          "pictures": source.length,
          "data": _identity(source),
          "canvas": geometry.canvas,
          "layout": geometry.canvas and reader.LAYOUT,
          "channels": geometry.channels,
          "image_size": config.image_size,
          "crop_fraction": config.eval.crop_fraction,
      },
  )


def compute(
    plan: Plan, output: pathlib.Path, *, overwrite: bool = False
) -> formats.Features:
  """Computes features of all pictures into a file, or goes on doing so.

  A file that is there and is of the same encoder and pictures is used as it
  is; an unfinished one is finished. Pictures that cannot be decoded are named
  and left out. Memory does not grow with the number of pictures, except for
  their names and labels.

  Args:
    plan: What is computed.
    output: The file: `.npz`, `.npy` or `.parquet`.
    overwrite: Whether what is there of something else is replaced.

  Returns:
    The file, opened.

  Raises:
    ValueError: If the file is of something else, no picture can be decoded, or
      features are not finite.
    OSError: If the file cannot be written, or another process writes it.
  """
  formats.check(output)
  if output.exists() and not overwrite:
    return _complete(plan, output)
  # The longest name of what will lie beside it.
  check_writable(partials.journal_of(output))
  own = exclusive(
      output.with_name(output.name + ".lock"),
      busy=(
          f"Another process is writing {output}: wait for it, or give another"
          " --output."
      ),
  )
  with own:
    return _compute(plan, output, overwrite)


def _compute(plan, output, overwrite):
  if overwrite:
    partials.discard(output)
    output.unlink(missing_ok=True)
  if output.exists():  # By now.
    return _complete(plan, output)
  there = partials.left_there(output)
  if there is not None:
    _check_same(there, plan.about, output)
  partial = partials.open_partial(
      output, plan.about, count=plan.source.length, dim=plan.about["dim"]
  )
  with partial.journal, warnings.catch_warnings():
    warnings.filterwarnings("ignore", module="PIL")  # Odd metadata, mostly.
    _fill(plan, partial)
  if not partial.count:
    partials.discard(output)
    raise ValueError(
        f"None of the {plan.source.length} pictures of {plan.source.name} can"
        " be decoded: check the files. The first is"
        f" {partial.blocks[0].skipped[0]}."
    )
  rows = partial.rows
  if partial.count < len(rows):
    rows = rows[: partial.count]
  formats.write(output, rows, _columns(partial, plan.source), plan.about)
  partials.discard(output)
  return formats.read(output)


def _complete(plan, output):
  """Opens a file that needs no more, if it is of the same."""
  found = formats.read(output)
  _check_same(found.about, plan.about, output)
  partials.discard(output)
  return found


def encode_picture(plan: Plan, encoded: bytes) -> np.ndarray:
  """Encodes one picture as all those of the plan are.

  Args:
    plan: What is computed.
    encoded: The bytes of a picture file.

  Returns:
    Its features, float32 `[D]`.

  Raises:
    ValueError: If the bytes are not a picture, with the reason.
  """
  geometry = plan.geometry
  if geometry.canvas is None:  # Any size will do for a single one.
    pixels, _ = data.decode(encoded, channels=geometry.channels)
    geometry = geometry._replace(size=pixels.shape[:2])
  batch = stream.decode_one(encoded, geometry)
  return np.asarray(plan.encode(batch.image, batch.extent), np.float32)[0]


def _fill(plan, partial):
  """Computes what is missing."""
  done, total = partial.stop, plan.source.length
  skipped = sum(len(block.skipped) for block in partial.blocks)
  remarked: dict[str, reader.Tally] = {}
  progress = Progress(step=done, total=total, unit="picture")
  batches = stream.batches(
      plan.source, plan.geometry, start=done, batch_size=plan.batch_size
  )
  with contextlib.closing(progress), contextlib.closing(batches):
    if done:
      progress.log(f"going on from picture {done:,} of {total:,}")
    for note in plan.source.notes:
      progress.log(f"WARNING: {note}")
    for reason in plan.source.skipped[:_NAMED]:
      progress.log(f"left out: {reason}")
    for batch in batches:
      rows = _rows(plan, batch)
      for reason in batch.skipped[: max(_NAMED - skipped, 0)]:
        progress.log(f"left out: {reason}")
      skipped += len(batch.skipped)
      remarked = reader.tally(batch.remarks, remarked)
      block = partials.Block(
          batch.stop, batch.index, batch.label, batch.name, batch.skipped
      )
      partials.append(partial, block, rows)
      progress.advance(batch.stop - done)
      done = batch.stop
      progress.note(f"{skipped} left out", step=done, total=total)
  for note in reader.sentences(remarked, done, plan.source.name):
    progress.log(f"WARNING: {note}")
  if skipped:
    progress.log(f"{skipped} of {total:,} pictures left out")


def _rows(plan, batch):
  """Features of a batch's pictures, `[n, D]`."""
  count = len(batch.index)
  if not count:
    return np.zeros((0, plan.about["dim"]), np.float32)
  extent = None if batch.extent is None else parallel.shard(batch.extent)
  rows = plan.encode(parallel.shard(batch.image), extent)
  rows = np.asarray(rows, np.float32)[:count]
  finite = np.isfinite(rows).all(axis=1)
  if not finite.all():
    raise ValueError(
        f"The features of {batch.name[int(np.argmin(finite))]} are not finite:"
        " the encoder's training has diverged; take an earlier checkpoint."
    )
  return rows


def _columns(partial, source):
  """What the blocks know of their rows, joined."""
  join = lambda key: [x for b in partial.blocks for x in getattr(b, key)]
  label = np.asarray(join("label"), np.int32)
  labelled = bool(source.classes) and label.max() >= 0
  return formats.Columns(
      name=join("name"),
      index=np.asarray(join("index"), np.int64),
      label=label if labelled else None,
      classes=source.classes if labelled else (),
  )


def _make_encode(trained, stage):
  if stage == "pooled":
    return functools.partial(trained.encode, trained.params)

  @jax.jit
  def encode(params, images, extent):
    features = trained.encode(params, images, extent, stages=True)
    return encoder.pool_stages({stage: features[stage]})[stage]

  return functools.partial(encode, trained.params)


def _dim(encode, geometry):
  image = np.zeros((1, *geometry.size, geometry.channels), np.uint8)
  extent = None if geometry.canvas is None else np.ones((1, 2), np.int32)
  return jax.eval_shape(encode, image, extent).shape[1]


def _geometry(source, config):
  canvas, size = config.data.canvas or None, None
  if canvas is None:
    size = data.common_size(source)
  if size is None:
    canvas = canvas or 2 * config.image_size
    size = (canvas, canvas)
  return data.Geometry(size, canvas, config.resolved.channels)


def _check_channels(source, expected, convert):
  if source.channels != expected and not convert:
    raise ValueError(
        f"The encoder was trained on images of {_COLORS[expected]}, but those"
        f" of {source.name} have {_COLORS[source.channels]}: pass"
        " --convert_channels to convert them, or take a run on such images."
    )


def _check_same(there, now, output):
  """Refuses what was computed of something else."""
  if all(there.get(key) == now[key] for key in _IDENTITY):
    return
  different = "".join(
      f"\n  {key}: {there.get(key)!r} there, {value!r} now"
      for key, value in now.items()
      if there.get(key) != value
  )
  files_differ = there.get("data") != now["data"]
  hint = (
      "\nPictures were edited, added or copied since." if files_differ else ""
  )
  raise ValueError(
      f"{output} was begun with something else:{different}{hint}\nGive another"
      " --output, or --overwrite to replace it."
  )


def _checksum(trained):
  """Tells an encoder from others, wherever its run lies.

  Its statistics and precision are no variables, and features depend on them.
  """
  config = trained.config
  settings = [config.method.name, config.net.to_dict(), config.precision]
  checksum = zlib.crc32(json.dumps(settings, sort_keys=True).encode())
  for leaf in jax.tree.leaves(encoder.backbone(trained).variables):
    checksum = zlib.crc32(np.ascontiguousarray(leaf), checksum)
  return checksum


def _identity(source):
  """Tells pictures from others: by some contents, and by what files say."""
  return [
      data.fingerprint(source),
      source.fingerprint() if source.fingerprint else None,
  ]
