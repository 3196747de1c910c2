"""The files below a folder; those of a large one are listed once."""

from collections.abc import Collection
import contextlib
import hashlib
import itertools
import os
import pathlib
import time
import zipfile

import numpy as np

# Smaller folders are listed in no time.
_REMEMBERED = 20_000
# A folder that changed so shortly before may change again unnoticed: some file
# systems count in seconds.
_SETTLED_NS = 2 * 10**9


def list_files(folder: pathlib.Path, suffixes: Collection[str]) -> list[str]:
  """Returns the files below a folder, by their names relative to it.

  A listing of many files is kept in `~/.cache/jssl` (or `$XDG_CACHE_HOME`), and
  used as long as no folder in it has changed.

  Args:
    folder: The folder. Hidden files and folders are left out; links are
      followed, unless they lead to a folder that they lie in.
    suffixes: Those wanted, in lower case, with their dot.

  Returns:
    Names with "/" between their parts, in no order.
  """
  memory = _memory_of(folder, suffixes)
  known = _recall(folder, memory)
  if known is not None:
    return known
  start = time.time_ns()
  names: list[str] = []
  changed: dict[str, int] = {}
  # Of a folder, those that it lies in.
  above = [_id(os.stat(x)) for x in pathlib.Path(folder).resolve().parents]
  around = {str(folder): tuple(above)}
  for parent, folders, files in os.walk(folder, followlinks=True):
    here = os.stat(parent)
    inside = around.pop(parent)
    if _id(here) in inside:  # A link to what it lies in.
      folders.clear()
      continue
    folders[:] = [name for name in folders if not name.startswith(".")]
    for name in folders:
      around[os.path.join(parent, name)] = (*inside, _id(here))
    at = os.path.relpath(parent, folder)
    changed[at] = here.st_mtime_ns
    prefix = "" if at == "." else at.replace(os.sep, "/") + "/"
    names += [
        prefix + name
        for name in files
        if not name.startswith(".")
        and os.path.splitext(name)[1].lower() in suffixes
    ]
  settled = max(changed.values(), default=0) < start - _SETTLED_NS
  if len(names) >= _REMEMBERED and settled:
    _remember(memory, names, changed)
  return names


def _id(found):
  return found.st_dev, found.st_ino


def _memory_of(folder, suffixes):
  home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  what = [os.path.abspath(folder), *sorted(suffixes)]
  digest = hashlib.sha256(_joined(what)).hexdigest()[:16]
  return pathlib.Path(home) / "jssl" / "listings" / f"{digest}.npz"


def _recall(folder, memory):
  """Returns the names, None if they are not known or not sure."""
  try:
    with np.load(memory) as found:
      folders = _split(found["folders"].tobytes())
      names = _split(found["names"].tobytes())
      if any(_leaves(name) for name in itertools.chain(folders, names)):
        return None
      for at, changed in zip(folders, found["changed"], strict=True):
        if os.stat(folder / at).st_mtime_ns != changed:
          return None
      return names
  except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
    return None


def _leaves(name):
  """Whether a name leads out of its folder."""
  return name.startswith("/") or ".." in name.split("/")


def _remember(memory, names, changed):
  temporary = memory.with_name(f"{memory.name}.{os.getpid()}.tmp")
  try:
    memory.parent.mkdir(parents=True, exist_ok=True)
    with open(temporary, "wb") as file:
      np.savez(
          file,
          folders=np.frombuffer(_joined(changed), np.uint8),
          changed=np.fromiter(changed.values(), np.int64),
          names=np.frombuffer(_joined(names), np.uint8),
      )
    os.replace(temporary, memory)
  except OSError:
    with contextlib.suppress(OSError):  # It is only listed again.
      temporary.unlink()


def _joined(names):
  return b"\0".join(map(os.fsencode, names))


def _split(joined):
  return [os.fsdecode(name) for name in joined.split(b"\0")]
