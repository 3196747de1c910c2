"""A contact sheet: pictures side by side, with captions."""

import numpy as np

from jssl.report import thumbnails

_LONGEST = 32  # Characters of a line that fit under a picture.


def draw(
    pictures: list[np.ndarray],
    captions: list[str],
    path: str,
    *,
    columns: int,
    title: str,
) -> None:
  """Draws pictures of any sizes to a PNG.

  Args:
    pictures: uint8 `[H, W, C]` of 1, 3 or 4 channels.
    captions: Under each; lines that are too long lose their beginning.
    path: The file to write.
    columns: Pictures side by side.
    title: Above all.
  """
  # Slow to import; and without pyplot no window system is touched.
  from matplotlib.figure import Figure

  rows = -(-len(pictures) // columns)
  figure = Figure(figsize=(2 * columns, 0.5 + 2.5 * rows), layout="constrained")
  figure.suptitle(title, fontsize="small", parse_math=False)
  grid = figure.subplots(rows, columns, squeeze=False)
  for ax in grid.flat:
    ax.set(xticks=[], yticks=[], frame_on=False)
  for ax, picture, caption in zip(grid.flat, pictures, captions):
    # Gray ones alone take their colors from a map.
    ax.imshow(thumbnails.to_image(picture), cmap="gray", vmin=0, vmax=255)
    lines = "\n".join(_shorten(line) for line in caption.splitlines())
    ax.set_xlabel(lines, fontsize=7, parse_math=False)
  thumbnails.save_figure(figure, path, dpi=100, all_colors=True)


def _shorten(line):
  return line if len(line) <= _LONGEST else "..." + line[3 - _LONGEST :]
