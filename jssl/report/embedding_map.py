"""A map of embeddings in two dimensions, with a thumbnail for each point."""

import colorsys
import dataclasses
import math
from typing import Any

import numpy as np

from jssl import data
from jssl.report import thumbnails
from jssl.report.run import Split

# With fewer images, t-SNE's neighbourhoods would be the whole set.
_FEWEST = 12
_PERPLEXITY = 30.0
_COMPONENTS = 50
_THUMBNAIL = 40  # Largest side, in pixels.
# Width and height of the map in its own units, and the margin around points.
SIDE = 1000
_MARGIN = 30
# Tableau's, of a lightness that contrasts with white and with black.
_COLORS = (
    "#4e79a7 #f28e2b #e15759 #499894 #59a14f #b6992d #b07aa1 #d37295 #9d7660"
    " #8c8c8c".split()
)
_NAMED = 20  # Up to this many classes, their names are on the map.


@dataclasses.dataclass(frozen=True)
class Class:
  """The points of one class.

  Attributes:
    name: Its name; "" without labels.
    color: Its color, "#rrggbb".
    points: (number of the image, x, y) of each.
    middle: Where its name is on the map, or None.
  """

  name: str
  color: str
  points: list[tuple[int, float, float]]
  middle: tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Map:
  """A map of held-out images.

  Attributes:
    method: How the points were placed: "t-SNE", or "principal components".
    xy: Positions of the images, int `[N, 2]`, from 0 to `SIDE`.
    label: int `[N]`, an index into `names`.
    index: Numbers of the images in their split, int `[N]`.
    names: Names of the classes; the last one is that of unknown classes.
    images: The images, uint8 `[h, w, C]` each.
  """

  method: str
  xy: np.ndarray
  label: np.ndarray
  index: np.ndarray
  names: list[str]
  images: list[np.ndarray]

  @property
  def classes(self) -> list[Class]:
    """The points by class, of the classes that have any."""
    present = np.unique(self.label)
    named = 1 < len(present) <= _NAMED
    classes = []
    for i, label in enumerate(present):
      members = np.flatnonzero(self.label == label).tolist()
      xy = self.xy[members]
      points = [(n, x, y) for n, (x, y) in zip(members, xy.tolist())]
      middle = np.median(xy, axis=0).tolist() if named else None
      color = _color(i, len(present))
      classes.append(Class(self.names[label], color, points, middle))
    return classes

  @property
  def radius(self) -> float:
    """Radius of a point on the page; larger where there are few."""
    return round(float(np.clip(160 / len(self.xy) ** 0.5, 5, 14)), 1)

  @property
  def sprite(self) -> str:
    """All images in one, as a data URI."""
    cell, columns = self._cells()
    sheet = thumbnails.tile(self.images, cell=cell, columns=columns)
    return thumbnails.data_uri(sheet, lossless=cell <= 16)

  @property
  def data(self) -> dict[str, Any]:
    """The data for the page's script, for JSON.

    "cell" and "columns" of the sprite, "side" of the map, "names" of classes,
    and "points", (x, y, class, number in the split) of each.
    """
    cell, columns = self._cells()
    points = np.column_stack([self.xy, self.label, self.index])
    return {
        "cell": cell,
        "columns": columns,
        "side": SIDE,
        "names": self.names,
        "points": points.tolist(),
    }

  def _cells(self):
    """Side of a cell of the sprite, and number of cells per row."""
    cell = max(max(image.shape[:2]) for image in self.images)
    return cell, math.isqrt(len(self.images) - 1) + 1


def make_map(split: Split) -> Map | None:
  """Makes the map of some images.

  Args:
    split: The images and their features.

  Returns:
    The map; None if all features are equal, if some are not finite, or if
    there are fewer than three.
  """
  features, images = split.features, split.images
  if (
      len(features) < 3
      or not np.isfinite(features).all()
      or np.ptp(features, axis=0).max() < 1e-6
  ):
    return None
  xy, method = project(features)
  label = data.labels_of(images)
  names = [*images.classes, "unknown class" if images.classes else ""]
  return Map(
      method=method,
      xy=_fit(xy),
      label=np.where(label < 0, len(names) - 1, label),
      index=split.index,
      names=names,
      images=[
          thumbnails.shrink_one(images, i, size=_THUMBNAIL)
          for i in range(len(label))
      ],
  )


def project(features: np.ndarray) -> tuple[np.ndarray, str]:
  """Projects L2-normalised features to the plane.

  Args:
    features: `[N, D]`, finite and not all equal, normalised here.

  Returns:
    float `[N, 2]`, and the name of the method.
  """
  # Slow to import.
  from sklearn.decomposition import PCA
  from sklearn.manifold import TSNE
  from sklearn.preprocessing import normalize

  x = normalize(features)
  x = PCA(min(_COMPONENTS, *x.shape), random_state=0).fit_transform(x)
  if len(x) < _FEWEST or x.shape[1] < 2 or np.ptp(x[:, 0]) < 1e-6:
    return np.pad(x, ((0, 0), (0, 1)))[:, :2], "principal components"
  tsne = TSNE(
      perplexity=min(_PERPLEXITY, (len(x) - 1) / 3), init="pca", random_state=0
  )
  return tsne.fit_transform(x), "t-SNE"


def _fit(xy):
  """Moves and scales points into the map, keeping their proportions."""
  low, high = xy.min(axis=0), xy.max(axis=0)
  scale = (SIDE - 2 * _MARGIN) / max((high - low).max(), 1e-12)
  middle = (low + high) / 2
  return np.round(SIDE / 2 + scale * (xy - middle)).astype(int)


def _color(i, count):
  if count <= len(_COLORS):
    return _COLORS[i]
  # The golden angle separates the hues of neighbours, for any count.
  rgb = colorsys.hls_to_rgb(137.508 * i / 360 % 1, (0.45, 0.58)[i % 2], 0.55)
  return "#" + "".join(f"{round(255 * x):02x}" for x in rgb)
