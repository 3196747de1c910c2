"""A source: encoded pictures at random access, wherever they come from."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

HELD_OUT = ("test", "validation", "val")  # In order of preference.


class Record(NamedTuple):
  """One picture as it is stored.

  Attributes:
    encoded: The bytes of the picture file; empty if it could not be read.
    label: Index into the source's `classes`, or -1 without a label.
    name: What to call the picture in a message.
  """

  encoded: bytes
  label: int
  name: str


class Source(NamedTuple):
  """Random access to the pictures of one split.

  Attributes:
    name: The data set and the split, as messages call it.
    length: Number of pictures.
    read: Maps indices in [0, length) to their records; safe to call from
      several threads at once.
    classes: Names of the classes, `()` without labels.
    channels: 1 (grey), 3 (RGB) or 4 (RGBA).
    size: (height, width) of every picture, or None where it is not declared.
    skipped: "name: reason" for pictures found but not taken up.
    fingerprint: Returns a checksum that tells these pictures from others; None
      where the name tells enough.
  """

  name: str
  length: int
  read: Callable[[Sequence[int]], list[Record]]
  classes: tuple[str, ...]
  channels: int = 3
  size: tuple[int, int] | None = None
  skipped: tuple[str, ...] = ()
  fingerprint: Callable[[], int] | None = None


def held_out(split: str, splits: Sequence[str]) -> str:
  """Returns `split` with "test" replaced by the first held-out split there is.

  Args:
    split: "test" or a slice of it such as "test[:10%]"; any other expression
      is returned as it is.
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
  """Reads a split expression in the language of TensorFlow Datasets.

  Args:
    split: e.g. "train", "train[:5000]", "train[:10%]" or "train+test".
    sizes: Number of pictures of each split.
    dataset: Name of the data set, for messages.

  Returns:
    A list of (name of a split, start, stop), not empty.

  Raises:
    ValueError: If the expression fits none of the splits or holds nothing.
  """
  if split in sizes:
    ranges = [(split, 0, sizes[split])]
  else:
    ranges = _parse(split, sizes, dataset)
  if not any(start < stop for _, start, stop in ranges):
    raise ValueError(
        f"Split {split!r} of {dataset} holds no pictures: it has"
        f" {_listed(sizes)}."
    )
  return ranges


def _parse(
    split: str, sizes: Mapping[str, int], dataset: str
) -> list[tuple[str, int, int]]:
  import tensorflow_datasets as tfds  # Slow to import, and seldom needed.

  infos = {
      name: tfds.core.SplitInfo(name=name, shard_lengths=[size], num_bytes=0)
      for name, size in sizes.items()
  }
  try:
    parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
  except (ValueError, NotImplementedError) as error:
    raise ValueError(
        f"{dataset} has no split {split!r}: use one of {_listed(sizes)}, or a"
        " slice of one such as 'train[:10%]' or 'train[:100]'."
    ) from error
  return [
      (p.splitname, p.from_ or 0, sizes[p.splitname] if p.to is None else p.to)
      for p in parts
  ]


def _listed(sizes: Mapping[str, int]) -> str:
  return ", ".join(f"{name} ({size} images)" for name, size in sizes.items())
