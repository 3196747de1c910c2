"""Files that are written whole or not at all, by one process at a time."""

from collections.abc import Iterator
import contextlib
import errno
import json
import os
import pathlib
from typing import Any

import filelock


@contextlib.contextmanager
def atomic(
    path: str | os.PathLike, *, suffix: str = ".tmp"
) -> Iterator[pathlib.Path]:
  """Replaces a file at the end of a block, or leaves it as it was.

  Args:
    path: The file. Readers find its old content or the complete new one.
    suffix: What is appended to its name to make the temporary one; unique to
      the process where several may write the same file.

  Yields:
    The temporary path, next to the file, to write the new content to. It is
    renamed at the end of the block, and removed if the block raises.
  """
  path = pathlib.Path(path)
  temporary = path.with_name(path.name + suffix)
  try:
    yield temporary
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def write_json(content: Any, path: str | os.PathLike) -> None:
  """Writes JSON atomically, indented for readers."""
  with atomic(path) as temporary:
    temporary.write_text(json.dumps(content, indent=2) + "\n")


def check_writable(path: pathlib.Path) -> None:
  """Checks that a file can be written, before its content is computed.

  Args:
    path: The file. Missing folders above it are created.

  Raises:
    OSError: If it cannot be written.
  """
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
      raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    temporary = path.with_name(path.name + ".tmp")
    temporary.touch()
    temporary.unlink(missing_ok=True)
  except OSError as error:
    raise OSError(
        f"{path} cannot be written ({error.strerror}): give another name or"
        " folder, change the permissions, or free space."
    ) from error


@contextlib.contextmanager
def exclusive(path: str | os.PathLike, *, busy: str) -> Iterator[None]:
  """Holds an exclusive lock until the block ends.

  The lock ends with the process, however that ends: a file left by a killed
  process locks nothing.

  Args:
    path: The lock file, which is empty: made if it is missing, removed at the
      end.
    busy: The error message if another process holds the lock.

  Raises:
    BlockingIOError: If another process holds the lock.
  """
  path = pathlib.Path(path)
  lock = filelock.FileLock(path, timeout=0)
  try:
    lock.acquire()
  except filelock.Timeout as error:
    raise BlockingIOError(busy) from error
  try:
    yield
  finally:
    path.unlink(missing_ok=True)
    lock.release()
