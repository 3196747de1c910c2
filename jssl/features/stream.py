"""Pictures of a source, batch after batch, in memory that stays the same."""

from collections.abc import Generator
from typing import NamedTuple

import numpy as np

from jssl.data.decode import Remark
from jssl.data.loader import load_in_order
from jssl.data.reader import decode_records
from jssl.data.reader import Geometry
from jssl.data.source import Record
from jssl.data.source import Source


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
    remarks: What a user should know of pictures, see `jssl.data.reader.Batch`.
  """

  stop: int
  image: np.ndarray
  extent: np.ndarray | None
  index: list[int]  # type: ignore[assignment]
  label: list[int]
  name: list[str]
  skipped: list[str]
  remarks: tuple[tuple[str, Remark], ...] = ()


def batches(
    source: Source, geometry: Geometry, *, start: int = 0, batch_size: int
) -> Generator[Batch, None, None]:
  """Loads pictures in order, ahead of the caller.

  Args:
    source: Where they come from.
    geometry: What they become.
    start: Position in the source of the first one.
    batch_size: B, also of the last batch, which is filled up.

  Yields:
    Every `Batch` to the end of the source.
  """
  for batch in load_in_order(
      source, geometry, batch_size=batch_size, start=start
  ):
    whole = batch.whole
    filled = batch.whole + [0] * (batch_size - len(whole))
    yield Batch(
        stop=int(batch.index[-1]) + 1,
        image=batch.image[filled],
        extent=None if geometry.canvas is None else batch.extent[filled],
        index=batch.index[whole].tolist(),
        label=batch.label[whole].tolist(),
        name=[batch.name[row] for row in whole],
        skipped=list(batch.broken.values()),
        remarks=batch.remarks,
    )


def decode_one(encoded: bytes, geometry: Geometry) -> Batch:
  """Decodes a single picture to a batch of one.

  Args:
    encoded: The bytes of a picture file.
    geometry: What it becomes.

  Raises:
    ValueError: If the bytes are not such a picture, with the reason.
  """
  batch = decode_records([Record(encoded, -1, "it")], geometry)
  if batch.broken:
    raise ValueError(batch.broken[0].removeprefix("it: "))
  return Batch(
      stop=1,
      image=batch.image,
      extent=None if geometry.canvas is None else batch.extent,
      index=[0],
      label=[-1],
      name=[""],
      skipped=[],
  )
