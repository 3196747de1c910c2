"""Pictures in a folder: one sub-folder per class, or all unlabelled."""

import bisect
from collections.abc import Sequence
import difflib
import hashlib
import os
import pathlib
import stat
from typing import NamedTuple
import zlib

import numpy as np

from jssl.data.listing import list_files
from jssl.data.source import (
    HELD_OUT,
    held_out,
    is_temporary,
    Record,
    retry,
    Source,
    split_ranges,
)

_SUFFIXES = frozenset(
    ".avif .bmp .gif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .ppm .tga .tif"
    " .tiff .webp".split()
)
# Suffixes of pictures in formats that are not read.
_OTHER_PICTURES = frozenset(
    ".3fr .ai .apng .arw .bpg .cr2 .cr3 .dcm .dds .dng .djvu .emf .eps .exr"
    " .fit .fits .flif .hdr .heic .heics .heif .heifs .hif .icns .ico .j2c .j2k"
    " .jls .jng .jp2k .jpc .jpf .jpx .jxl .jxr .mpo .nef .nii .nrrd .nrw .orf"
    " .pam .pcx .pef .pfm .pnm .psb .psd .qoi .raf .raw .rw2 .rwl .sgi .sr2"
    " .srw .svg .svgz .wbmp .wdp .wmf .x3f .xbm .xcf .xpm".split()
)
_LARGEST = 2**30  # Bytes of a file.
_ENDINGS = 8  # Endings of ignored files that a note lists.


class _File(NamedTuple):  # Sorted fast, as a tuple.
  name: str  # Relative to the data set's folder, with "/" on every system.
  class_name: str  # Empty outside of any sub-folder.


def open_folder(path: str, split: str) -> Source:
  """Opens one split of a folder of pictures, of any size and format.

  The classes are the sub-folders, sorted by name, each with everything below
  it; pictures in a folder without sub-folders are unlabelled. The splits are
  the sub-folders `train` and `test` (or `validation`, or `val`), if both exist.
  If not, about a tenth of the pictures is held out, by a hash of the relative
  file name, so that adding files does not move others to another split.

  Args:
    path: The folder. Hidden files are ignored; files whose suffix is not that
      of a picture are counted in the source's notes.
    split: As in `jssl.data.open_source`. A slice chooses by hash too, so it
      takes pictures of all classes.

  Returns:
    A `Source` ordered by relative file name. Characters of a name that cannot
    be printed (or are not UTF-8) are escaped with a backslash.

  Raises:
    FileNotFoundError: If there is no such folder.
    ValueError: If it holds no pictures, or the split is unknown or empty.
    OSError: If the system refuses to list it, several times.
  """
  dataset = f"folder:{path}"
  root = pathlib.Path(path).expanduser()
  if not path or not root.is_dir():
    raise FileNotFoundError(_missing(path, root))
  splits, stray, notes = _splits(root, dataset)
  names = {file.class_name for files in splits.values() for file in files}
  classes = tuple(sorted(names - {""}))
  sizes = {name: len(files) for name, files in splits.items()}
  if not sum(sizes.values()):
    raise ValueError(
        f"{dataset} holds no pictures: it needs files, or sub-folders of"
        f" files, that end in {', '.join(sorted(_SUFFIXES))}."
        + "".join(f" {note}." for note in notes)
    )
  ranges = split_ranges(held_out(split, tuple(sizes)), sizes, dataset=dataset)
  files = sorted(file for name, a, b in ranges for file in splits[name][a:b])
  index = {name: i for i, name in enumerate(classes)}
  labels = np.array([index.get(file.class_name, -1) for file in files])
  paths = [file.name for file in files]

  def read(indices: Sequence[int]) -> list[Record]:
    return [
        Record(_read_bytes(root / paths[i]), int(labels[i]), _shown(paths[i]))
        for i in indices
    ]

  return Source(
      name=f"{dataset} ({split})",
      length=len(files),
      read=read,
      classes=tuple(map(_shown, classes)),
      skipped=tuple(map(_shown, stray)),
      notes=tuple(map(_shown, notes)),
      fingerprint=lambda: _fingerprint(root, paths),
  )


