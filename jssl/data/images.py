"""Loads data sets as arrays in memory."""

from collections.abc import Mapping, Sequence
import concurrent.futures
import contextlib
import dataclasses
import os
import warnings

import numpy as np

from jssl.data import folder_source
from jssl.data.datasets import CANVAS, split_source
from jssl.data.decode import read_size
from jssl.data.loader import load_in_order, part_size
from jssl.data.reader import describe_remarks, Geometry, Tally, tally
from jssl.data.source import Source

_BATCH = 64  # Pictures decoded ahead of those that are copied.
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Images:
  """The decoded pictures of one split.

  Attributes:
    image: uint8 `[N, H, W, C]`.
    label: int32 `[N]`, an index into `classes`; None without labels.
    extent: int32 `[N, 2]`, the true (height, width) of the pictures that were
      fitted to a canvas; None if they were not.
    classes: Names of the classes, `()` without labels.
    skipped: "name: reason" for each picture that could not be decoded.
    notes: What else a user should know about them.
    remarks: Remarks about pictures when they were decoded, counted by kind;
      `notes` has them in words.
  """

  image: np.ndarray
  label: np.ndarray | None
  extent: np.ndarray | None
  classes: tuple[str, ...]
  skipped: tuple[str, ...]
  notes: tuple[str, ...] = ()
  remarks: Mapping[str, Tally] = dataclasses.field(default_factory=dict)

  def take(self, index: np.ndarray) -> "Images":
    """Returns the pictures at an int `[n]` or bool `[N]` index."""
    return dataclasses.replace(self, **self.batch(index))

  def evenly(self, count: int) -> "Images":
    """Returns at most `count` pictures, evenly spaced.

    Folders are sorted by class, so all classes are among them.
    """
    if count >= len(self.image):
      return self
    return self.take(evenly(len(self.image), count))

  def labelled(self) -> np.ndarray:
    """Returns positions of the pictures with a label, int `[n]`."""
    return np.flatnonzero(labels_of(self) >= 0)

  def batch(self, index: np.ndarray | slice = slice(None)) -> dict:
    """Returns a batch for a method, without entries that do not apply.

    Args:
      index: Positions of its pictures; all of them by default.

    Returns:
      A dict of "image" and, where the set has them, "label" and "extent".
    """
    arrays = {"image": self.image, "label": self.label, "extent": self.extent}
    return {name: x[index] for name, x in arrays.items() if x is not None}


