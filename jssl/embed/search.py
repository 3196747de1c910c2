"""Shows the results of a search among features, as text and as a picture."""

import dataclasses
import pathlib

import numpy as np

from jssl import data
from jssl.data.datasets import split_source
from jssl.embed import compute, nearest
from jssl.embed.compute import Plan
from jssl.embed.formats import FeatureFile
from jssl.report import figures, thumbnails
from jssl.report.thumbnails import Thumbnail

_NEIGHBOURS = 10
_PAIRS_DRAWN = 12
_PAIRS_PRINTED = 100
_THUMBNAIL = 240
_COLUMNS = 4


@dataclasses.dataclass(frozen=True)
class Query:
  """A picture whose neighbours are searched for.

  Attributes:
    path: Its file.
    features: float32 `[D]`.
  """

  path: str
  features: np.ndarray


def query(plan: Plan, path: str) -> Query:
  """Encodes a picture file.

  Args:
    plan: See `jssl.embed.compute.plan`.
    path: The file.

  Raises:
    ValueError: If it is not a picture.
    OSError: If it cannot be read.
  """
  if not pathlib.Path(path).is_file():
    raise FileNotFoundError(f"There is no file {path}: give a picture file.")
  try:
    encoded = pathlib.Path(path).read_bytes()
    return Query(path, compute.encode_picture(plan, encoded))
  except ValueError as error:
    raise ValueError(
        f"{path} is not a picture: {error}. Give a picture file."
    ) from error


def show_neighbours(plan: Plan, features: FeatureFile, query: Query) -> None:
  """Prints the ten nearest neighbours of a picture, and draws them to a PNG.

  Args:
    plan: See `jssl.embed.compute.plan`.
    features: The features of the plan's pictures.
    query: The picture. If it is in the plan's folder, it is not its own
      neighbour.
  """
  path = query.path
  rows, values = nearest.neighbours(
      query.features,
      features,
      k=_NEIGHBOURS,
      leave_out=_row_of(plan, features, pathlib.Path(path)),
  )
  print(f"Nearest to {path}, by cosine similarity:")
  encoded = pathlib.Path(path).read_bytes()
  shown = [_thumbnail(encoded, plan, f"query\n{path}")]
  for row, value in zip(rows, values):
    name = _described(features, row)
    print(f"  {value:.4f}  {name}")
    shown.append(_picture(plan, features, row, f"{value:.4f}\n{name}"))
  drawn = features.path.with_suffix(".neighbours.png")
  _draw(shown, drawn, title=f"nearest to {path}")
  print(f"Drawn in {drawn}")


def show_duplicates(
    plan: Plan, features: FeatureFile, threshold: float
) -> None:
  """Prints pairs of nearly equal pictures, and draws the closest to a PNG.

  Args:
    plan: See `jssl.embed.compute.plan`.
    features: The features of the plan's pictures.
    threshold: The least cosine similarity of a pair, in (0, 1].

  Raises:
    ValueError: If the threshold is out of range.
  """
  pairs = nearest.duplicates(features, threshold)
  lines = [f"{pairs.count:,} pairs of cosine similarity {threshold:g} or more"]
  shown = []
  for i, (first, second, value) in enumerate(
      zip(pairs.first, pairs.second, pairs.similarity)
  ):
    rows = first, second
    names = [_described(features, row) for row in rows]
    if i < _PAIRS_PRINTED:
      lines.append(f"  {value:.4f}  {names[0]}  {names[1]}")
    if i < _PAIRS_DRAWN:
      shown += [
          _picture(plan, features, row, f"pair {i + 1}: {value:.4f}\n{name}")
          for row, name in zip(rows, names)
      ]
  if pairs.count > _PAIRS_PRINTED:
    lines.append(f"  and {pairs.count - _PAIRS_PRINTED:,} more")
  if shown:
    drawn = features.path.with_suffix(".duplicates.png")
    lines.append(f"Drawn in {drawn}")
    title = f"the {len(shown) // 2} closest of {pairs.count:,} pairs"
    _draw(shown, drawn, title=title)
  # After drawing, since `| head` ends the process once it has enough lines.
  print("\n".join(lines))


def _described(features, row):
  """Returns a picture's name, with its class if the name does not show it."""
  columns = features.columns
  name = columns.name[row]
  if columns.label is None or columns.label[row] < 0:
    return name
  label = columns.classes[columns.label[row]]
  return name if label in name.split("/")[:-1] else f"{name} ({label})"


def _row_of(plan, features, path):
  """Returns the row of a file of the data set's folder; -1 for other files."""
  source, folder = split_source(plan.about["dataset"])
  if source != "folder":
    return -1
  root = pathlib.Path(folder).expanduser().resolve()
  if root not in path.resolve().parents:
    return -1
  name = path.resolve().relative_to(root).as_posix()
  names = features.columns.name
  return names.index(name) if name in names else -1


def _picture(plan, features, row, caption):
  index = int(features.columns.index[row])
  return _thumbnail(plan.source.read([index])[0].encoded, plan, caption)


def _thumbnail(encoded, plan, caption):
  """Returns an image in its true proportions; black if it cannot be decoded."""
  try:
    pixels, _ = data.decode(encoded, channels=plan.source.channels)
  except ValueError:
    pixels = np.zeros((_THUMBNAIL, _THUMBNAIL, 1), np.uint8)
  return thumbnails.make(pixels, caption, size=_THUMBNAIL, caption=caption)


def _draw(shown: list[Thumbnail], path: pathlib.Path, *, title: str) -> None:
  figures.grid(
      [shown[i : i + _COLUMNS] for i in range(0, len(shown), _COLUMNS)],
      path,
      title=title,
      inches=2,
      captions=True,
      all_colors=True,
  )