def _splits(
    root: pathlib.Path, dataset: str
) -> tuple[dict[str, list[_File]], list[str], list[str]]:
  """Returns files by split, "name: reason" of stray ones, and notes."""
  listing = list_files(root, _SUFFIXES)
  names, stray = listing.names, listing.unread
  notes = _not_read(listing.others, dataset)
  held = [name for name in HELD_OUT if (root / name).is_dir()]
  if not held or not (root / "train").is_dir():
    files, loose = _pictures(names, "")
    count = bisect.bisect_left(files, 2**64 // 10, key=_hash)
    count = min(max(count, 1), max(len(files) - 1, 0))
    splits = {"train": files[count:], "test": files[:count]}
    return splits, stray + loose, notes
  splits, used = {}, 0
  for split in ("train", *held):
    splits[split], loose = _pictures(names, f"{split}/")
    stray = stray + loose
    used += len(splits[split]) + len(loose)
  if used < len(names):
    notes.append(
        f"{len(names) - used:,} pictures of {dataset} are not read, because"
        f" they lie outside of its folders {', '.join(splits)}"
    )
  return splits, stray, notes


def _pictures(names: list[str], prefix: str) -> tuple[list[_File], list[str]]:
  """Returns the pictures below a folder, in the order of their hashes.

  If it has classes, those outside of them are stray, with "name: reason".
  """
  found = []
  for name in names:
    if name.startswith(prefix):
      first, _, rest = name.removeprefix(prefix).partition("/")
      found.append(_File(name, first if rest else ""))
  found.sort(key=_hash)
  labelled = [file for file in found if file.class_name]
  if not labelled:
    return found, []
  reason = "it is next to the class folders, so it has no label"
  loose = sorted(file.name for file in found if not file.class_name)
  return labelled, [f"{name}: {reason}" for name in loose]


def _not_read(others: dict[str, int], dataset: str) -> list[str]:
  """Returns notes about ignored files, by their endings, and what to do."""
  pictures = {x: n for x, n in others.items() if x in _OTHER_PICTURES}
  rest = {x: n for x, n in others.items() if x not in pictures}
  notes = []
  if pictures:
    notes.append(
        f"pictures of {dataset} that are not read: {_counted(pictures)};"
        " convert them to JPEG or PNG"
    )
  if rest:
    notes.append(
        f"files of {dataset} that are not pictures, by their endings:"
        f" {_counted(rest)}"
    )
  return notes


def _counted(endings: dict[str, int]) -> str:
  """Lists the number of files by their ending, the most frequent first."""
  ranked = sorted(endings.items(), key=lambda item: (-item[1], item[0]))
  parts = [
      f"{count:,} ending in {suffix}" if suffix else f"{count:,} without ending"
      for suffix, count in ranked[:_ENDINGS]
  ]
  if len(ranked) > _ENDINGS:
    rest = sum(count for _, count in ranked[_ENDINGS:])
    parts.append(f"{rest:,} with other endings")
  return ", ".join(parts)


def _hash(file: _File) -> int:
  digest = hashlib.sha256(os.fsencode(file.name)).digest()
  return int.from_bytes(digest[:8], "big")


def _fingerprint(root: pathlib.Path, names: list[str]) -> int:
  """Returns a checksum of names, sizes and times, without reading contents."""
  checksum = 0
  for name in names:
    try:
      found = os.stat(root / name)
      about = found.st_size, found.st_mtime_ns
    except OSError:
      about = -1, -1
    line = f"{name}\0{about[0]}\0{about[1]}\n"
    checksum = zlib.crc32(line.encode(errors="surrogateescape"), checksum)
  return checksum


def _read_bytes(path: pathlib.Path) -> bytes:
  """Reads a regular file; reading a pipe might never end.

  Returns:
    Its content; empty if it cannot be read, so that it is skipped and reported
    like any picture that cannot be decoded.

  Raises:
    OSError: If the system refuses to read it, several times.
  """

  def read():
    try:
      # A pipe would wait for its writer.
      with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        about = os.fstat(file.fileno())
        if stat.S_ISREG(about.st_mode) and about.st_size <= _LARGEST:
          return file.read()
    except OSError as error:
      if is_temporary(error):
        raise
    return b""

  return retry(read, f"The file {_shown(str(path))}", "read")


def _shown(name: str) -> str:
  """Returns a name as printable text in one line."""
  return "".join(
      c if c.isprintable() else c.encode("unicode_escape").decode()
      for c in name
  )


def _missing(path: str, root: pathlib.Path) -> str:
  if not path:
    return "folder: lacks a path: write folder:PATH, such as folder:photos."
  if root.exists():
    return f"{path!r} is a file: folder:PATH takes the folder around it."
  absent = root.absolute()
  while not absent.parent.exists():
    absent = absent.parent
  parent = absent.parent
  if not parent.is_dir():
    return f"There is no folder {path!r}: {str(parent)!r} is a file."
  names = sorted(p.name for p in parent.iterdir() if p.is_dir())
  nearest = difflib.get_close_matches(absent.name, names, n=3) or names[:5]
  return (
      f"There is no folder {path!r}: {str(parent)!r} holds"
      f" {', '.join(nearest) or 'no folders'}, but no {absent.name!r}."
  )
