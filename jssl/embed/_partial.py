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


@dataclasses.dataclass(frozen=True)
class Block:
  """A block of finished rows, one line of the journal.

  Attributes:
    stop: Position in the source after the block's last picture.
    index: Positions in the source of the pictures that have a row.
    label: Their labels, -1 without one.
    name: Their names.
    skipped: "name: reason" for the pictures without a row.
    first: The block's first row, set by `append`.
    checksum: Checksum of the rows' bytes, set by `append`.
  """

  stop: int
  index: list[int]
  label: list[int]
  name: list[str]
  skipped: list[str]
  first: int = 0
  checksum: int = 0


@dataclasses.dataclass(frozen=True)
class Partial:
  """An unfinished file.

  Attributes:
    rows: float32 `[N, D]`, on disk; the first `count` are finished.
    blocks: The blocks of finished rows, in order.
    journal: The open journal.
  """

  rows: np.memmap
  blocks: list[Block]
  journal: BinaryIO

  @property
  def count(self) -> int:
    """Number of finished rows."""
    if not self.blocks:
      return 0
    return self.blocks[-1].first + len(self.blocks[-1].index)

  @property
  def stop(self) -> int:
    """Position in the source of the first unfinished picture."""
    return self.blocks[-1].stop if self.blocks else 0


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
  if not lines or not rows_path.exists():
    return _start(rows_path, journal_path, about, count, dim)
  try:
    rows = np.lib.format.open_memmap(rows_path, mode="r+")
  except (OSError, ValueError):  # Shorter than its header declares.
    return _start(rows_path, journal_path, about, count, dim)
  if rows.shape != (count, dim) or rows.dtype != np.float32:
    return _start(rows_path, journal_path, about, count, dim)
  blocks, end = [], lines[0][1]
  for content, line_end in lines[1:]:
    block = Block(**content)
    stop = block.first + len(block.index)
    if _checksum(rows[block.first : stop]) != block.checksum:
      break
    blocks.append(block)
    end = line_end
  journal = open(journal_path, "r+b")
  journal.truncate(end)
  journal.seek(end)
  return Partial(rows, blocks, journal)


def read_about(output: pathlib.Path) -> About | None:
  """Returns the description of an unfinished file, None if there is none."""
  lines = _read(_paths(output)[1])
  return lines[0][0] if lines else None


def append(partial: Partial, block: Block, rows: np.ndarray) -> None:
  """Adds a finished block, which is on the disk when this returns.

  Args:
    partial: The unfinished file.
    block: The block; its first row and checksum are set here.
    rows: Its rows, float32 `[n, D]`.
  """
  first = partial.count
  partial.rows[first : first + len(rows)] = rows
  partial.rows.flush()
  block = dataclasses.replace(block, first=first, checksum=_checksum(rows))
  _write_line(partial.journal, dataclasses.asdict(block))
  partial.blocks.append(block)


def discard(output: pathlib.Path) -> None:
  """Removes an unfinished file, its journal first."""
  for path in reversed(_paths(output)):
    path.unlink(missing_ok=True)


def journal_of(output: pathlib.Path) -> pathlib.Path:
  """Returns the journal of an unfinished file."""
  return output.with_name(output.name + ".partial.jsonl")


def _paths(output):
  return output.with_name(output.name + ".partial"), journal_of(output)


def _start(rows_path, journal_path, about, count, dim):
  """Makes empty rows, then their journal."""
  journal_path.unlink(missing_ok=True)
  rows = np.lib.format.open_memmap(
      rows_path, mode="w+", dtype=np.float32, shape=(count, dim)
  )
  try:
    _reserve(rows_path)
  except OSError as error:
    rows_path.unlink()
    raise OSError(
        f"{rows_path} cannot be made, {count} rows of {dim} numbers or"
        f" {rows.nbytes / 2**20:,.1f} MiB: {error.strerror}. Free space, or"
        " give an --output elsewhere."
    ) from error
  journal = open(journal_path, "wb")
  _write_line(journal, about)
  return Partial(rows, [], journal)


def _reserve(path):
  """Allocates the space: a full disk under a memory map kills the process."""
  if hasattr(os, "posix_fallocate"):
    with open(path, "r+b") as file:
      os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _read(journal_path):
  """Returns (content, offset of its end) of each whole line."""
  lines, end = [], 0
  if not journal_path.exists():
    return lines
  with open(journal_path, "rb") as journal:
    for line in journal:
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
