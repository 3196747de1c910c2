"""Some pictures of a source, read and decoded together."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import itertools
from typing import NamedTuple

import numpy as np

from jssl.data.decode import decode_remarked
from jssl.data.decode import KINDS
from jssl.data.decode import Remark
from jssl.data.source import Record
from jssl.data.source import Source

# How pictures lie on a canvas. A higher number after each change, so that what
# was kept of them before is not taken for the same.
LAYOUT = 2
# Neighbours that are tried in the place of a broken picture.
_TRIES = 100


class Geometry(NamedTuple):
  """How pictures become arrays of one shape.

  Attributes:
    size: (height, width) of the arrays.
    canvas: Side of the square that pictures are put on (see `decode`), or None:
      they are of that size already.
    channels: 1 (gray), 3 (RGB) or 4 (RGBA).
  """

  size: tuple[int, int]
  canvas: int | None
  channels: int

  @property
  def shape(self) -> tuple[int, int, int]:
    """Of an array, `(H, W, C)`."""
    return (*self.size, self.channels)


class Chunk(NamedTuple):
  """n decoded pictures.

  Attributes:
    image: uint8 `[n, H, W, C]`; zeros where a picture is broken.
    extent: True heights and widths, int32 `[n, 2]`; ones where it is broken.
    label: int32 `[n]`, -1 without one.
    name: What to call each in a message.
    broken: "name: reason" of those that could not be decoded, by their row.
    notes: What a user should know of how they were read.
    remarks: What a user should know of pictures, each with a picture's name.
  """

  image: np.ndarray
  extent: np.ndarray
  label: np.ndarray
  name: list[str]
  broken: dict[int, str]
  notes: tuple[str, ...] = ()
  remarks: tuple[tuple[str, Remark], ...] = ()


class Tally(NamedTuple):
  """The pictures that the same is remarked of.

  Attributes:
    count: Their number.
    value: Their largest value, see `Remark`.
    name: The first one's name.
  """

  count: int  # type: ignore[assignment]
  value: int
  name: str


Reader = Callable[[Sequence[int]], Chunk]


def empty(count: int, geometry: Geometry) -> Chunk:
  """Returns a chunk to be filled."""
  return Chunk(
      image=np.zeros((count, *geometry.shape), np.uint8),
      extent=np.ones((count, 2), np.int32),
      label=np.full((count,), -1, np.int32),
      name=[""] * count,
      broken={},
  )


def reader(source: Source, geometry: Geometry) -> Reader:
  """Makes the function that reads and decodes pictures of a source.

  Args:
    source: Where they come from.
    geometry: What they become.

  Returns:
    From indices in `[0, source.length)` to their `Chunk`; safe to call from
    several threads at once, and to send to other processes if the source is.
  """

  def read(indices: Sequence[int]) -> Chunk:
    return decode_records(source.read(indices), geometry)

  return read


def decode_records(records: Sequence[Record], geometry: Geometry) -> Chunk:
  """Decodes pictures; what cannot be decoded is named in `broken`."""
  chunk, remarks = empty(len(records), geometry), []
  for row, record in enumerate(records):
    chunk.name[row], chunk.label[row] = record.name, record.label
    try:
      pixels, extent, found = decode_remarked(
          record.encoded, geometry.canvas, channels=geometry.channels
      )
      if pixels.shape[:2] != geometry.size:
        raise ValueError(
            f"it is {pixels.shape[0]}x{pixels.shape[1]}, not"
            f" {geometry.size[0]}x{geometry.size[1]} as the others"
        )
      chunk.image[row], chunk.extent[row] = pixels, extent
      remarks += [(record.name, remark) for remark in found]
    except ValueError as error:
      chunk.broken[row] = f"{record.name}: {error}"
  return chunk._replace(remarks=tuple(remarks))


def tally(remarks: Iterable[tuple[str, Remark]]) -> dict[str, Tally]:
  """Counts remarks by their kind.

  Args:
    remarks: As in a `Chunk`.
  """
  tallies: dict[str, Tally] = {}
  for name, (kind, value) in remarks:
    known = tallies.get(kind, Tally(0, 0, name))
    tallies[kind] = Tally(known.count + 1, max(known.value, value), known.name)
  return tallies


def sentences(
    tallies: Mapping[str, Tally], total: int, name: str
) -> tuple[str, ...]:
  """Says what is remarked of pictures, in a sentence for each kind.

  Args:
    tallies: By their kind, see `tally`.
    total: Number of pictures that were looked at.
    name: What to call them.
  """
  return tuple(
      f"{found.count:,} of {total:,} pictures of {name}"
      f" {KINDS[kind].format(value=found.value)} (the first: {found.name})"
      for kind, found in tallies.items()
  )


def read_whole(read: Reader, indices: Sequence[int], size: int) -> Chunk:
  """Reads pictures, each broken one replaced by the next that is whole.

  The next in the order of the source: what a batch holds depends on nothing
  else.

  Args:
    read: See `reader`.
    indices: Which pictures.
    size: Number of pictures of the source.

  Returns:
    A chunk without gaps; `broken` tells the rows that were filled.

  Raises:
    ValueError: If the next hundred pictures are broken as well.
  """
  chunk = read(indices)
  remarks = chunk.remarks
  for row, reason in chunk.broken.items():
    steps = range(1, min(_TRIES, size - 1) + 1)
    others = (read([(int(indices[row]) + i) % size]) for i in steps)
    whole = next(itertools.filterfalse(lambda c: c.broken, others), None)
    if whole is None:
      raise ValueError(
          f"Neither {reason.partition(':')[0]} nor any of the pictures after it"
          f" can be decoded: check the files. {reason}."
      )
    chunk.image[row], chunk.extent[row] = whole.image[0], whole.extent[0]
    chunk.label[row], chunk.name[row] = whole.label[0], whole.name[0]
    remarks += whole.remarks
  return chunk._replace(remarks=remarks)
