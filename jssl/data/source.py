"""A source: random access to encoded pictures, wherever they come from."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import errno
import os
import time
from typing import TypeVar
import zlib

import numpy as np

HELD_OUT = ("test", "validation", "val")  # In order of preference.
# Seconds before each new try after an error of the system.
_WAITS = (0.1, 0.5, 2.0, 5.0)
# Errors of one file, which would occur again.
_LASTING = {
    getattr(errno, name)
    for name in (
        "EACCES EINVAL EISDIR ELOOP ENAMETOOLONG ENODEV ENOENT ENOTDIR ENXIO"
        " EOPNOTSUPP EPERM"
    ).split()
}
_SAMPLED = 64  # Pictures in a fingerprint.
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Record:
  """One picture as it is stored.

  Attributes:
    encoded: The bytes of the picture file; empty if it could not be read.
    label: Index into the source's `classes`, or -1 without a label.
    name: Name of the picture in messages.
  """

  encoded: bytes
  label: int
  name: str


@dataclasses.dataclass(frozen=True)
class Source:
  """Random access to the pictures of one split.

  Attributes:
    name: The data set and the split, for messages.
    length: Number of pictures.
    read: Maps indices in [0, length) to their records; safe to call from
      several threads at once.
    classes: Names of the classes, `()` without labels.
    channels: 1 (gray), 3 (RGB) or 4 (RGBA).
    size: (height, width) of every picture, or None where it is not declared.
    skipped: "name: reason" for pictures that were found but are not used.
    notes: What else a user should know, such as which files are ignored.
    fingerprint: Returns a checksum of the names, sizes and modification times
      of the files; None if they are unknown (`jssl.data.fingerprint` reads some
      pictures).
  """

  name: str
  length: int
  read: Callable[[Sequence[int]], list[Record]]
  classes: tuple[str, ...]
  channels: int = 3
  size: tuple[int, int] | None = None
  skipped: tuple[str, ...] = ()
  notes: tuple[str, ...] = ()
  fingerprint: Callable[[], int] | None = None


def sample(source: Source, count: int) -> Source:
  """Returns a source of evenly spaced pictures of another.

  Args:
    source: The other.
    count: Number of pictures, at least 1; all if there are fewer.
  """
  if source.length <= count:
    return source
  chosen = np.linspace(0, source.length - 1, count).astype(int)

  def read(indices: Sequence[int]) -> list[Record]:
    return source.read([int(chosen[index]) for index in indices])

  return dataclasses.replace(source, length=count, read=read, fingerprint=None)


def fingerprint(source: Source) -> int:
  """Returns a checksum of the number of pictures and the content of some.

  Args:
    source: The source.
  """
  checksum = source.length
  for record in (few := sample(source, _SAMPLED)).read(range(few.length)):
    checksum = zlib.crc32(record.encoded, checksum)
  return checksum


def is_temporary(error: BaseException) -> bool:
  """Whether an error is a temporary one of the system, not of the picture.

  Args:
    error: An error of reading or decoding. Without an `errno` it is one of the
      picture, except for a `MemoryError`.
  """
  if isinstance(error, MemoryError):
    return True
  number = getattr(error, "errno", None)
  return number is not None and number not in _LASTING


def retry(work: Callable[[], _T], what: str, done: str) -> _T:
  """Retries a function after temporary errors of the system.

  Args:
    work: Reads or decodes.
    what: What is read, for the error message.
    done: What is done with it, such as "read", for the error message.

  Returns:
    What `work` returns.

  Raises:
    OSError: If every try fails by an error of the system.
  """
  waits = iter(_WAITS)
  while True:
    try:
      return work()
    except (OSError, MemoryError) as error:
      if not is_temporary(error):
        raise
      wait = next(waits, None)
      if wait is None:
        raise OSError(_refusal(error, what, done)) from error
    time.sleep(wait)


def _refusal(error, what, done):
  number = getattr(error, "errno", None) or errno.ENOMEM
  remedy = "Fix that, then run the same command again to resume."
  if number in (errno.EMFILE, errno.ENFILE):
    remedy = "Allow more open files, for example with ulimit -n 65536."
  elif number == errno.ENOMEM:
    remedy = "Free memory, or lower config.data.workers."
  return (
      f"{what} could not be {done}, in {len(_WAITS) + 1} tries over"
      f" {sum(_WAITS):g} seconds: {os.strerror(number)}. That is the system's"
      f" fault, not the picture's. {remedy}"
  )


def held_out(split: str, splits: Sequence[str]) -> str:
  """Returns `split` with "test" replaced by the first existing held-out split.

  Args:
    split: "test" or a slice of it such as "test[:10%]"; any other expression
      is returned unchanged.
    splits: Names of the splits to choose from.
  """
  name, bracket, rest = split.partition("[")
  if name != "test" or "+" in split:
    return split
  found = (s for s in HELD_OUT if s in splits)
  return next(found, "test") + bracket + rest


def split_ranges(
    split: str, sizes: Mapping[str, int], *, dataset: str
) -> list[tuple[str, int, int]]:
  """Parses a split expression of TensorFlow Datasets.

  Args:
    split: e.g. "train", "train[:5000]", "train[:10%]" or "train+test".
    sizes: Number of pictures of each split.
    dataset: Name of the data set, for messages.

  Returns:
    A list of (name of a split, start, stop), not empty.

  Raises:
    ValueError: If the expression fits none of the splits or holds nothing.
  """
  listed = ", ".join(f"{key} ({size} images)" for key, size in sizes.items())
  if split in sizes:
    ranges = [(split, 0, sizes[split])]
  else:
    import tensorflow_datasets as tfds  # Slow to import, and seldom needed.

    infos = {
        name: tfds.core.SplitInfo(name=name, shard_lengths=[size], num_bytes=0)
        for name, size in sizes.items()
    }
    try:
      parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    except (ValueError, NotImplementedError) as error:
      raise ValueError(
          f"{dataset} has no split {split!r}: use one of {listed}, or a slice"
          " of one such as 'train[:10%]' or 'train[:100]'."
      ) from error
    ranges = [
        (
            x.splitname,
            x.from_ or 0,
            sizes[x.splitname] if x.to is None else x.to,
        )
        for x in parts
    ]
  if not any(start < stop for _, start, stop in ranges):
    raise ValueError(
        f"Split {split!r} of {dataset} holds no pictures: it has {listed}."
    )
  return ranges
