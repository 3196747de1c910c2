"""How training images reach the step: from the device's memory, or streamed.

The batch of a step is the same either way, unless pictures are broken.
"""

from collections.abc import Callable, Generator, Sequence
import contextlib
from typing import Any, NamedTuple

import jax
import numpy as np

from jssl import data
from jssl import parallel
from jssl.config import ConfigDict
from jssl.config import lookup
from jssl.data import cache
from jssl.data import reader
from jssl.data.decode import KINDS

PyTree = Any

# Pictures below which a few broken ones are no large share yet.
_FEW = 1000
_NAMED = 5  # Broken ones that a refusal names.
# Share of the device's memory that images may take.
_DEVICE_SHARE = 0.7


class Call(NamedTuple):
  """The images of one call of the compiled steps.

  Attributes:
    count: Number of steps, S.
    inputs: A tree of `[local devices, S, ...]`.
    replaced: "name: reason" for each picture that could not be decoded, whose
      place another one took.
    notes: What else the user should know.
  """

  count: int  # type: ignore[assignment]
  inputs: PyTree
  replaced: list[str] = []
  notes: list[str] = []


class Feed(NamedTuple):
  """Training images on their way.

  Attributes:
    size: Number of images of the set.
    shape: Of an image, `(H, W, C)`.
    classes: Names of the classes, `()` without labels.
    hold: Puts on every device what stays there, a tree.
    select: From what stays and a step's inputs, `[...]` of one device, to the
      batch of this device (see `jssl.method.Method`).
    calls: `(start, stop, steps) -> Generator[Call]`, from step to step, so many
      steps a call.
    streamed: Whether images are decoded as they are needed.
  """

  size: int
  shape: tuple[int, int, int]
  classes: tuple[str, ...]
  hold: Callable[[], PyTree]
  select: Callable[[PyTree, PyTree], dict[str, jax.Array]]
  calls: Callable[[int, int, int], Generator[Call, None, None]]
  streamed: bool = False


def streams(config: ConfigDict, source: data.Source) -> bool:
  """Decides whether a set is streamed: if it does not fit, or as it is set.

  Args:
    config: See `jssl.config.base`.
    source: The training set.

  Raises:
    ValueError: If `config.data.stream` is unknown, or pictures differ in size
      without a canvas.
  """
  choice = lookup(
      "config.data.stream", config.data.stream, ("auto", "always", "never")
  )
  if choice != "auto":
    return choice == "always"
  geometry = data.measure(source, config.data.canvas or None)
  stats = jax.local_devices()[0].memory_stats() or {}
  limit = _DEVICE_SHARE * stats.get("bytes_limit", float("inf"))
  return (
      not data.fits(source, geometry) or data.nbytes(source, geometry) > limit
  )


def resident(config: ConfigDict, images: data.Images) -> Feed:
  """Feeds a set that lives on every device: a batch is gathered by index.

  Args:
    config: See `jssl.config.base`.
    images: The set.

  Raises:
    ValueError: If the set is smaller than a batch.
  """
  size, batch_size = len(images.image), config.batch_size
  data.steps_per_epoch(size, batch_size)

  def calls(start, stop, steps):
    for step, count in _spans(start, stop, steps):
      rows = [
          data.batch_indices(config.seed, i, size=size, batch_size=batch_size)
          for i in range(step, step + count)
      ]
      shares = np.stack(rows).reshape(count, jax.device_count(), -1)
      yield Call(count, shares.swapaxes(0, 1)[_own_devices()])

  return Feed(
      size=size,
      shape=images.image.shape[1:],
      classes=images.classes,
      hold=lambda: parallel.replicate(arrays(images)),
      select=lambda held, index: {name: x[index] for name, x in held.items()},
      calls=calls,
  )


