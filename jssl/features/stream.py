"""Pictures of a source, batch after batch, in memory that stays the same."""

from collections.abc import Iterator
import concurrent.futures
import os
from typing import NamedTuple

import numpy as np

from jssl.data import chunks
from jssl.data.chunks import Geometry
from jssl.data.decode import Remark
from jssl.data.source import Record
from jssl.data.source import Source

# Pictures a thread reads and decodes in one go: batched reads are faster.
_CHUNK = 16


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
    remarks: What a user should know of pictures, see `chunks.Chunk`.
  """

  stop: int
  image: np.ndarray
  extent: np.ndarray | None
  index: list[int]  # type: ignore[assignment]
  label: list[int]
  name: list[str]
  skipped: list[str]
  remarks: list[tuple[str, Remark]] = []


def batches(
    source: Source, geometry: Geometry, *, start: int = 0, batch_size: int
) -> Iterator[Batch]:
  """Reads and decodes pictures in threads, one batch ahead of the caller.

  At most three batches are held here, however many pictures there are.

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
  chunk = chunks.decode_records([Record(encoded, -1, "it")], geometry)
  if chunk.broken:
    raise ValueError(chunk.broken[0].removeprefix("it: "))
  return Batch(
      stop=1,
      image=chunk.image,
      extent=None if geometry.canvas is None else chunk.extent,
      index=[0],
      label=[-1],
      name=[""],
      skipped=[],
  )


def _begin(pool, source, geometry, indices, batch_size):
  """Starts to decode."""
  read = chunks.reader(source, geometry)
  parts = (indices[i : i + _CHUNK] for i in range(0, len(indices), _CHUNK))
  jobs = [pool.submit(read, part) for part in parts]
  return indices, geometry, batch_size, jobs


def _finish(indices, geometry, batch_size, jobs):
  """Waits, and joins what is whole."""
  batch = chunks.empty(batch_size, geometry)
  index, label, name, skipped, remarks = [], [], [], [], []
  seen = 0
  for job in jobs:
    chunk = job.result()
    whole = [i for i in range(len(chunk.label)) if i not in chunk.broken]
    rows = slice(len(index), len(index) + len(whole))
    batch.image[rows] = chunk.image[whole]
    batch.extent[rows] = chunk.extent[whole]
    index += [indices[seen + i] for i in whole]
    label += [int(chunk.label[i]) for i in whole]
    name += [chunk.name[i] for i in whole]
    skipped += chunk.broken.values()
    remarks += chunk.remarks
    seen += len(chunk.label)
  return Batch(
      stop=indices.stop,
      image=batch.image,
      extent=None if geometry.canvas is None else batch.extent,
      index=index,
      label=label,
      name=name,
      skipped=skipped,
      remarks=remarks,
  )
