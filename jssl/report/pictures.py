"""A grid of what a generative method saw, made, and should have made."""

from jssl.method import Pictures
from jssl.report import thumbnails


def draw(pictures: Pictures, path: str, *, title: str) -> None:
  """Draws a row of images each of what was seen, made, and there, to a PNG.

  Args:
    pictures: Images of 1 or 3 channels.
    path: The file to write.
    title: Above the grid.
  """
  # Slow to import; and without pyplot no window system is touched.
  from matplotlib.figure import Figure

  columns = len(pictures.seen)
  figure = Figure(
      figsize=(1.2 * columns, 0.4 + 1.2 * len(pictures)), layout="constrained"
  )
  figure.suptitle(title, fontsize="small", parse_math=False)
  grid = figure.subplots(len(pictures), columns, squeeze=False)
  kinds = pictures._asdict().items()
  for axes, (kind, images) in zip(grid, kinds, strict=True):
    for ax, image in zip(axes, images, strict=True):
      # Gray ones alone take their colors from a map.
      ax.imshow(
          thumbnails.to_image(image),
          cmap="gray",
          vmin=0,
          vmax=255,
          interpolation="nearest",
      )
      ax.set(xticks=[], yticks=[])
    axes[0].set_ylabel(kind, fontsize="small")
  thumbnails.save_figure(figure, path, dpi=100, all_colors=True)