def streamed(
    config: ConfigDict,
    source: data.Source,
    sample: data.Images | None = None,
) -> Feed:
  """Feeds a set of any size, decoded and moved ahead of the steps.

  Args:
    config: See `jssl.config.base`.
    source: The set. A broken picture gives its place to the next one.
    sample: Some of its pictures, decoded: they show whether it has labels, and
      what need not be remarked again.

  Raises:
    ValueError: If the set is smaller than a batch, or its pictures differ in
      size without a canvas.
  """
  data.steps_per_epoch(source.length, config.batch_size)
  geometry = data.measure(source, config.data.canvas or None)
  read = reader.make_reader(source, geometry)
  if config.data.cache:
    read = cache.cached(read, source, geometry, config.data.cache)
  # All labels may be -1, as those of a test split that are kept secret.
  classes = source.classes if sample is None else sample.classes
  remarked = set() if sample is None else set(sample.remarks)
  local = jax.local_device_count()

  def to_devices(batch):
    """Adds the dimensions of devices and steps: `[devices, 1, B, ...]`."""
    inputs = {
        "image": batch.image,
        "label": batch.label if classes else None,
        "extent": batch.extent if geometry.canvas else None,
    }
    inputs = {
        name: parallel.shard(x.reshape(local, 1, -1, *x.shape[1:]))
        for name, x in inputs.items()
        if x is not None
    }
    notes = [*batch.notes, *_remarked(batch.remarks, remarked)]
    return Call(1, inputs, list(batch.broken.values()), notes)

  def calls(start, stop, steps):
    del steps  # Their pictures would have to wait for each other.
    batches = data.stream(
        read,
        seed=config.seed,
        size=source.length,
        batch_size=config.batch_size,
        start=start,
        stop=stop,
        share=_own_rows(config.batch_size),
        workers=config.data.workers,
    )
    with contextlib.closing(batches):
      yield from _checked(_ahead(batches, to_devices), config, source)

  return Feed(
      size=source.length,
      shape=geometry.shape,
      classes=classes,
      hold=dict,
      select=lambda held, inputs: {**held, **inputs},
      calls=calls,
      streamed=True,
  )


def arrays(images: data.Images) -> dict[str, np.ndarray]:
  """Returns what a batch holds of images, without what does not apply."""
  found = {
      "image": images.image,
      "label": images.label,
      "extent": images.extent,
  }
  return {name: x for name, x in found.items() if x is not None}


def check_broken(
    broken: Sequence[str], seen: int, config: ConfigDict, source: data.Source
) -> None:
  """Refuses a set of which a large share cannot be decoded.

  The share is that of the set, or of what was seen of it so far, except for
  the first thousand pictures: among a few, a broken one says little.

  Args:
    broken: "name: reason" for each picture that could not be decoded.
    seen: Number of pictures that were tried.
    config: See `jssl.config.base`.
    source: The set.

  Raises:
    ValueError: If the share is larger than the config allows.
  """
  most = config.data.max_broken
  if len(broken) > most * max(seen, min(source.length, _FEW)):
    first = "\n  ".join(list(dict.fromkeys(broken))[:_NAMED])
    raise ValueError(
        f"{len(broken):,} of {seen:,} pictures of {source.name} cannot be"
        f" decoded, more than config.data.max_broken={most:g} of them: check"
        f" the files, or raise it. The first are\n  {first}"
    )


def _ahead(batches, to_devices):
  """Moves one batch to the devices while the one before is worked on."""
  moved = map(to_devices, batches)
  coming = next(moved, None)
  while coming is not None:
    ready, coming = coming, next(moved, None)
    yield ready


def _remarked(remarks, known):
  """Says what was remarked of a picture for the first time."""
  notes = []
  for kind, found in reader.tally(remarks).items():
    if kind not in known:
      text = KINDS[kind].format(value=found.value)
      notes.append(f"{found.name} is one of the pictures that {text}")
  known.update(kind for _, (kind, _) in remarks)
  return notes


def _checked(calls, config, source):
  broken, seen = [], 0
  for call in calls:
    broken, seen = broken + call.replaced, seen + config.batch_size
    check_broken(broken, seen, config, source)
    yield call


def _spans(start, stop, steps):
  """Yields the first step and the number of steps of each call."""
  for step in range(start, stop, steps):
    yield step, min(steps, stop - step)


def _own_devices():
  """This process's place among all devices."""
  local = jax.local_device_count()
  first = jax.process_index() * local
  return slice(first, first + local)


def _own_rows(batch_size):
  """This process's rows of a global batch."""
  own, size = _own_devices(), batch_size // jax.device_count()
  return range(own.start * size, own.stop * size)
