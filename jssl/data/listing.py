"""Lists the files below a folder; listings of large folders are cached."""

import collections
from collections.abc import Collection
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import time

from jssl import files
from jssl.data.source import is_temporary, retry

# Fewer files are listed quickly, without a cache.
_CACHED = 20_000
# A folder that changed within this time may change again unnoticed: some file
# systems count in seconds.
_SETTLED_NS = 2 * 10**9


@dataclasses.dataclass(frozen=True)
class Listing:
  """The files below a folder.

  Attributes:
    names: Names of the wanted files, relative to the folder, with "/" between
      their parts, in no order.
    others: Number of files with another suffix, by that suffix, in lower case.
    unread: "name: reason" for each folder that cannot be listed.
  """

  names: list[str]
  others: dict[str, int]
  unread: list[str]


def list_files(folder: pathlib.Path, suffixes: Collection[str]) -> Listing:
  """Lists the files below a folder.

  A listing of many files is cached in `~/.cache/jssl` (or `$XDG_CACHE_HOME`),
  and used as long as no folder in it has changed.

  Args:
    folder: The folder. Hidden files and folders are ignored; links are
      followed, unless they lead to a folder that they lie in.
    suffixes: Suffixes of the wanted files, in lower case, with their dot.

  Raises:
    OSError: If the system refuses to list a folder, several times.
  """
  cache = _cache_path(folder, suffixes)
  if known := _read_cache(folder, cache):
    return known
  start = time.time_ns()
  listing, changed = retry(
      lambda: _walk(folder, suffixes), f"The folder {folder}", "listed"
  )
  settled = max(changed.values(), default=0) < start - _SETTLED_NS
  if len(listing.names) >= _CACHED and settled and not listing.unread:
    content = dict(folders=changed, names=listing.names, others=listing.others)
    with contextlib.suppress(OSError):  # Then it is listed again.
      cache.parent.mkdir(parents=True, exist_ok=True)
      with files.atomic(cache, suffix=f".{os.getpid()}.tmp") as temporary:
        temporary.write_text(json.dumps(content))
  return listing


def _walk(folder, suffixes):
  """Returns the listing, and when each folder was changed, in nanoseconds."""
  names, unread, changed = [], [], {}
  others = collections.Counter()

  def cannot(error):
    if is_temporary(error):
      raise error
    at = os.path.relpath(error.filename, folder)
    unread.append(f"{at}: the folder cannot be listed ({error.strerror})")

  # For each folder, the folders above it.
  above = [_id(os.stat(x)) for x in pathlib.Path(folder).resolve().parents]
  around = {str(folder): tuple(above)}
  for parent, folders, filenames in os.walk(
      folder, onerror=cannot, followlinks=True
  ):
    here = os.stat(parent)
    inside = around.pop(parent)
    if _id(here) in inside:  # A link to a folder that it lies in.
      folders.clear()
      continue
    folders[:] = [name for name in folders if not name.startswith(".")]
    for name in folders:
      around[os.path.join(parent, name)] = (*inside, _id(here))
    at = os.path.relpath(parent, folder)
    changed[at] = here.st_mtime_ns
    prefix = "" if at == "." else at.replace(os.sep, "/") + "/"
    for name in filenames:
      if name.startswith("."):
        continue
      suffix = os.path.splitext(name)[1].lower()
      if suffix in suffixes:
        names.append(prefix + name)
      else:
        others[suffix] += 1
  return Listing(names, dict(others), unread), changed


def _id(found):
  return found.st_dev, found.st_ino


def _cache_path(folder, suffixes):
  home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  about = json.dumps([os.path.abspath(folder), *sorted(suffixes)])
  digest = hashlib.sha256(about.encode()).hexdigest()[:16]
  return pathlib.Path(home) / "jssl" / "listings" / f"{digest}.json"


def _read_cache(folder, cache):
  """Returns the cached listing; None if there is none, or it is outdated."""
  try:
    found = json.loads(cache.read_text())
    for name in (*found["folders"], *found["names"]):
      if name.startswith("/") or ".." in name.split("/"):
        return None  # It leads out of the folder.
    for name, changed in found["folders"].items():
      if os.stat(folder / name).st_mtime_ns != changed:
        return None
    return Listing(found["names"], found["others"], [])
  except Exception:  # Damaged files raise nearly any type.
    return None
