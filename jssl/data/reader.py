"""Reads and decodes some pictures of a source."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
from typing import NamedTuple

import numpy as np

from jssl.data.decode import decode_remarked, KINDS
from jssl.data.source import Record, Source

# Version of how pictures lie on a canvas: part of what identifies cached
# pictures and computed features. Increase it with every change.
LAYOUT = 2


@dataclasses.dataclass(frozen=True)
class Geometry:
  """How pictures become arrays of one shape.

  Attributes:
    size: (height, width) of the arrays.
    canvas: Side of the square that pictures are put on (see `decode`), or None
      if they are of that size already.
    channels: 1 (gray), 3 (RGB) or 4 (RGBA).
  """

  size: tuple[int, int]
  canvas: int | None
  channels: int

  @property
  def shape(self) -> tuple[int, int, int]:
    """Shape of an array, `(H, W, C)`."""
    return (*self.size, self.channels)


# A tree, so that arrays reach other processes through shared memory.
class Batch(NamedTuple):
  """n decoded pictures.

  Attributes:
    index: Positions in the source, int `[n]`.
    image: uint8 `[n, H, W, C]`; zeros where a picture is broken.
    extent: True heights and widths, int32 `[n, 2]`; ones where it is broken.
    label: int32 `[n]`, -1 without a label.
    name: Name of each picture in messages.
    broken: "name: reason" of pictures that could not be decoded, by row.
    notes: What a user should know about how they were read.
    remarks: What a user should know about pictures: (name of a picture, key of
      `jssl.data.decode.KINDS`, number for its text).
  """

  index: np.ndarray  # type: ignore[assignment]
  image: np.ndarray
  extent: np.ndarray
  label: np.ndarray
  name: list[str]
  broken: dict[int, str]
  notes: tuple[str, ...] = ()
  remarks: tuple[tuple[str, str, int], ...] = ()

  @property
  def whole(self) -> list[int]:
    """Rows of the pictures that were decoded."""
    return [row for row in range(len(self.label)) if row not in self.broken]


@dataclasses.dataclass(frozen=True)
class Tally:
  """The pictures with the same remark.

  Attributes:
    count: Their number.
    value: Their largest number, see `Batch`.
    name: The first one's name.
  """

  count: int
  value: int
  name: str


Reader = Callable[[Sequence[int]], Batch]


def empty_batch(indices: Sequence[int], shape: tuple[int, int, int]) -> Batch:
  """Returns a batch to be filled.

  Args:
    indices: Positions of its pictures in the source.
    shape: Shape of a decoded picture, `(H, W, C)`.
  """
  count = len(indices)
  return Batch(
      index=np.asarray(indices, np.int64),
      image=np.zeros((count, *shape), np.uint8),
      extent=np.ones((count, 2), np.int32),
      label=np.full((count,), -1, np.int32),
      name=[""] * count,
      broken={},
  )


def make_reader(source: Source, geometry: Geometry) -> Reader:
  """Makes the function that reads and decodes pictures of a source.

  Args:
    source: The source of the pictures.
    geometry: The form of the decoded pictures.

  Returns:
    From indices in `[0, source.length)` to their `Batch`; safe to call from
    several threads at once, and to send to other processes if the source is.
  """

  def read(indices: Sequence[int]) -> Batch:
    records = source.read(indices) if len(indices) else []
    batch = decode_records(records, geometry)
    batch.index[:] = indices
    return batch

  return read


def decode_records(records: Sequence[Record], geometry: Geometry) -> Batch:
  """Decodes pictures; those that cannot be decoded are named in `broken`.

  Args:
    records: The pictures.
    geometry: The form of the decoded pictures.
  """
  batch, remarks = empty_batch(range(len(records)), geometry.shape), []
  for row, record in enumerate(records):
    batch.name[row], batch.label[row] = record.name, record.label
    try:
      pixels, extent, found = decode_remarked(
          record.encoded, geometry.canvas, channels=geometry.channels
      )
      if pixels.shape[:2] != geometry.size:
        raise ValueError(
            f"it is {pixels.shape[0]}x{pixels.shape[1]}, not"
            f" {geometry.size[0]}x{geometry.size[1]} like the others"
        )
      batch.image[row], batch.extent[row] = pixels, extent
      remarks += [(record.name, *remark) for remark in found.items()]
    except ValueError as error:
      batch.broken[row] = f"{record.name}: {error}"
  return batch._replace(remarks=tuple(remarks))


def tally(
    remarks: Iterable[tuple[str, str, int]],
    known: Mapping[str, Tally] | None = None,
) -> dict[str, Tally]:
  """Counts remarks by their kind.

  Args:
    remarks: As in a `Batch`.
    known: Earlier counts, to add to.
  """
  tallies = dict(known or {})
  for name, kind, value in remarks:
    old = tallies.get(kind, Tally(0, 0, name))
    tallies[kind] = Tally(old.count + 1, max(old.value, value), old.name)
  return tallies


def describe_remarks(
    tallies: Mapping[str, Tally], total: int, name: str
) -> tuple[str, ...]:
  """Describes the remarks about pictures, in one sentence for each kind.

  Args:
    tallies: By their kind, see `tally`.
    total: Number of pictures that were decoded.
    name: Name of the data set in messages.
  """
  return tuple(
      f"{found.count:,} of {total:,} pictures of {name}"
      f" {KINDS[kind].format(value=found.value)} (the first: {found.name})"
      for kind, found in tallies.items()
  )
