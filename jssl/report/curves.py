"""Training curves: on the page, as a PNG, and live in a notebook."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import io
import math
import os
import re
import time
from typing import Any

from jssl.report import figures

Rows = Sequence[dict[str, Any]]

# For each panel its title, and its metrics with their names in the legend. With
# several runs only the first metric is shown.
_PANELS = {
    "Loss": {"loss": "loss", "chance_loss": "chance"},
    "kNN accuracy": {"knn": "kNN"},
    "Pretext-task accuracy": {"accuracy": "accuracy"},
    "Effective rank of the features": {"rank": "rank"},
    "Standard deviation (0: collapsed)": {
        "encoder_std": "features",
        "feature_std": "embeddings",
    },
    "Learning rate": {"learning_rate": "learning rate"},
    "Images per second": {"images_per_second": "images/s"},
}
# More points would make a file larger, but a curve no clearer.
_POINTS = 400
_STYLES = ("-", "--", ":", "-.")
# Placeholders in an SVG for colors of the page, see `_themed`.
_INK = "#010203"
_INKED = (
    "text.color axes.edgecolor axes.labelcolor grid.color xtick.color"
    " ytick.color".split()
)
_LINES = tuple(f"#0102{i:02x}" for i in range(16, 24))


@dataclasses.dataclass(frozen=True)
class Curve:
  """One line of a panel.

  Attributes:
    name: Its name in the legend.
    points: Its (epoch, value) pairs, in order.
    line: Index of its color and dashes; colors repeat after eight.
  """

  name: str
  points: list[tuple[float, float]]
  line: int

  @property
  def style(self) -> str:
    """Its dashes, as Matplotlib calls them."""
    return _STYLES[self.line % len(_STYLES)]

  @property
  def color(self) -> str:
    """Its color in the page's CSS."""
    return f"var(--line-{self.line % len(_LINES)})"

  @property
  def last(self) -> str:
    """Its last value as text."""
    return _text(self.points[-1][1])


@dataclasses.dataclass(frozen=True)
class Panel:
  """Curves over one pair of axes.

  Attributes:
    title: What they show.
    curves: At least one.
  """

  title: str
  curves: list[Curve]

  @property
  def alt(self) -> str:
    """The panel in words."""
    words = (
        f"{curve.name} from {_text(curve.points[0][1])} at epoch"
        f" {curve.points[0][0]:.3g} to {curve.last} at epoch"
        f" {curve.points[-1][0]:.3g}"
        for curve in self.curves
    )
    return f"{self.title}: {'; '.join(words)}"

  @property
  def svg(self) -> str:
    """The panel as an `<svg>` element without a size, to be put into HTML.

    Text and axes are in `currentColor`, line i in `var(--line-i)`.
    """
    import matplotlib  # Slow to import.

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": self.title,  # Ids differ among the panels of a page.
        "text.parse_math": False,
        "font.size": 11,
        **dict.fromkeys(_INKED, _INK),
    }
    # The stubs accept names of settings only as literals.
    with matplotlib.rc_context(settings):  # type: ignore[arg-type]
      figure = figures.new(4.4, 2.6)
      axes = figure.subplots()
      _plot(axes, self.curves, colors=_LINES)
      axes.spines[["top", "right"]].set_visible(False)
      text = io.StringIO()
      figure.savefig(text, format="svg", transparent=True)
    return _themed(text.getvalue())


def panels(runs: Mapping[str, Rows]) -> list[Panel]:
  """Selects the curves of one run, or of several in the same axes.

  Args:
    runs: Rows of metrics, dicts with "epoch", by the name of the run.

  Returns:
    The panels that have at least one curve.
  """
  found = []
  for title, metrics in _PANELS.items():
    if len(runs) == 1:
      (rows,) = runs.values()
      shown = [(name, rows, key) for key, name in metrics.items()]
    else:
      shown = [(name, rows, next(iter(metrics))) for name, rows in runs.items()]
    # A run has the same color in every panel, also where others have no curve.
    curves = []
    for i, (name, rows, key) in enumerate(shown):
      if points := [(row["epoch"], row[key]) for row in rows if key in row]:
        curves.append(Curve(name, points, i))
    if curves:
      found.append(Panel(title, curves))
  return found


def draw(rows: Rows, file: str | os.PathLike | io.BytesIO) -> None:
  """Draws the curves of a run to a PNG.

  Args:
    rows: Metrics, dicts with "epoch".
    file: The file to write, or its path.
  """
  shown = panels({"": rows})
  columns = 3 if len(shown) <= 6 else 4
  lines = max(1, math.ceil(len(shown) / columns))
  figure = figures.new(12.8, 2.9 * lines)
  for i, panel in enumerate(shown, start=1):
    axes = figure.add_subplot(lines, columns, i, title=panel.title)
    _plot(axes, panel.curves, colors=[f"C{i}" for i in range(10)])
    if len(panel.curves) > 1:
      axes.legend()
  figures.save(figure, file, dpi=100)


def live(*, seconds: float = 5.0) -> Callable[[Rows], None]:
  """Makes a function that shows curves in a notebook while a run trains.

  Args:
    seconds: Least time between two drawings. Evaluations are drawn at once.

  Returns:
    The `watch` of `jssl.loop.train`: it updates one image below the cell.

  Raises:
    ImportError: Outside a notebook, if IPython is not installed.
  """
  from IPython import display  # Notebooks have it.

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


def _plot(axes, curves, *, colors):
  for curve in curves:
    points = _thin(curve.points)
    axes.plot(
        *zip(*points),
        curve.style,
        color=colors[curve.line % len(colors)],
        marker="o" if len(points) < 30 else None,
        markersize=3,
        label=curve.name,
    )
  low, high = axes.get_ylim()
  low = min(0, low)  # Losses may be negative.
  axes.set_ylim(low, high + 0.05 * (high - low))
  axes.set_xlim(left=0)
  axes.set_xlabel("epoch")
  axes.grid(alpha=0.2)


def _thin(points):
  """Omits points at regular distances; the last one stays."""
  stride = -(-len(points) // _POINTS)
  return points[::-1][::stride][::-1]


def _text(value):
  return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _themed(svg):
  """Removes what is useless inside HTML, and inserts the page's colors."""
  svg = svg[svg.index("<svg") :]
  useless = (
      r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->"
      r'| (?:xmlns(?::\w+)?|version)="[^"]*"|(?<=<g) id="[^"]*"'
  )
  svg = re.sub(useless, "", svg, flags=re.DOTALL)
  opening = re.sub(r' (?:width|height|id)="[^"]*"', "", svg[: svg.index(">")])
  svg = opening + ' aria-hidden="true"' + svg[svg.index(">") :]
  for i, line in enumerate(_LINES):
    svg = svg.replace(line, f"var(--line-{i})")
  svg = svg.replace(_INK, "currentColor")
  return re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px sans-serif", svg)
