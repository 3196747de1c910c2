"""Parts of the report as pictures, for notebooks and papers."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from jssl.report import neighbours as nearest
from jssl.report import scatter
from jssl.report import thumbnails
from jssl.report import views as seen
from jssl.report.material import Encoded
from jssl.report.material import Material
from jssl.report.thumbnails import Thumbnail

_INCHES = 0.75  # Of a picture in a row.
_WRONG = "#d62728"
_NARROWEST = 4.5  # Inches, for the title.
_BETWEEN = 0.4  # Of a picture, between rows side by side.
# Of a map, in points: its width, and that of a square of all its pictures.
_WIDTH, _COVERED = 504, 330
_MARGIN = 20  # In the map's own units.


def views(material: Material, path: str, *, rows: int = 4) -> None:
  """Draws training pictures, and what the method sees of each, to a PNG.

  Args:
    material: A run with images; see `jssl.report.material`.
    path: The file to write.
    rows: Number of pictures, 1 to 6.

  Raises:
    ValueError: If the method's views hold no pictures.
  """
  found = seen.draw(material)[:rows]
  if not found:
    raise ValueError(
        f"The views of {material.log.config.method.name} hold no pictures."
    )
  groups = [group.name for group in found[0].groups]
  _draw(
      [
          [row.picture, *(x for group in row.groups for x in group.pictures)]
          for row in found
      ],
      path,
      title=f"a picture, and of it: {', '.join(groups)}",
  )


def reconstructions(material: Material, path: str) -> None:
  """Draws what a generative method sees, makes, and should make, to a PNG.

  Args:
    material: A run with images; see `jssl.report.material`.
    path: The file to write.

  Raises:
    ValueError: If the method makes no pictures.
  """
  found = seen.reconstruct(material)
  if not found:
    raise ValueError(f"{material.log.config.method.name} makes no pictures.")
  _draw(
      [list(column) for column in zip(*found)],
      path,
      title="from top to bottom: " + ", ".join(x.caption for x in found[0]),
  )


def neighbours(train: Encoded, test: Encoded, path: str) -> None:
  """Draws test pictures and the nearest training pictures, to a PNG.

  Args:
    train: Pictures to find; see `jssl.report.material.encode_some`.
    test: Pictures to choose a dozen from.
    path: The file to write.

  Raises:
    ValueError: If there are none.
  """
  rows = [[row.query, *row.nearest] for row in nearest.find(train, test)]
  if not rows:
    raise ValueError("There are no held-out pictures to find neighbours of.")
  _draw(
      rows,
      path,
      title="held out (left), and the nearest to it; red: of another class",
      columns=min(2, len(rows)),
  )


def embedding_map(test: Encoded, path: str, *, title: str = "") -> None:
  """Draws a map of embeddings by t-SNE, each as its picture, to a PNG.

  Args:
    test: Pictures; see `jssl.report.material.encode_some`.
    path: The file to write.
    title: Above the map.

  Raises:
    ValueError: If embeddings are equal, not finite, or fewer than three.
  """
  found = scatter.draw(test)
  if found is None:
    raise ValueError(
        f"{len(test.features)} embeddings are equal, not finite or too few for"
        " a map: has the encoder collapsed?"
    )
  side = _COVERED / len(test.features) ** 0.5
  axes = _map_axes(found, side)
  title = title or f"{found.method} of held-out pictures"
  axes.set_title(title, parse_math=False)
  _place_pictures(axes, found, side)
  _name_classes(axes, found)
  thumbnails.save_figure(axes.figure, path)


def _map_axes(found: scatter.Map, side: float) -> Any:
  """Makes axes as large as the map, and half a picture at each side."""
  # Slow to import; and without pyplot no window system is touched.
  from matplotlib.figure import Figure

  places = np.array([point[:2] for point in found.data["points"]])
  (left, top), (right, bottom) = places.min(axis=0), places.max(axis=0)
  width, height = max(right - left, 1), bottom - top
  inches = _WIDTH / 72
  figure = Figure(
      figsize=(inches, 0.5 + inches * min(1, height / width)),
      layout="constrained",
  )
  margin = _MARGIN + side / 2 * width / _WIDTH
  axes = figure.subplots()
  axes.set(
      xlim=(left - margin, right + margin),
      ylim=(bottom + margin, top - margin),
      xticks=[],
      yticks=[],
  )
  return axes


def _place_pictures(axes, found, side):
  from matplotlib.offsetbox import AnnotationBbox
  from matplotlib.offsetbox import OffsetImage

  sprite = _open(found.sprite)
  cell, columns = found.data["cell"], found.data["columns"]
  for one in found.classes:
    for number, x, y in one.points:
      left, top = cell * (number % columns), cell * (number // columns)
      picture = sprite.crop((left, top, left + cell, top + cell))
      axes.add_artist(
          AnnotationBbox(
              OffsetImage(picture, zoom=side / cell),
              (x, y),
              pad=0.1,
              bboxprops={"edgecolor": one.color, "linewidth": 1.2},
          )
      )


def _name_classes(axes, found):
  for one in found.classes:
    if one.middle:
      axes.text(
          *one.middle,
          one.name,
          ha="center",
          va="center",
          weight="bold",
          bbox={"facecolor": "white", "edgecolor": one.color, "alpha": 0.85},
          zorder=10,
          parse_math=False,
      )


def _draw(
    rows: list[list[Thumbnail]], path: str, *, title: str, columns: int = 1
) -> None:
  """Draws rows of thumbnails, in columns of rows."""
  # Slow to import; and without pyplot no window system is touched.
  from matplotlib.figure import Figure

  width, height = max(map(len, rows)), -(-len(rows) // columns)
  ratios = ([1.0] * width + [_BETWEEN]) * columns
  figure = Figure(
      figsize=(max(_INCHES * sum(ratios), _NARROWEST), 0.4 + _INCHES * height),
      layout="constrained",
  )
  figure.suptitle(title, fontsize="small", parse_math=False)
  grid = figure.subplots(
      height, len(ratios), squeeze=False, width_ratios=ratios
  )
  for axes in grid.flat:
    axes.set(xticks=[], yticks=[], frame_on=False)
  for i, row in enumerate(rows):
    start = (width + 1) * (i // height)
    for axes, picture in zip(grid[i % height, start:], row):
      axes.imshow(
          _open(picture.uri),
          interpolation="nearest" if picture.pixelated else None,
      )
      if picture.wrong:
        axes.set_frame_on(True)
        for spine in axes.spines.values():
          spine.set(edgecolor=_WRONG, linewidth=2.5)
  thumbnails.save_figure(figure, path)


def _open(uri):
  """Decodes a data URI; in colors, for gray ones would be stretched."""
  encoded = base64.b64decode(uri.partition(",")[2])
  return Image.open(io.BytesIO(encoded)).convert("RGBA")
