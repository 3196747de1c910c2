"""Curves as SVG that takes on the colors of the page around it."""

from collections.abc import Sequence
import io
import re
from typing import NamedTuple

# More make a file larger, not a curve clearer.
_POINTS = 400
# Colors that stand for those of the page, see `_themed`.
_INK = "#010203"
_LINES = tuple(f"#0102{i:02x}" for i in range(16, 24))
_STYLES = ("-", "--", ":", "-.")


class Curve(NamedTuple):
  """A line of a chart.

  Attributes:
    points: Its (x, y), in order.
    line: Which color and dashes it has, from 0.
  """

  points: list[tuple[float, float]]
  line: int


def draw(curves: Sequence[Curve], *, salt: str, xlabel: str = "epoch") -> str:
  """Draws curves over one pair of axes.

  Args:
    curves: At least one; those beyond eight repeat colors.
    salt: Other for each chart of a page, so that ids differ.
    xlabel: Name of the horizontal axis.

  Returns:
    An `<svg>` element without size, to be put into HTML: text and axes are in
    `currentColor`, line i in `var(--line-i)`.
  """
  # Slow to import; and without pyplot no window system is touched.
  import matplotlib
  from matplotlib.figure import Figure

  settings = {
      "svg.fonttype": "none",
      "svg.hashsalt": salt,
      "text.parse_math": False,
      "font.size": 11,
      **dict.fromkeys(
          ("text.color", "axes.edgecolor", "axes.labelcolor", "grid.color"),
          _INK,
      ),
      **dict.fromkeys(("xtick.color", "ytick.color"), _INK),
  }
  # Its stubs know names of settings only as literals.
  with matplotlib.rc_context(settings):  # type: ignore[arg-type]
    figure = Figure(figsize=(4.4, 2.6), layout="constrained")
    axes = figure.subplots()
    for curve in curves:
      points = _thin(curve.points)
      axes.plot(
          *zip(*points),
          style(curve.line),
          color=_LINES[curve.line % len(_LINES)],
          marker="o" if len(points) < 30 else None,
          markersize=3,
      )
    low, high = axes.get_ylim()
    low = min(0, low)
    axes.set_ylim(low, high + 0.05 * (high - low))
    axes.set_xlabel(xlabel)
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True)
  return _themed(text.getvalue())


def style(line: int) -> str:
  """Returns the dashes of line i, as matplotlib calls them."""
  return _STYLES[line % len(_STYLES)]


def color(line: int) -> str:
  """Returns the color of line i, as CSS on the page knows it."""
  return f"var(--line-{line % len(_LINES)})"


def _thin(points):
  """Leaves out points at even distances; the last one stays."""
  stride = -(-len(points) // _POINTS)
  return points[::-1][::stride][::-1]


def _themed(svg):
  """Takes out what is of no use inside HTML, and puts in the page's colors."""
  svg = svg[svg.index("<svg") :]
  useless = r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->"
  svg = re.sub(useless, "", svg, flags=re.DOTALL)
  svg = re.sub(r' (?:xmlns(?::\w+)?|version)="[^"]*"', "", svg)
  svg = re.sub(r'<g id="[^"]*"', "<g", svg)
  opening = re.sub(r' (?:width|height|id)="[^"]*"', "", svg[: svg.index(">")])
  svg = opening + ' aria-hidden="true"' + svg[svg.index(">") :]
  for i, line in enumerate(_LINES):
    svg = svg.replace(line, f"var(--line-{i})")
  svg = svg.replace(_INK, "currentColor")
  return re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px sans-serif", svg)