def evenly(length: int, count: int) -> np.ndarray:
  """Returns at most `count` indices below `length`, evenly spaced."""
  return np.linspace(0, length - 1, min(count, length)).round().astype(int)


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
      sub-folder per class or unlabelled pictures.
    split: "train"; "test" for the held-out part, which is the validation
      split if there is no labelled test split; a slice of either such as
      "train[:10%]"; or "all" splits.
    data_dir: Folder of TensorFlow Datasets; None for the environment variable
      TFDS_DATA_DIR or, without it, ~/tensorflow_datasets.

  Raises:
    ValueError: If the name or the split is unknown.
    OSError: If the data cannot be found or prepared.
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
    OSError: If the data cannot be found or prepared.

  Example:
    >>> load("digits", "train").image.shape
    (1437, 8, 8, 1)
  """
  source = open_source(name, split, data_dir=data_dir)
  return decode_all(source, measure(source, canvas), max_bytes=max_bytes)


def decode_all(
    source: Source, geometry: Geometry, *, max_bytes: int | None = None
) -> Images:
  """Decodes all pictures of a measured source, once, into one array.

  Args:
    source: See `open_source`.
    geometry: The form of the decoded pictures, see `measure`.
    max_bytes: As in `load`.

  Returns:
    The `Images`, in the order of the source.

  Raises:
    ValueError: If none can be decoded, or they do not fit.
  """
  limit = memory_limit() if max_bytes is None else max_bytes
  if (needed := nbytes(source, geometry)) > limit:
    raise ValueError(
        f"The {source.length} pictures of {source.name} need"
        f" {needed / _GIB:.3g} GiB at {_sides(geometry.size)} pixels, and"
        f" {limit / _GIB:.3g} GiB may be used: pass a smaller canvas, or a"
        " slice of the split such as 'train[:10%]'."
    )
  image = np.empty((source.length, *geometry.shape), np.uint8)
  label = np.empty((source.length,), np.int32)
  extent = np.empty((source.length, 2), np.int32)
  count, skipped = 0, list(source.skipped)
  remarks: dict[str, Tally] = {}
  batches = load_in_order(source, geometry, batch_size=_BATCH)
  with contextlib.closing(batches):
    for batch in batches:
      whole = batch.whole
      rows = slice(count, count + len(whole))
      image[rows], label[rows] = batch.image[whole], batch.label[whole]
      extent[rows] = batch.extent[whole]
      count += len(whole)
      skipped += batch.broken.values()
      remarks = tally(batch.remarks, remarks)
  if not count:
    raise ValueError(
        f"None of the {source.length} pictures of {source.name} can be"
        f" decoded: check the files. The first is {skipped[-source.length]}."
    )
  label = label[:count]
  labelled = bool(source.classes) and label.max() >= 0
  return Images(
      image=image[:count],
      label=label if labelled else None,
      extent=None if geometry.canvas is None else extent[:count],
      classes=source.classes if labelled else (),
      skipped=tuple(skipped),
      notes=(
          *source.notes,
          *describe_remarks(remarks, source.length, source.name),
          *_describe_unlabelled(source, label),
      ),
      remarks=remarks,
  )


def _describe_unlabelled(source, label):
  """Describes the pictures without a label in a set that has classes."""
  unknown = int((label < 0).sum())
  if not source.classes or not unknown:
    return []
  if unknown == len(label):
    return [
        f"no picture of {source.name} has a label (all are -1), so it is"
        " treated as a set without labels"
    ]
  return [
      f"{unknown:,} of {len(label):,} pictures of {source.name} have no label"
      " (-1): evaluations that need one leave them out, and supcon treats each"
      " of them as a class of its own"
  ]


def measure(source: Source, canvas: int | None = None) -> Geometry:
  """Finds the form of decoded pictures: the canvas, or the size they share.

  Args:
    source: See `open_source`.
    canvas: As in `load`.

  Raises:
    ValueError: If the pictures differ in size and no canvas is given.
  """
  if canvas is not None and canvas < 1:
    raise ValueError(f"canvas is {canvas}: it must be at least 1 pixel.")
  if canvas:
    return Geometry((canvas, canvas), canvas, source.channels)
  sizes = _sizes(source)
  if len(set(sizes)) > 1:
    canvas = min(int(np.median([min(size) for size in sizes])), CANVAS)
    raise ValueError(
        f"The pictures of {source.name} differ in size, as {_sides(min(sizes))}"
        f" and {_sides(max(sizes))} (height x width): fit each to a square by"
        f" --config.data.canvas={canvas}, or in Python canvas={canvas}."
    )
  # Without a readable header, decoding will fail and say why.
  return Geometry(sizes[0] if sizes else (1, 1), None, source.channels)


def nbytes(source: Source, geometry: Geometry) -> int:
  """Returns the bytes of all decoded pictures of a source."""
  return source.length * int(np.prod(geometry.shape))


def memory_limit() -> int:
  """Returns half the bytes of memory that are available without swapping."""
  try:
    with open("/proc/meminfo") as lines:
      fields = dict(line.split(":", 1) for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024 // 2
  except (OSError, KeyError):  # Not Linux: half of all.
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def common_size(source: Source) -> tuple[int, int] | None:
  """Returns the (height, width) that all pictures share, from their headers.

  Args:
    source: See `open_source`.

  Returns:
    The size; None if pictures differ, or none can be read.
  """
  found = set(_sizes(source))
  return found.pop() if len(found) == 1 else None


def _sizes(source: Source) -> list[tuple[int, int]]:
  """Returns the sizes in the headers: all, or the first few if these differ.

  If the source declares a size, it is the only one.
  """
  if source.size:
    return [source.size]

  def sizes(indices: Sequence[int]) -> list[tuple[int, int]]:
    found = []
    for record in source.read(indices):
      with contextlib.suppress(ValueError):  # Decoding will report it.
        found.append(read_size(record.encoded))
    return found

  with (
      warnings.catch_warnings(),
      concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
  ):
    warnings.filterwarnings("ignore", module="PIL")  # Odd metadata, mostly.
    every = range(source.length)
    found = sizes(every[:16])
    if len(set(found)) > 1:  # The remaining files may be large.
      return found
    part = part_size(source)
    parts = (every[i : i + part] for i in every[::part])
    return [size for part in pool.map(sizes, parts) for size in part]


def _sides(size: tuple[int, ...]) -> str:
  return f"{size[0]}x{size[1]}"
