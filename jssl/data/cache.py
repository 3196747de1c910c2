"""Decoded pictures on disk, for sets that are read many times."""

from collections.abc import Sequence
import contextlib
import hashlib
import json
import os
import pathlib
import zlib

import numpy as np

from jssl.data import chunks
from jssl.data import images
from jssl.data.chunks import Chunk
from jssl.data.chunks import Geometry
from jssl.data.chunks import Reader
from jssl.data.source import Source

# Of a picture: a checksum of its pixels, its true size, and its label. A
# picture that is not there yet has a height of 0.
_ENTRY = np.dtype([("checksum", "<u4"), ("extent", "<i4", 2), ("label", "<i4")])


def cached(
    read: Reader,
    source: Source,
    geometry: Geometry,
    folder: str | os.PathLike,
) -> Reader:
  """Makes a reader that decodes each picture once, and then finds it on disk.

  A picture is written when it is first read. Of a folder whose files have
  changed since then (their names, sizes or times), and of a set that holds
  other pictures, all are decoded again. Several threads, processes and
  hosts may share the folder. What an interruption leaves half-written fails
  its checksum and is written again; a disk that is full leaves the rest to be
  decoded every time.

  Args:
    read: Reads and decodes, see `chunks.reader`.
    source: What it reads.
    geometry: What pictures become.
    folder: Where to keep them, of any number of sets.

  Returns:
    A reader of the same pictures. What goes wrong with the disk is in the
    `notes` of its chunks.
  """
  folder = _folder_of(source, geometry, pathlib.Path(folder).expanduser())

  def read_cached(indices: Sequence[int]) -> Chunk:
    with contextlib.ExitStack() as stack:
      try:
        files = stack.enter_context(_Files(folder, source.length, geometry))
      except OSError as error:  # Not even an empty file.
        return _noted(read(indices), folder, error)
      return _read_through(files, read, indices, geometry)

  return read_cached


def _folder_of(source, geometry, folder):
  """A folder for each content, so that a set that changed starts anew."""
  about = {
      "pictures": source.name,
      "count": source.length,
      "fingerprint": source.fingerprint and source.fingerprint(),
      "contents": images.fingerprint(source),
      "size": geometry.size,
      "canvas": geometry.canvas,
      "layout": geometry.canvas and chunks.LAYOUT,
      "channels": geometry.channels,
  }
  digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
  return folder / digest


class _Files:
  """The two files of a set: pixels, and an entry a picture."""

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
    """Returns the bytes and the entry of a picture, None if not whole."""
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
  """Finds what is there, reads the rest and keeps it."""
  chunk = chunks.empty(len(indices), geometry)
  missing = []
  for row, index in enumerate(indices):
    try:
      found = files.find(int(index))
    except OSError:  # As if it were not there.
      found = None
    if found is None:
      missing.append(row)
      continue
    raw, entry = found
    chunk.image[row] = np.frombuffer(raw, np.uint8).reshape(geometry.shape)
    chunk.extent[row], chunk.label[row] = entry["extent"], entry["label"]
    chunk.name[row] = f"#{index} of the cache"
  if not missing:
    return chunk
  new = read([int(indices[row]) for row in missing])
  chunk.image[missing], chunk.extent[missing] = new.image, new.extent
  chunk.label[missing] = new.label
  for i, row in enumerate(missing):
    chunk.name[row] = new.name[i]
  chunk.broken.update({missing[i]: why for i, why in new.broken.items()})
  chunk = chunk._replace(notes=new.notes, remarks=new.remarks)
  try:
    for i, row in enumerate(missing):
      if i not in new.broken:
        files.keep(int(indices[row]), new.image[i], new.extent[i], new.label[i])
  except OSError as error:
    return _noted(chunk, files._paths[0].parent, error)
  return chunk


def _noted(chunk, folder, error):
  reason = error.strerror or str(error)
  note = (
      f"nothing more can be kept in the cache {folder} ({reason}); what is not"
      " in it is decoded each time"
  )
  return chunk._replace(notes=(*chunk.notes, note))
