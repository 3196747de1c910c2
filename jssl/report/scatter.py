"""A map of embeddings in two dimensions, with a thumbnail for each point."""

import math
from typing import Any, NamedTuple

import numpy as np

from jssl.report import thumbnails
from jssl.report.material import Encoded

# Below, t-SNE's neighbourhoods are the whole set.
_FEWEST = 12
_PERPLEXITY = 30.0
_COMPONENTS = 50
_CELL = 40  # Largest side of a thumbnail.
# Width and height of the map in its own units, and the margin around points.
SIDE = 1000
_MARGIN = 30
# Tableau's, of a lightness that stands out from white and from black.
_COLORS = (
    "#4e79a7 #f28e2b #e15759 #499894 #59a14f #b6992d #b07aa1 #d37295 #9d7660"
    " #8c8c8c".split()
)
_NAMED = 20  # More classes than these are not named on the map.


class Class(NamedTuple):
  """The points of one class.

  Attributes:
    name: Its name; "" without labels.
    color: Its color in CSS.
    points: (number of the point, x, y) of each.
    middle: Where its name stands on the map, or None.
  """

  name: str
  color: str
  points: list[tuple[int, float, float]]
  middle: tuple[float, float] | None


class Map(NamedTuple):
  """A map of test images.

  Attributes:
    method: What made it: "t-SNE", or "principal components".
    classes: Its points.
    radius: Of a point; larger where there are few.
    sprite: All thumbnails in one picture, a data URI.
    data: What the page's script needs, for JSON: "cell" and "columns" of the
      sprite, "names" of classes, and "points", (x, y, class, index) of each.
  """

  method: str
  classes: list[Class]
  radius: float
  sprite: str
  data: dict[str, Any]


def draw(encoded: Encoded) -> Map | None:
  """Draws the map; None if all embeddings are equal, not finite, or fewer than
  three.
  """
  features = encoded.features
  if (
      len(features) < 3
      or not np.isfinite(features).all()
      or np.ptp(features, axis=0).max() < 1e-6
  ):
    return None
  xy, method = project(features)
  xy = _fit(xy)
  images = encoded.images
  labels = images.label
  if labels is None:
    labels = np.full(len(xy), -1)
  names = [*images.classes, "unknown class" if images.classes else ""]
  labels = np.where(labels < 0, len(names) - 1, labels)
  cell, columns, sprite = _sprite(images)
  return Map(
      method,
      _classes(xy, labels, names),
      round(float(np.clip(160 / len(xy) ** 0.5, 5, 14)), 1),
      sprite,
      {
          "cell": cell,
          "columns": columns,
          "side": SIDE,
          "names": names,
          "points": [
              (*point, int(label), int(index))
              for point, label, index in zip(xy.tolist(), labels, encoded.index)
          ],
      },
  )


def project(features: np.ndarray) -> tuple[np.ndarray, str]:
  """Projects unit features to the plane.

  Args:
    features: `[N, D]`, finite and not all equal.

  Returns:
    float `[N, 2]`, and the name of the method.
  """
  # Slow to import.
  from sklearn.decomposition import PCA
  from sklearn.manifold import TSNE

  norm = np.linalg.norm(features, axis=1, keepdims=True)
  x = features / np.maximum(norm, 1e-12)
  components = min(_COMPONENTS, *x.shape)
  x = PCA(components, random_state=0).fit_transform(x)
  if len(x) < _FEWEST or x.shape[1] < 2 or np.ptp(x[:, 0]) < 1e-6:
    return np.pad(x, ((0, 0), (0, 1)))[:, :2], "principal components"
  tsne = TSNE(
      perplexity=min(_PERPLEXITY, (len(x) - 1) / 3), init="pca", random_state=0
  )
  return tsne.fit_transform(x), "t-SNE"


def _fit(xy):
  """Moves and scales points into the map, the proportions kept."""
  low, high = xy.min(axis=0), xy.max(axis=0)
  scale = (SIDE - 2 * _MARGIN) / max((high - low).max(), 1e-12)
  middle = (low + high) / 2
  return np.round(SIDE / 2 + scale * (xy - middle)).astype(int)


def _classes(xy, labels, names):
  present = np.unique(labels)
  classes = []
  for i, label in enumerate(present):
    members = np.flatnonzero(labels == label)
    named = 1 < len(present) <= _NAMED
    middle = np.median(xy[members], axis=0).tolist() if named else None
    classes.append(
        Class(
            names[label],
            _color(i, len(present)),
            [(int(n), *xy[n].tolist()) for n in members],
            middle,
        )
    )
  return classes


def _color(i, count):
  if count <= len(_COLORS):
    return _COLORS[i]
  # The golden angle keeps neighbours apart, however many there are.
  return f"hsl({137.508 * i % 360:.0f} 55% {(45, 58)[i % 2]}%)"


def _sprite(images):
  """Returns side of a cell, cells a row, and the data URI of all."""
  extents = images.extent
  if extents is None:
    extents = [None] * len(images.image)
  pictures = [
      thumbnails.shrink(thumbnails.to_image(x), extent=extent, size=_CELL)
      for x, extent in zip(images.image, extents)
  ]
  cell = max(max(picture.size) for picture in pictures)
  columns = math.isqrt(len(pictures) - 1) + 1
  uri = thumbnails.sprite(pictures, cell=cell, columns=columns)
  return cell, columns, uri
