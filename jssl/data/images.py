"""A data set as one array in memory: source in, arrays out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import concurrent.futures
import contextlib
import os
from typing import NamedTuple
import warnings
import zlib

import numpy as np

from jssl.data import chunks
from jssl.data import folder_source
from jssl.data.chunks import Geometry
from jssl.data.datasets import CANVAS
from jssl.data.datasets import split_source
from jssl.data.decode import read_size
from jssl.data.decode import Remark
from jssl.data.source import Record
from jssl.data.source import Source

_CHUNK = 256  # Pictures read at once: batched reads are twice as fast ...
_CHUNK_BYTES = 2**23  # ... but large files would fill the memory of the host.
_GIB = 2**30
_SAMPLED = 64  # Pictures that tell a set from others.


class Images(NamedTuple):
  """The decoded pictures of one split.

  Attributes:
    image: uint8 `[N, H, W, C]`.
    label: int32 `[N]`, an index into `classes`; None without labels.
    extent: int32 `[N, 2]`, the true (height, width) of the pictures that were
      fitted to a canvas; None if they were not.
    classes: Names of the classes, `()` without labels.
    skipped: "name: reason" for each picture that could not be decoded.
    notes: What else a user should know of them.
    remarks: What was remarked of pictures when they were decoded, by kind; in
      words, it is among the notes.
  """

  image: np.ndarray
  label: np.ndarray | None
  extent: np.ndarray | None
  classes: tuple[str, ...]
  skipped: tuple[str, ...]
  notes: tuple[str, ...] = ()
  remarks: Mapping[str, chunks.Tally] = {}


def labels_of(images: Images) -> np.ndarray:
  """Returns labels, int32 `[N]`, -1 where there is none."""
  if images.label is None:
    return np.full(len(images.image), -1, np.int32)
  return images.label


def open_source(
    name: str, split: str, *, data_dir: str | os.PathLike | None = None
) -> Source:
  """Opens one split of a data set for random access, without decoding it.

  Args:
    name: "digits" or "photos", which need no network; a name of TensorFlow
      Datasets such as "cifar10", "imagenet2012" or
      "cifar10_corrupted/brightness_1:1.0.0"; or "folder:PATH", with a
      sub-folder a class or unlabelled pictures.
    split: "train"; "test" for the held-out part, which is the validation
      split if there is no labelled test split; a slice of either such as
      "train[:10%]"; or "all" splits.
    data_dir: Where TensorFlow Datasets keeps its data; None for the variable
      TFDS_DATA_DIR or, without it, ~/tensorflow_datasets.

  Raises:
    ValueError: If the name or the split is unknown.
    OSError: If the data is not there, or cannot be prepared there.
  """
  source, path = split_source(name)
  if source == "folder":
    return folder_source.open_folder(path, split)
  from jssl.data import tfds_source  # TFDS is slow to import.

  return tfds_source.open_tfds(name, split, data_dir=data_dir)


def load(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike | None = None,
    canvas: int | None = None,
    max_bytes: int | None = None,
) -> Images:
  """Decodes a whole split, once, into one array.

  Args:
    name: As in `open_source`.
    split: As in `open_source`.
    data_dir: As in `open_source`.
    canvas: Side of the square that each picture is put on, its true size in
      `extent` (see `decode`); None if the pictures share one size.
    max_bytes: Refuse a larger array; None for half of the free memory.

  Returns:
    The `Images`, in the order of the source.

  Raises:
    ValueError: If the name or the split is unknown, the pictures differ in
      size and no canvas is given, none can be decoded, or they do not fit.
    OSError: If the data is not there, or cannot be prepared there.

  Example:
    >>> load("digits", "train").image.shape
    (1437, 8, 8, 1)
  """
  source = open_source(name, split, data_dir=data_dir)
  return load_source(source, canvas=canvas, max_bytes=max_bytes)


def load_source(
    source: Source, *, canvas: int | None = None, max_bytes: int | None = None
) -> Images:
  """Decodes all pictures of a source, once, into one array.

  Args:
    source: See `open_source`.
    canvas: As in `load`.
    max_bytes: As in `load`.

  Returns:
    The `Images`, in the order of the source.

  Raises:
    ValueError: As in `load`.
  """
  geometry = measure(source, canvas)
  limit = _free_memory() // 2 if max_bytes is None else max_bytes
  if (needed := nbytes(source, geometry)) > limit:
    raise ValueError(
        f"The {source.length} pictures of {source.name} need"
        f" {needed / _GIB:.3g} GiB at {_by(geometry.size)} pixels, and"
        f" {limit / _GIB:.3g} GiB may be used: pass a smaller canvas, or a"
        " slice of the split such as 'train[:10%]'."
    )
  with _quiet_pool() as pool:
    return _decode_all(source, geometry, pool)


def measure(source: Source, canvas: int | None = None) -> Geometry:
  """Tells what pictures become: all of a canvas, or of the size they share.

  Args:
    source: See `open_source`.
    canvas: As in `load`.

  Raises:
    ValueError: If the pictures differ in size and no canvas is given.
  """
  if canvas is not None and canvas < 1:
    raise ValueError(f"canvas is {canvas}: it must be at least 1 pixel.")
  if canvas:
    size = (canvas, canvas)
  else:
    with _quiet_pool() as pool:
      size = source.size or _common_size(source, pool)
  return Geometry(size, canvas, source.channels)


def nbytes(source: Source, geometry: Geometry) -> int:
  """Returns the bytes of all decoded pictures of a source."""
  return source.length * int(np.prod(geometry.shape))


def fits(source: Source, geometry: Geometry) -> bool:
  """Tells whether all decoded pictures fit into half of the free memory."""
  return nbytes(source, geometry) <= _free_memory() // 2


def sample(source: Source, count: int) -> Source:
  """Takes so many pictures of a source, evenly spaced; all if there are fewer.

  Args:
    source: See `open_source`.
    count: How many, at least 1.
  """
  if source.length <= count:
    return source
  chosen = np.linspace(0, source.length - 1, count).astype(int)

  def read(indices: Sequence[int]) -> list[Record]:
    return source.read([int(chosen[index]) for index in indices])

  return source._replace(length=count, read=read, fingerprint=None)


def fingerprint(source: Source) -> int:
  """Returns a checksum of how many pictures there are and of what is in some.

  Args:
    source: See `open_source`.
  """
  checksum = source.length
  for record in (few := sample(source, _SAMPLED)).read(range(few.length)):
    checksum = zlib.crc32(record.encoded, checksum)
  return checksum


@contextlib.contextmanager
def _quiet_pool() -> Iterator[concurrent.futures.Executor]:
  with (
      warnings.catch_warnings(),
      concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
  ):
    warnings.filterwarnings("ignore", module="PIL")  # Odd metadata, mostly.
    yield pool


def _decode_all(
    source: Source, geometry: Geometry, pool: concurrent.futures.Executor
) -> Images:
  image = np.empty((source.length, *geometry.shape), np.uint8)
  label = np.empty((source.length,), np.int32)
  extent = np.empty((source.length, 2), np.int32)
  read = chunks.reader(source, geometry)
  remarks: list[tuple[str, Remark]] = []

  def fill(indices: range) -> list[tuple[int, str]]:
    chunk, rows = read(indices), slice(indices.start, indices.stop)
    image[rows], extent[rows], label[rows] = chunk[:3]
    remarks.extend(chunk.remarks)
    return [(indices[row], why) for row, why in chunk.broken.items()]

  broken = _map_chunks(fill, source, pool)
  image, label, extent = _without(
      [index for index, _ in broken], image, label, extent
  )
  if not len(image):
    raise ValueError(_all_broken(source, broken[0][1]))
  skipped = source.skipped + tuple(reason for _, reason in broken)
  labelled = bool(source.classes) and label.max() >= 0
  tallies = chunks.tally(sorted(remarks))
  notes = source.notes + chunks.sentences(tallies, source.length, source.name)
  unknown = int((label < 0).sum())
  if labelled and unknown:
    notes += (
        (
            f"{unknown:,} of {len(label):,} pictures of {source.name} have no"
            " label (-1): evaluations that need one leave them out, and to"
            " supcon each is the only picture of its class"
        ),
    )
  elif source.classes and not labelled:
    notes += (
        (
            f"no picture of {source.name} has a label (all are -1), so that it"
            " is taken as a set without labels"
        ),
    )
  return Images(
      image=image,
      label=label if labelled else None,
      extent=None if geometry.canvas is None else extent,
      classes=source.classes if labelled else (),
      skipped=skipped,
      notes=notes,
      remarks=tallies,
  )


def _map_chunks(
    function: Callable[[range], list],
    source: Source,
    pool: concurrent.futures.Executor,
) -> list:
  """Applies `function` to chunks of the source's indices; joins its lists."""
  first = len(source.read([0])[0].encoded)
  chunk = min(max(_CHUNK_BYTES // max(first, 1), 1), _CHUNK)
  starts = range(0, source.length, chunk)
  chunks = [range(s, min(s + chunk, source.length)) for s in starts]
  return [item for items in pool.map(function, chunks) for item in items]


def _without(broken: list[int], *arrays: np.ndarray) -> list[np.ndarray]:
  """Drops rows in place: a second copy of the pictures may not fit."""
  if not broken:
    return list(arrays)
  kept = np.delete(np.arange(len(arrays[0])), broken)
  for array in arrays:
    for target, index in enumerate(kept):
      array[target] = array[index]
  return [array[: len(kept)] for array in arrays]


def common_size(source: Source) -> tuple[int, int] | None:
  """Returns the (height, width) that all pictures share, from their headers.

  Args:
    source: See `open_source`.

  Returns:
    The size; None if pictures differ, or none can be read.
  """
  if source.size:
    return source.size
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    found = set(_sizes(source, pool))
  return found.pop() if len(found) == 1 else None


def _sizes(
    source: Source, pool: concurrent.futures.Executor
) -> list[tuple[int, int]]:
  """Reads the headers of all pictures, or of some that differ already."""

  def sizes(indices: range) -> list[tuple[int, int]]:
    found = []
    for record in source.read(indices):
      try:
        found.append(read_size(record.encoded))
      except ValueError:
        pass  # Decoding will name it.
    return found

  found = sizes(range(min(16, source.length)))
  if len(set(found)) < 2:  # Else enough is known, and the rest may be large.
    found = _map_chunks(sizes, source, pool)
  return found


def _common_size(
    source: Source, pool: concurrent.futures.Executor
) -> tuple[int, int]:
  """Returns the size all pictures share, or refuses them."""
  found = _sizes(source, pool)
  if not found:
    return (1, 1)  # Nothing can be decoded, and decoding will say why.
  if len(set(found)) > 1:
    middle = int(np.median([min(size) for size in found]))
    canvas = min(middle, CANVAS)
    raise ValueError(
        f"The pictures of {source.name} differ in size, as {_by(min(found))}"
        f" and {_by(max(found))} (height x width): fit each to a square by"
        f" --config.data.canvas={canvas}, or in Python canvas={canvas}."
    )
  return found[0]


def _free_memory() -> int:
  """Returns the bytes of memory that can be had without swapping."""
  try:
    with open("/proc/meminfo") as lines:
      fields = dict(line.split(":", 1) for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024
  except (OSError, KeyError):  # Not Linux: all there is.
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _all_broken(source: Source, first: str) -> str:
  return (
      f"None of the {source.length} pictures of {source.name} can be decoded:"
      f" check the files. The first is {first}."
  )


def _by(size: tuple[int, ...]) -> str:
  return f"{size[0]}x{size[1]}"
