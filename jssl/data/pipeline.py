"""The input pipeline: training images on their way to the step.

Images are resident in the devices' memory, or streamed. The batch of a step is
the same either way, unless pictures are broken.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
import contextlib
import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np

from jssl import parallel
from jssl.data.cache import cached
from jssl.data.decode import KINDS
from jssl.data.images import decode_all, Images, measure, memory_limit, nbytes
from jssl.data.loader import stream
from jssl.data.order import batch_indices, steps_per_epoch
from jssl.data.reader import Geometry, make_reader, tally
from jssl.data.source import sample, Source

PyTree = Any

# Broken pictures are counted as a share of at least this many.
_FEW = 1000
_NAMED = 5  # Broken pictures that an error names.
# Largest images that are gathered as rows: of 96 pixels, in three colors.
_LONGEST_ROW = 96 * 96 * 3
# Share of the device's memory that resident images may take.
_DEVICE_SHARE = 0.7


@dataclasses.dataclass(frozen=True)
class Batches:
  """The batches of one call of the compiled steps.

  Attributes:
    count: Number of steps, S.
    inputs: A tree of `[local devices, S, ...]`.
    replaced: "name: reason" of each picture that could not be decoded and was
      replaced by another one.
    notes: What else the user should know.
  """

  count: int
  inputs: PyTree
  replaced: Sequence[str] = ()
  notes: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Pipeline:
  """An input pipeline.

  Attributes:
    size: Number of images in the set.
    shape: Shape of an image, `(H, W, C)`.
    classes: Names of the classes, `()` without labels.
    resident: A function that puts the resident data, a tree, on every device.
    batch: A function from the resident data and a step's inputs, `[...]` of one
      device, to the batch of this device (see `jssl.method.Method`).
    batches: `(start, stop, steps) -> Generator[Batches]`, from step to step,
      `steps` steps per call.
    streamed: Whether images are decoded as they are needed.
  """

  size: int
  shape: tuple[int, int, int]
  classes: tuple[str, ...]
  resident: Callable[[], PyTree]
  batch: Callable[[PyTree, PyTree], dict[str, jax.Array]]
  batches: Callable[[int, int, int], Generator[Batches, None, None]]
  streamed: bool = False


def load_images(
    source: Source,
    *,
    canvas: int | None,
    stream: str,
    max_images: int,
    max_broken: float,
) -> tuple[Images, bool]:
  """Loads the images of a split, or evenly spaced ones of a streamed split.

  Args:
    source: The split.
    canvas: Side of the square that pictures are put on; None if they share one
      size.
    stream: "always", "never", or "auto": if the images do not fit into memory.
    max_images: Number of images that are loaded of a streamed split.
    max_broken: Largest share of pictures that may be broken.

  Returns:
    The images, and whether the split is streamed.

  Raises:
    ValueError: If pictures differ in size without a canvas, or too many are
      broken.
  """
  geometry = measure(source, canvas)
  streamed = stream == "always"
  if stream == "auto":
    limit = min(memory_limit(), _DEVICE_SHARE * _device_bytes())
    streamed = nbytes(source, geometry) > limit
  chosen = sample(source, max_images) if streamed else source
  images = decode_all(chosen, geometry)
  broken = images.skipped[len(source.skipped) :]
  _check_broken(broken, source.length, source, max_broken)
  return images, streamed


def resident_pipeline(
    images: Images, *, batch_size: int, seed: int
) -> Pipeline:
  """Makes the pipeline of images that are resident on every device.

  A batch is gathered there by index.

  Args:
    images: The set.
    batch_size: Images per step, over all devices.
    seed: Seed of the order.

  Raises:
    ValueError: If the set is smaller than a batch, or too large for the device.
  """
  size = len(images.image)
  steps_per_epoch(size, batch_size)
  needed, limit = images.image.nbytes, _device_bytes()
  if needed > _DEVICE_SHARE * limit:
    raise ValueError(
        f"The images need {needed / 2**30:.3g} GiB, but the device has"
        f" {limit / 2**30:.3g} GiB, and training needs some of it: lower"
        " config.data.canvas, or give a slice of the set such as"
        " config.data.train='train[:10%]', or stream it with"
        " config.data.stream=always."
    )
  own = _own_rows(batch_size)

  def batches(start, stop, steps):
    for step in range(start, stop, steps):
      rows = np.stack([
          batch_indices(seed, i, size=size, batch_size=batch_size)
          for i in range(step, min(step + steps, stop))
      ])[:, own]
      shares = rows.reshape(len(rows), jax.local_device_count(), -1)
      yield Batches(len(rows), shares.swapaxes(0, 1))

  return Pipeline(
      size=size,
      shape=images.image.shape[1:],
      classes=images.classes,
      resident=lambda: parallel.replicate(as_rows(images.batch())),
      batch=functools.partial(take, shape=images.image.shape[1:]),
      batches=batches,
  )


def as_rows(batch: dict) -> dict:
  """Makes a row of each small image, `[N, H * W * C]`, to gather images from.

  Of small images a TPU would copy the whole set at every call, to a layout that
  pads each line to 128 pixels; gathering long rows would be slow.
  """
  image = batch["image"]
  if math.prod(image.shape[1:]) > _LONGEST_ROW:
    return batch
  return {**batch, "image": image.reshape(len(image), -1)}


def take(
    rows: dict, index: jax.Array, *, shape: tuple[int, ...]
) -> dict[str, jax.Array]:
  """Returns images of this shape by index, from a set made by `as_rows`."""
  batch = {name: x[index] for name, x in rows.items()}
  return {**batch, "image": batch["image"].reshape(*index.shape, *shape)}


def streamed_pipeline(
    source: Source,
    decoded: Images,
    *,
    batch_size: int,
    seed: int,
    cache: str | None = None,
    workers: int = -1,
    max_broken: float = 0.1,
) -> Pipeline:
  """Makes the pipeline of a set of any size, decoded ahead of the steps.

  Args:
    source: The set. A broken picture is replaced by the next one.
    decoded: Some of its pictures, see `load_images`: they show the form of its
      arrays, whether it has labels, and which remarks were already reported.
    batch_size: Images per step, over all devices.
    seed: Seed of the order.
    cache: A folder that keeps decoded images; None for none.
    workers: Number of processes that decode, see `jssl.data.stream`.
    max_broken: As in `load_images`.

  Raises:
    ValueError: If the set is smaller than a batch.
  """
  steps_per_epoch(source.length, batch_size)
  size: Any = decoded.image.shape[1:3]
  canvas = None if decoded.extent is None else size[0]
  geometry = Geometry(size, canvas, source.channels)
  read = make_reader(source, geometry)
  if cache:
    read = cached(read, source, geometry, cache)
  # All labels may be -1, as in a test split whose labels are kept secret.
  to_devices = functools.partial(
      _to_devices,
      labels=bool(decoded.classes),
      extents=canvas is not None,
      reported=set(decoded.remarks),
  )

  def batches(start, stop, steps):
    del steps  # More steps per call would wait for more pictures.
    loaded = stream(
        read,
        seed=seed,
        size=source.length,
        batch_size=batch_size,
        start=start,
        stop=stop,
        share=_own_rows(batch_size),
        workers=workers,
    )
    broken, seen = [], 0
    with contextlib.closing(loaded):
      for batch in _ahead(map(to_devices, loaded)):
        broken, seen = [*broken, *batch.replaced], seen + batch_size
        _check_broken(broken, seen, source, max_broken)
        yield batch

  return Pipeline(
      size=source.length,
      shape=geometry.shape,
      classes=decoded.classes,
      resident=dict,
      batch=lambda resident, inputs: {**resident, **inputs},
      batches=batches,
      streamed=True,
  )


def _to_devices(batch, *, labels, extents, reported):
  """Moves a decoded batch to the devices, `[devices, 1, B, ...]` each.

  Kinds of remarks are added to those `reported`.
  """
  arrays = {"image": batch.image}
  if labels:
    arrays["label"] = batch.label
  if extents:
    arrays["extent"] = batch.extent
  local = jax.local_device_count()
  inputs = {
      name: parallel.shard(x.reshape(local, 1, -1, *x.shape[1:]))
      for name, x in arrays.items()
  }
  remarked = tally(batch.remarks)
  notes = [
      f"{found.name} is one of the pictures that"
      f" {KINDS[kind].format(value=found.value)}"
      for kind, found in remarked.items()
      if kind not in reported
  ]
  reported.update(remarked)
  return Batches(1, inputs, list(batch.broken.values()), [*batch.notes, *notes])


def _ahead(moved: Iterable[Batches]) -> Generator[Batches, None, None]:
  """Moves one batch to the devices while the previous one is processed."""
  moved = iter(moved)
  coming = next(moved, None)
  while coming is not None:
    ready, coming = coming, next(moved, None)
    yield ready


def _check_broken(broken, seen, source, max_broken):
  """Refuses a set of which a large share cannot be decoded.

  The share is that of the pictures seen so far, which count as at least a
  thousand, or as the whole set if it is smaller: among a few pictures, one
  broken picture is no evidence.
  """
  if len(broken) > max_broken * max(seen, min(source.length, _FEW)):
    first = "\n  ".join(list(dict.fromkeys(broken))[:_NAMED])
    raise ValueError(
        f"{len(broken):,} of {seen:,} pictures of {source.name} cannot be"
        f" decoded, more than config.data.max_broken={max_broken:g} of them:"
        f" check the files, or raise this share. The first are\n  {first}"
    )


def _device_bytes():
  """Returns the memory of a device; infinity where it is unknown."""
  stats = jax.local_devices()[0].memory_stats() or {}
  return stats.get("bytes_limit", float("inf"))


def _own_rows(batch_size):
  """Returns this process's rows of a global batch."""
  size = batch_size // jax.process_count()
  return slice(jax.process_index() * size, (jax.process_index() + 1) * size)
