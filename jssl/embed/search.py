"""Nearest neighbours and near-duplicates among features, found and shown.

They are found a block of rows at a time, and shown as text and as a picture.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jssl import data
from jssl.data.datasets import split_source
from jssl.embed import compute
from jssl.embed.compute import Plan
from jssl.embed.formats import FeatureFile
from jssl.embeddings import l2_normalize
from jssl.report import figures, thumbnails
from jssl.report.thumbnails import Thumbnail

# Rows that are compared with as many others: 4 MiB of similarities at a time.
_BLOCK = 1024
_ROUNDING = 1e-6  # Error of the similarity of two equal rows.
_NEIGHBOURS = 10
_PAIRS_DRAWN = 12
_PAIRS_PRINTED = 100
_THUMBNAIL = 240
_COLUMNS = 4


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Rows that are nearly the same.

  Attributes:
    rows: The two rows of each pair, in ascending order, int64 `[P, 2]`.
    similarity: Their cosine similarity, float32 `[P]`, in descending order.
    count: Number of all pairs found, P or more.
  """

  rows: np.ndarray
  similarity: np.ndarray
  count: int


@dataclasses.dataclass(frozen=True)
class Query:
  """A picture whose neighbours are searched for.

  Attributes:
    path: Its file.
    features: float32 `[D]`.
  """

  path: str
  features: np.ndarray


def neighbours(
    query: np.ndarray, features: FeatureFile, *, k: int, leave_out: int = -1
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the rows of the highest cosine similarity.

  Args:
    query: float `[D]`.
    features: The rows to search, `[N, D]`.
    k: Number of rows, at least 1; all of them if there are fewer.
    leave_out: A row to leave out, such as the query's own; -1 for none.

  Returns:
    The rows, int64, and their similarities, float32, in descending order.

  Raises:
    ValueError: If the query and the rows differ in length.
  """
  count, dim = features.shape
  if query.shape != (dim,):
    raise ValueError(
        f"The query has shape {query.shape}, but rows have {dim} numbers: use"
        " features of the same encoder and stage."
    )
  blocks = (features.read(*block) for block in _blocks(count))
  similarity = np.concatenate(
      [np.asarray(_similarity(query[None], block))[0] for block in blocks]
  )
  best = np.argsort(-similarity, kind="stable")
  best = best[best != leave_out][:k]
  return best, similarity[best]


def duplicates(
    features: FeatureFile, threshold: float, *, limit: int = 1000
) -> Pairs:
  """Finds pairs of rows whose cosine similarity reaches a threshold.

  It takes N * (N + 1) / 2 products of vectors, but the memory of one block.

  Args:
    features: `[N, D]`.
    threshold: The similarity, in (0, 1].
    limit: Number of pairs to keep, the closest; all are counted.

  Returns:
    The pairs, the closest first.

  Raises:
    ValueError: If the threshold is out of range.
  """
  check_threshold(threshold)
  blocks = _blocks(features.shape[0])
  pairs, values = np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
  count = 0
  for i, block in enumerate(blocks):
    rows = features.read(*block)
    for other in blocks[i:]:
      others = rows if other == block else features.read(*other)
      similarity = np.asarray(_similarity(rows, others))
      hit = similarity >= threshold - _ROUNDING
      found = np.argwhere(np.triu(hit, 1) if other == block else hit)
      count += len(found)
      pairs = np.concatenate([pairs, found + (block[0], other[0])])
      values = np.concatenate([values, similarity[tuple(found.T)]])
      # Ties are in the order of the rows.
      closest = np.lexsort((pairs[:, 1], pairs[:, 0], -values))[:limit]
      pairs, values = pairs[closest], values[closest]
  return Pairs(pairs, values, count)


def check_threshold(threshold: float) -> None:
  """Checks the threshold of `duplicates`.

  Raises:
    ValueError: If it is not in (0, 1].
  """
  if not 0 < threshold <= 1:
    raise ValueError(
        f"The threshold of duplicates is {threshold}; expected a cosine"
        " similarity in (0, 1], such as 0.95."
    )


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
  rows, values = neighbours(
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
  pairs = duplicates(features, threshold)
  lines = [f"{pairs.count:,} pairs of cosine similarity {threshold:g} or more"]
  shown = []
  for i, (rows, value) in enumerate(zip(pairs.rows, pairs.similarity)):
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


def _blocks(count):
  """Returns (start, stop) of each block of rows."""
  return [(i, min(i + _BLOCK, count)) for i in range(0, count, _BLOCK)]


@jax.jit
def _similarity(a, b):
  product = jnp.matmul(
      l2_normalize(a), l2_normalize(b).T, precision=jax.lax.Precision.HIGHEST
  )
  return jnp.minimum(product, 1.0)


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
  root, path = pathlib.Path(folder).expanduser().resolve(), path.resolve()
  name = path.relative_to(root).as_posix() if root in path.parents else None
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
