"""Training curves as a picture."""

from collections.abc import Callable
import io
import math
import time
from typing import Any

from jssl.report import thumbnails

# One panel each: its title, and the metrics drawn in it where a run has them.
_PANELS = (
    ("loss", ("loss", "chance_loss")),
    ("accuracy", ("accuracy", "knn")),
    ("rank", ("rank",)),
    ("spread", ("feature_std", "encoder_std")),
    ("learning rate", ("learning_rate",)),
    ("images / s", ("images_per_second",)),
)
_DASHED = ("chance_loss",)


def draw(rows: list[dict[str, Any]], file: str | io.BytesIO) -> None:
  """Draws the curves of a run to a PNG.

  Args:
    rows: Metrics, dicts with "epoch".
    file: The file to write, or its path.
  """
  # Slow to import; and without pyplot no window system is touched.
  from matplotlib.figure import Figure

  figure = Figure(figsize=(12, 6), layout="constrained")
  for axes, (title, names) in zip(figure.subplots(2, 3).flat, _PANELS):
    for name in names:
      points = [(row["epoch"], row[name]) for row in rows if name in row]
      if points:
        style = "--" if name in _DASHED else "-"
        marker = "o" if len(points) < 30 else None
        axes.plot(
            *zip(*points),
            style,
            marker=marker,
            markersize=3,
            label=name.replace("_", " "),
        )
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))  # Losses may be below.
    axes.grid(alpha=0.3)
    if len(axes.lines) > 1:
      axes.legend()
  thumbnails.save_figure(figure, file, dpi=100)


def live(*, seconds: float = 5.0) -> Callable[[list[dict[str, Any]]], None]:
  """Makes what shows curves in a notebook while a run trains.

  Args:
    seconds: Time that passes between two drawings at least; but evaluations
      are drawn at once.

  Returns:
    The `watch` of `jssl.loop.train`: it renews one picture below the cell.

  Raises:
    ImportError: Outside a notebook, if there is no IPython.
  """
  from IPython import display  # Notebooks bring it.

  handle = display.DisplayHandle()
  handle.display(display.Markdown("*Curves appear with the first steps.*"))
  drawn = -math.inf

  def watch(rows):
    nonlocal drawn
    if "rank" not in rows[-1] and time.monotonic() - drawn < seconds:
      return
    file = io.BytesIO()
    draw(rows, file)
    handle.update(display.Image(file.getvalue(), format="png"))
    drawn = time.monotonic()

  return watch
