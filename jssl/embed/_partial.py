"""Rows of an unfinished file, so that an interrupted command can resume.

Next to `OUTPUT` are `OUTPUT.partial`, a memory-mapped array, and
`OUTPUT.partial.jsonl`, a journal: a line that describes the rows, then one line
per block. The rows of a block reach the disk before its line is written, and
the line holds their checksum, so a process may be killed at any moment.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any, BinaryIO
import zlib

import numpy as np

About = dict[str, Any]
# "name", "index" (in the source) and "label" (-1 for none) of the pictures that
# have a row; "skipped": "name: reason" of those without one.
Pictures = dict[str, list[Any]]


@dataclasses.dataclass(frozen=True)
class Partial:
  """An unfinished file.

  Attributes:
    rows: float32 `[N, D]`, on disk; the first `count` are finished.
    journal: The open journal.
    pictures: Those of all blocks.
  """

  rows: np.memmap
  journal: BinaryIO
  pictures: Pictures

  @property
  def count(self) -> int:
    """Number of finished rows."""
    return len(self.pictures["name"])

  @property
  def stop(self) -> int:
    """Position in the source of the first unfinished picture."""
    return self.count + len(self.pictures["skipped"])


def open_partial(
    output: pathlib.Path, about: About, *, count: int, dim: int
) -> Partial:
  """Opens the unfinished file of an earlier process, or starts a new one.

  Args:
    output: The file to be made.
    about: A description of its rows, for JSON.
    count: Number of pictures, N, the largest number of rows.
    dim: Length of a row, D.

  Returns:
    The finished blocks up to the first damaged one; none if nothing is usable.
    The caller must check with `read_about` that the file has the same `about`.

  Raises:
    OSError: If the disk has no room for all the rows.
  """
  rows_path, journal_path = _paths(output)
  lines = _read(journal_path)
  try:
    rows = np.lib.format.open_memmap(rows_path, mode="r+")
  except (OSError, ValueError):  # None, or shorter than its header declares.
    return _start(rows_path, journal_path, about, count, dim)
  if not lines or rows.shape != (count, dim) or rows.dtype != np.float32:
    return _start(rows_path, journal_path, about, count, dim)
  journal = open(journal_path, "r+b")
  partial = Partial(rows, journal, _no_pictures())
  end = lines[0][1]
  for block, line_end in lines[1:]:
    if block.keys() != {*_no_pictures(), "checksum"}:  # Of another version.
      break
    checksum = block.pop("checksum")
    finished = rows[partial.count :][: len(block["name"])]
    if _checksum(finished) != checksum:
      break
    _extend(partial, block)
    end = line_end
  journal.truncate(end)
  journal.seek(end)
  return partial


def read_about(output: pathlib.Path) -> About | None:
  """Returns the description of an unfinished file, None if there is none."""
  lines = _read(journal_of(output))
  return lines[0][0] if lines else None


def append(partial: Partial, rows: np.ndarray, block: Pictures) -> None:
  """Adds a finished block, which is on the disk when this returns.

  Args:
    partial: The unfinished file.
    rows: The rows of the block, float32 `[n, D]`.
    block: Its pictures.
  """
  partial.rows[partial.count :][: len(rows)] = rows
  partial.rows.flush()
  _write_line(partial.journal, {**block, "checksum": _checksum(rows)})
  _extend(partial, block)


def discard(output: pathlib.Path) -> None:
  """Removes an unfinished file, its journal first."""
  for path in reversed(_paths(output)):
    path.unlink(missing_ok=True)


def journal_of(output: pathlib.Path) -> pathlib.Path:
  """Returns the journal of an unfinished file."""
  return output.with_name(output.name + ".partial.jsonl")


def _paths(output):
  return output.with_name(output.name + ".partial"), journal_of(output)


def _no_pictures():
  return {name: [] for name in ("name", "index", "label", "skipped")}


def _extend(partial, block):
  for name, values in block.items():
    partial.pictures[name].extend(values)


def _start(rows_path, journal_path, about, count, dim):
  """Makes empty rows, then their journal."""
  journal_path.unlink(missing_ok=True)
  rows = np.lib.format.open_memmap(
      rows_path, mode="w+", dtype=np.float32, shape=(count, dim)
  )
  try:
    # A full disk under a memory map would kill the process.
    if hasattr(os, "posix_fallocate"):
      with open(rows_path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, rows_path.stat().st_size)
  except OSError as error:
    rows_path.unlink()
    raise OSError(
        f"{rows_path} cannot be made, {count} rows of {dim} numbers or"
        f" {rows.nbytes / 2**20:,.1f} MiB: {error.strerror}. Free space, or"
        " give an --output elsewhere."
    ) from error
  journal = open(journal_path, "wb")
  _write_line(journal, about)
  return Partial(rows, journal, _no_pictures())


def _read(journal_path):
  """Returns (content, offset of its end) of each whole line."""
  lines, end = [], 0
  if not journal_path.exists():
    return lines
  for line in journal_path.read_bytes().splitlines(keepends=True):
    try:
      content = json.loads(line)
    except ValueError:
      break
    if not line.endswith(b"\n"):
      break
    end += len(line)
    lines.append((content, end))
  return lines


def _write_line(journal, content):
  journal.write(json.dumps(content).encode() + b"\n")
  journal.flush()
  os.fsync(journal.fileno())


def _checksum(rows):
  return zlib.crc32(np.ascontiguousarray(rows))
