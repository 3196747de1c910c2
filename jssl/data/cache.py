"""Decoded pictures on disk, for sets that are read many times."""

from collections.abc import Sequence
import hashlib
import json
import os
import pathlib
import zlib

import numpy as np

from jssl.data import reader
from jssl.data.reader import Batch, empty_batch, Geometry, Reader
from jssl.data.source import fingerprint, Source

# Its name changes with its form, and so does that of its folder.
_FILE = "pictures"


def cached(
    read: Reader,
    source: Source,
    geometry: Geometry,
    folder: str | os.PathLike,
) -> Reader:
  """Makes a reader that decodes each picture once, then reads pixels from disk.

  A picture is written when it is first read. All pictures are decoded again if
  the files of a folder have changed since then (their names, sizes or times),
  or if a set now holds other pictures. Several threads, processes and hosts may
  share the folder. A picture that was left half-written by an interruption
  fails its checksum and is written again. If the disk is full, the remaining
  pictures are decoded every time.

  Args:
    read: Reads and decodes, see `reader.make_reader`.
    source: What it reads.
    geometry: The form of the decoded pictures.
    folder: Folder of the cache, for any number of sets.

  Returns:
    A reader of the same pictures. Problems with the disk are among the `notes`
    of its batches.
  """
  name = _content_name(source, geometry)
  path = pathlib.Path(folder).expanduser() / name / _FILE
  # One per picture, in one file. A picture that is not cached yet has a height
  # of 0.
  entry = np.dtype([
      ("checksum", "<u4"),  # Of all that follows.
      ("extent", "<i4", 2),
      ("label", "<i4"),
      ("image", "u1", geometry.shape),
  ])

  def read_cached(indices: Sequence[int]) -> Batch:
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
      return _noted(read(indices), path, error)
    try:
      batch, missing = _find(file, entry, indices)
      if missing:
        batch = _fill(batch, missing, read([int(indices[i]) for i in missing]))
        batch = _keep(file, entry, batch, missing, path)
      return batch
    finally:
      os.close(file)

  return read_cached


def _content_name(source, geometry):
  """Returns a name that differs where the cached pictures would."""
  about = {
      "pictures": source.name,
      "count": source.length,
      "fingerprint": source.fingerprint and source.fingerprint(),
      "contents": fingerprint(source),
      "size": geometry.size,
      "canvas": geometry.canvas,
      "layout": geometry.canvas and reader.LAYOUT,
      "channels": geometry.channels,
      "file": _FILE,
  }
  return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def _find(file, entry, indices):
  """Returns a batch of the cached pictures, and the rows of the others."""
  batch, missing = empty_batch(indices, entry["image"].shape), []
  for row, index in enumerate(indices):
    try:
      offset = int(index) * entry.itemsize
      content = os.pread(file, entry.itemsize, offset)
    except OSError:  # Treated as not cached.
      content = b""
    found = np.frombuffer(content.ljust(entry.itemsize, b"\0"), entry)[0]
    if found["extent"][0] == 0 or found["checksum"] != _checksum(content):
      missing.append(row)
      continue
    batch.image[row], batch.extent[row] = found["image"], found["extent"]
    batch.label[row], batch.name[row] = found["label"], f"#{index} of the cache"
  return batch, missing


def _fill(batch, missing, new):
  """Puts pictures that were read into the missing rows of a batch."""
  batch.image[missing], batch.extent[missing] = new.image, new.extent
  batch.label[missing] = new.label
  for row, name in zip(missing, new.name):
    batch.name[row] = name
  batch.broken.update({missing[i]: why for i, why in new.broken.items()})
  return batch._replace(notes=new.notes, remarks=new.remarks)


def _keep(file, entry, batch, rows, path):
  """Writes pictures to the cache, unless they are broken."""
  stored = np.zeros((), entry)
  for row in rows:
    if row in batch.broken:
      continue
    stored["extent"], stored["label"] = batch.extent[row], batch.label[row]
    stored["image"] = batch.image[row]
    stored["checksum"] = _checksum(stored.tobytes())
    try:
      offset = batch.index[row] * entry.itemsize
      if os.pwrite(file, stored.tobytes(), offset) < entry.itemsize:
        raise OSError("the disk is full")
    except OSError as error:
      return _noted(batch, path, error)
  return batch


def _checksum(content):
  return zlib.crc32(memoryview(content)[4:])


def _noted(batch, path, error):
  reason = error.strerror or str(error)
  note = (
      f"no more pictures can be kept in the cache {path} ({reason}); those"
      " that are not in it are decoded every time"
  )
  return batch._replace(notes=(*batch.notes, note))
