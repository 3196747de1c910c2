"""Figures as PNG files, for notebooks, papers and the command line."""

from collections.abc import Sequence
import io
import itertools
import os
import statistics
from typing import Any
import warnings

import numpy as np
from PIL import Image

from jssl.report.embedding_map import make_map
from jssl.report.neighbours import find_nearest
from jssl.report.run import loaded, Run, Split
from jssl.report.thumbnails import Thumbnail
from jssl.report.views import make_views, reconstruct, Reconstruction

_WRONG = "#d62728"
_NARROWEST = 4.5  # Inches, for the title.
_BETWEEN = 0.4  # Share of an image, between blocks of a grid.
_CAPTION = 0.5  # Inches, for two lines.
_LONGEST = 32  # Characters of a caption's line that fit under two inches.
# Width of a map, and of the square that all its images would fill, in points.
_WIDTH, _COVERED = 504, 330
_MARGIN = 20  # In the map's own units.


def new(width: float, height: float) -> Any:
  """Makes an empty figure of Matplotlib, without a window system.

  Args:
    width: Inches.
    height: Inches.
  """
  from matplotlib.figure import Figure  # Slow to import.

  return Figure(figsize=(width, height), layout="constrained")


def save(
    figure: Any,
    file: str | os.PathLike | io.BytesIO,
    *,
    dpi: int = 80,
    all_colors: bool = False,
) -> None:
  """Writes a figure as PNG.

  Args:
    figure: The figure.
    file: A file, or its path.
    dpi: Pixels per inch.
    all_colors: Whether colors are exact, as photographs need, or reduced to
      256, which takes a third of the bytes.
  """
  drawn = io.BytesIO()
  with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="Glyph")  # Of foreign scripts.
    figure.savefig(drawn, format="png", dpi=dpi)
  with Image.open(drawn) as image:
    colors = image.convert("RGB")
    result = colors if all_colors else colors.quantize(256)
    result.save(file, "png", optimize=True)


