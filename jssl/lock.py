"""One process at a time writes a file or a folder."""

from collections.abc import Iterator
import contextlib
import os
import pathlib

import filelock


@contextlib.contextmanager
def exclusive(path: str | os.PathLike, *, busy: str) -> Iterator[None]:
  """Holds the only right to write something, until the block ends.

  The right ends with the process, however that ends: what a killed process
  leaves locks nothing.

  Args:
    path: An empty file that stands for the right, made if need be and removed
      at the end.
    busy: What to tell if another process holds it.

  Raises:
    BlockingIOError: If another process holds it.
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
