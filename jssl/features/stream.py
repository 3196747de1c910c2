"""Pictures of a source, batch after batch, in memory that stays the same."""

from collections.abc import Iterator
import concurrent.futures
import os
from typing import NamedTuple

import numpy as np

from jssl.data import decode
from jssl.data import Source

# Pictures a thread reads and decodes in one go: batched reads are faster.
_CHUNK = 16


class Geometry(NamedTuple):
  """How pictures become arrays of one shape.

  Attributes:
    size: (height, width) of the arrays.
    canvas: Side of the square that pictures are stretched to, or None: they
      are of that size already.
    channels: 1 (gray), 3 (RGB) or 4 (RGBA).
  """

  size: tuple[int, int]
  canvas: int | None
  channels: int


class Batch(NamedTuple):
  """Pictures that follow each other in the source, n of which were decoded.

  Attributes:
    stop: Place in the source after the last one.
    image: uint8 `[B, H, W, C]`; the first n rows are pictures.
    extent: int32 `[B, 2]`, true heights and widths; None without a canvas.
    index: Their places in the source, n integers.
    label: Their labels, n integers, -1 without one.
    name: Their names, n.
    skipped: "name: reason" for each that could not be decoded.
  """

  stop: int
  image: np.ndarray
  extent: np.ndarray | None
  index: list[int]
  label: list[int]
  name: list[str]
  skipped: list[str]


def batches(
    source: Source, geometry: Geometry, *, start: int = 0, batch_size: int
) -> Iterator[Batch]:
  """Reads and decodes pictures in threads, one batch ahead of the caller.

  At most two batches are held here, however many pictures there are.

  Args:
    source: Where they come from.
    geometry: What they become.
    start: Place in the source of the first one.
    batch_size: B, also of the last batch, which is filled up.

  Yields:
    Every `Batch` to the end of the source.
  """
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    ahead = None
    for first in range(start, source.length, batch_size):
      indices = range(first, min(first + batch_size, source.length))
      coming = _begin(pool, source, geometry, indices, batch_size)
      if ahead is not None:
        yield _finish(*ahead)
      ahead = coming
    if ahead is not None:
      yield _finish(*ahead)


def decode_one(encoded: bytes, geometry: Geometry) -> Batch:
  """Decodes a single picture to a batch of one.

  Args:
    encoded: The bytes of a picture file.
    geometry: What it becomes.

  Raises:
    ValueError: If the bytes are not such a picture, with the reason.
  """
  image, extent = _decode(encoded, geometry)
  extent = np.asarray([extent], np.int32)
  return Batch(
      stop=1,
      image=image[None],
      extent=None if geometry.canvas is None else extent,
      index=[0],
      label=[-1],
      name=[""],
      skipped=[],
  )


def _begin(pool, source, geometry, indices, batch_size):
  """Starts to decode into new arrays."""
  image = np.zeros((batch_size, *geometry.size, geometry.channels), np.uint8)
  # Of the rows that stay empty too: their geometry must be one.
  extent = np.ones((batch_size, 2), np.int32)

  def fill(some):
    """Returns (row, record, reason why it is not decoded or None)."""
    filled = []
    for index, record in zip(some, source.read(some)):
      row, reason = index - indices.start, None
      try:
        image[row], extent[row] = _decode(record.encoded, geometry)
      except ValueError as error:
        reason = f"{record.name}: {error}"
      filled.append((row, record._replace(encoded=b""), reason))
    return filled

  chunks = (indices[i : i + _CHUNK] for i in range(0, len(indices), _CHUNK))
  jobs = [pool.submit(fill, chunk) for chunk in chunks]
  return indices, image, None if geometry.canvas is None else extent, jobs


def _finish(indices, image, extent, jobs):
  """Waits, and closes the gaps that broken pictures left."""
  filled = [item for job in jobs for item in job.result()]
  whole = [(row, record) for row, record, reason in filled if reason is None]
  rows = [row for row, _ in whole]
  if len(rows) < len(filled):
    image[: len(rows)] = image[rows]
    if extent is not None:
      extent[: len(rows)] = extent[rows]
  return Batch(
      stop=indices.stop,
      image=image,
      extent=extent,
      index=[indices[row] for row in rows],
      label=[record.label for _, record in whole],
      name=[record.name for _, record in whole],
      skipped=[reason for _, _, reason in filled if reason is not None],
  )


def _decode(encoded, geometry):
  pixels, extent = decode(
      encoded, geometry.canvas, channels=geometry.channels
  )
  if pixels.shape[:2] != geometry.size:
    raise ValueError(
        f"it is {pixels.shape[0]}x{pixels.shape[1]}, not"
        f" {geometry.size[0]}x{geometry.size[1]} as the others"
    )
  return pixels, extent