def grid(
    rows: Sequence[Sequence[Thumbnail]],
    path: str | os.PathLike,
    *,
    title: str,
    inches: float = 0.75,
    blocks: int = 1,
    row_names: Sequence[str] = (),
    captions: bool = False,
    all_colors: bool = False,
) -> None:
  """Draws rows of images to a PNG; those marked as wrong have a red frame.

  Args:
    rows: The images.
    path: The file to write.
    title: Text above the grid.
    inches: Width of an image.
    blocks: Number of blocks, side by side, that share the rows.
    row_names: Text to the left of each row; () for none.
    captions: Whether captions are written, of at most two lines each; lines
      that are too long lose their beginning.
    all_colors: See `save`.
  """
  width, height = max(map(len, rows)), -(-len(rows) // blocks)
  ratios = ([1.0] * width + [_BETWEEN]) * blocks
  ratios.pop()
  figure = new(
      max(inches * sum(ratios), _NARROWEST),
      0.4 + height * (inches + _CAPTION * captions),
  )
  figure.suptitle(title, fontsize="small", parse_math=False)
  cells = figure.subplots(
      height, len(ratios), squeeze=False, width_ratios=ratios
  )
  for axes in cells.flat:
    axes.set(xticks=[], yticks=[], frame_on=False)
  for axes, name in zip(cells[:, 0], row_names):
    axes.set_ylabel(name, fontsize="small")
  for i, row in enumerate(rows):
    start = (width + 1) * (i // height)
    for axes, thumbnail in zip(cells[i % height, start:], row):
      _show(axes, thumbnail, captions)
  save(figure, path, dpi=100 if all_colors else 80, all_colors=all_colors)


def views(run: Run, path: str | os.PathLike, *, rows: int = 4) -> None:
  """Draws training images, and the views that the method gets, to a PNG.

  Args:
    run: A run with images, see `jssl.report.load`.
    path: The file to write.
    rows: Number of images, 1 to 6.

  Raises:
    ValueError: If the method's views contain no images.
  """
  encoder, train, _ = loaded(run)
  found = make_views(encoder.method, train)[:rows]
  if not found:
    name = run.config.method.name
    raise ValueError(f"The views of {name} contain no images.")
  grid(
      [[row.original, *itertools.chain(*row.groups.values())] for row in found],
      path,
      title=f"training images, and of each: {', '.join(found[0].groups)}",
  )


def reconstructions(run: Run, path: str | os.PathLike) -> None:
  """Draws held-out images as a generative method reconstructs them, to a PNG.

  Args:
    run: A run with images, see `jssl.report.load`.
    path: The file to write.

  Raises:
    ValueError: If the method reconstructs no images.
  """
  encoder, _, test = loaded(run)
  rows = reconstruct(encoder, test)
  if not rows:
    name = run.config.method.name
    raise ValueError(f"{name} reconstructs no images.")
  reconstruction_grid(rows, path, title="reconstructions of held-out images")


def reconstruction_grid(
    rows: Sequence[Reconstruction], path: str | os.PathLike, *, title: str
) -> None:
  """Draws a column for each image: its input, output and original, to a PNG.

  Args:
    rows: At least one, see `jssl.report.views.reconstruct`.
    path: The file to write.
    title: Text above the images.
  """
  grid(
      list(zip(*rows)),
      path,
      title=title,
      inches=1.2,
      row_names=Reconstruction._fields,
      all_colors=True,
  )


def neighbours(train: Split, test: Split, path: str | os.PathLike) -> None:
  """Draws held-out images and the training images nearest to them, to a PNG.

  Args:
    train: Images among which neighbours are found; see `jssl.report.splits`.
    test: Images to choose a dozen from.
    path: The file to write.

  Raises:
    ValueError: If there are none.
  """
  rows = find_nearest(train, test)
  if not rows:
    raise ValueError("There are no held-out images to find neighbours of.")
  grid(
      rows,
      path,
      title="held out (left) and the nearest training images; red: wrong class",
      blocks=min(2, len(rows)),
  )


def embedding_map(
    test: Split, path: str | os.PathLike, *, title: str = ""
) -> None:
  """Draws a map of embeddings by t-SNE, each as its image, to a PNG.

  Args:
    test: Images; see `jssl.report.splits`.
    path: The file to write.
    title: Text above the map.

  Raises:
    ValueError: If embeddings are equal, not finite, or fewer than three.
  """
  found = make_map(test)
  if found is None:
    raise ValueError(
        f"{len(test.features)} embeddings are equal, not finite or too few for"
        " a map: has the encoder collapsed?"
    )
  side = _COVERED / len(found.xy) ** 0.5
  axes = _map_axes(found.xy, side)
  title = title or f"{found.method} of held-out images"
  axes.set_title(title, parse_math=False)
  _draw_classes(axes, found, side)
  save(axes.figure, path)


def bars(
    names: list[str],
    scores: dict[str, list[list[float]]],
    path: str | os.PathLike,
    *,
    title: str,
) -> None:
  """Draws accuracies as a group of bars for each name, to a PNG.

  Args:
    names: Names of the groups, from top to bottom.
    scores: For each kind of bar, the values over seeds of every name. A bar is
      their mean; dots show the seeds.
    path: The file to write.
    title: Text above the chart.
  """
  height = 0.8 / len(scores)
  figure = new(9, 1.5 + 0.5 * len(names))
  axes = figure.subplots()
  for i, (label, values) in enumerate(scores.items()):
    offset = (i - (len(scores) - 1) / 2) * height
    places = [j + offset for j in range(len(names))]
    means = [statistics.mean(seeds) for seeds in values]
    axes.barh(places, means, height, label=label.replace("_", "-"), zorder=2)
    for place, seeds in zip(places, values):
      axes.plot(seeds, [place] * len(seeds), "k.", markersize=3, zorder=3)
  axes.set_yticks(range(len(names)), names)
  axes.invert_yaxis()
  axes.set(xlabel="accuracy", xlim=(0, 1))
  axes.set_title(title, fontsize="small")
  axes.grid(axis="x", alpha=0.3)
  figure.legend(loc="outside lower center", ncols=len(scores), frameon=False)
  save(figure, path, dpi=120, all_colors=True)


def _show(axes, thumbnail, caption):
  axes.imshow(
      _colors(thumbnail.pixels),
      interpolation="nearest" if thumbnail.pixelated else None,
  )
  if thumbnail.wrong:
    axes.set_frame_on(True)
    for spine in axes.spines.values():
      spine.set(edgecolor=_WRONG, linewidth=2.5)
  if caption:
    lines = [
        x if len(x) <= _LONGEST else "..." + x[3 - _LONGEST :]
        for x in thumbnail.caption.splitlines()
    ]
    axes.set_xlabel("\n".join(lines), fontsize=7, parse_math=False)


def _colors(pixels):
  """Gray pixels as colors: Matplotlib would stretch their range."""
  return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def _map_axes(xy: np.ndarray, side: float) -> Any:
  """Makes axes in the map's proportions, with half an image at each side."""
  low, high = xy.min(axis=0), xy.max(axis=0)
  largest = max((high - low).max(), 1)
  scale = (_WIDTH - side) / (largest + 2 * _MARGIN)  # Points per unit.
  half = (high - low) / 2 + _MARGIN + side / 2 / scale
  half[0] = max(half[0], 72 * _NARROWEST / scale / 2)
  (left, top), (right, bottom) = (low + high) / 2 + [-half, half]
  width, height = 2 * half * scale / 72
  axes = new(width, height + 0.5).subplots()
  axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
  return axes


def _draw_classes(axes, found, side):
  """Draws the image of every point, and the names of classes above them."""
  from matplotlib.offsetbox import AnnotationBbox, OffsetImage

  zoom = side / max(max(x.shape[:2]) for x in found.images)
  for group in found.classes:
    frame = {"edgecolor": group.color, "linewidth": 1.2}
    for number, x, y in group.points:
      image = OffsetImage(_colors(found.images[number]), zoom=zoom)
      box = AnnotationBbox(image, (x, y), pad=0.1, bboxprops=frame)
      axes.add_artist(box)
    if group.middle:
      axes.text(
          *group.middle,
          group.name,
          ha="center",
          va="center",
          weight="bold",
          bbox={"facecolor": "white", "edgecolor": group.color, "alpha": 0.85},
          zorder=10,
          parse_math=False,
      )
