"""Decoded pictures on disk, for sets that are read many times."""

from collections.abc import Sequence
import contextlib
import hashlib
import json
import os
import pathlib
import zlib

import numpy as np

from jssl.data import reader
from jssl.data.images import fingerprint
from jssl.data.reader import Batch, empty_batch, Geometry, Reader
from jssl.data.source import Source

# For each picture: a checksum of its pixels, its true size, and its label. A
# picture that is not cached yet has a height of 0.
_ENTRY = np.dtype([("checksum", "<u4"), ("extent", "<i4", 2), ("label", "<i4")])


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
  folder = _folder_of(source, geometry, pathlib.Path(folder).expanduser())

  def read_cached(indices: Sequence[int]) -> Batch:
    with contextlib.ExitStack() as stack:
      try:
        files = stack.enter_context(_Files(folder, source.length, geometry))
      except OSError as error:  # Not even an empty file.
        return _noted(read(indices), folder, error)
      return _read_through(files, read, indices, geometry)

  return read_cached


def _folder_of(source, geometry, folder):
  """A folder for each content, so that a changed set gets a new one."""
  about = {
      "pictures": source.name,
      "count": source.length,
      "fingerprint": source.fingerprint and source.fingerprint(),
      "contents": fingerprint(source),
      "size": geometry.size,
      "canvas": geometry.canvas,
      "layout": geometry.canvas and reader.LAYOUT,
      "channels": geometry.channels,
  }
  digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
  return folder / digest


class _Files:
  """The two files of a set: pixels, and one entry per picture."""

  def __init__(self, folder, count, geometry):
    self._bytes = int(np.prod(geometry.shape))
    self._paths = folder / "pixels", folder / "entries"
    self._sizes = count * self._bytes, count * _ENTRY.itemsize
    self._open = []

  def __enter__(self):
    try:
      self._paths[0].parent.mkdir(parents=True, exist_ok=True)
      for path, size in zip(self._paths, self._sizes):
        self._open.append(os.open(path, os.O_RDWR | os.O_CREAT, 0o644))
        os.truncate(self._open[-1], size)  # Holes take no space.
    except OSError:
      self.__exit__()
      raise
    return self

  def __exit__(self, *error):
    while self._open:
      os.close(self._open.pop())

  def find(self, index):
    """Returns the bytes and the entry of a picture, None if incomplete."""
    pixels, entries = self._open
    raw = os.pread(entries, _ENTRY.itemsize, index * _ENTRY.itemsize)
    (entry,) = np.frombuffer(raw, _ENTRY)
    if entry["extent"][0] > 0:
      raw = os.pread(pixels, self._bytes, index * self._bytes)
      if zlib.crc32(raw) == entry["checksum"]:
        return raw, entry
    return None

  def keep(self, index, image, extent, label):
    """Writes a picture, its entry last."""
    pixels, entries = self._open
    image = image.tobytes()
    entry = np.array((zlib.crc32(image), extent, label), _ENTRY).tobytes()
    _write(pixels, image, index * self._bytes)
    _write(entries, entry, index * _ENTRY.itemsize)


def _write(file, content, offset):
  if os.pwrite(file, content, offset) < len(content):
    raise OSError("the disk is full")


def _read_through(files, read, indices, geometry):
  """Finds cached pictures, reads the others and caches them."""
  batch = empty_batch(indices, geometry)
  missing = []
  for row, index in enumerate(indices):
    try:
      found = files.find(int(index))
    except OSError:  # Treated as not cached.
      found = None
    if found is None:
      missing.append(row)
      continue
    raw, entry = found
    batch.image[row] = np.frombuffer(raw, np.uint8).reshape(geometry.shape)
    batch.extent[row], batch.label[row] = entry["extent"], entry["label"]
    batch.name[row] = f"#{index} of the cache"
  if not missing:
    return batch
  new = read([int(indices[row]) for row in missing])
  batch.image[missing], batch.extent[missing] = new.image, new.extent
  batch.label[missing] = new.label
  for i, row in enumerate(missing):
    batch.name[row] = new.name[i]
  batch.broken.update({missing[i]: why for i, why in new.broken.items()})
  batch = batch._replace(notes=new.notes, remarks=new.remarks)
  try:
    for i, row in enumerate(missing):
      if i not in new.broken:
        files.keep(int(indices[row]), new.image[i], new.extent[i], new.label[i])
  except OSError as error:
    return _noted(batch, files._paths[0].parent, error)
  return batch


def _noted(batch, folder, error):
  reason = error.strerror or str(error)
  note = (
      f"no more pictures can be kept in the cache {folder} ({reason}); those"
      " that are not in it are decoded every time"
  )
  return batch._replace(notes=(*batch.notes, note))
