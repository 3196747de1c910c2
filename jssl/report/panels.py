"""The charts of one run, or of several in the same axes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jssl.report import charts

# A chart each: its title, and the metrics drawn in it where a run has them. Of
# several runs, only the first is drawn.
_PANELS = (
    ("Loss", (("loss", "loss"), ("chance_loss", "chance"))),
    ("kNN accuracy", (("knn", "kNN"),)),
    ("Accuracy at the method's own task", (("accuracy", "accuracy"),)),
    ("Effective rank of the features", (("rank", "rank"),)),
    (
        "Spread (0: collapsed)",
        (("encoder_std", "features"), ("feature_std", "embeddings")),
    ),
    ("Learning rate", (("learning_rate", "learning rate"),)),
    ("Images a second", (("images_per_second", "images/s"),)),
)


class Key(NamedTuple):
  """A line of a chart's legend.

  Attributes:
    name: What is drawn.
    color: Its color in CSS.
    style: Its dashes, as matplotlib calls them.
    last: Its last value, as text.
  """

  name: str
  color: str
  style: str
  last: str


class Panel(NamedTuple):
  """A chart.

  Attributes:
    title: What it shows.
    svg: The drawing, see `jssl.report.charts.draw`.
    alt: The same in words.
    keys: Its legend.
  """

  title: str
  svg: str
  alt: str
  keys: list[Key]


def draw(runs: dict[str, list[dict[str, Any]]]) -> list[Panel]:
  """Draws the curves that the runs have.

  Args:
    runs: Rows of metrics by the name of the run.

  Returns:
    The charts, those without any curve left out.
  """
  panels = (_draw(title, metrics, runs) for title, metrics in _PANELS)
  return [panel for panel in panels if panel is not None]


def _draw(title, metrics, runs) -> Panel | None:
  if len(runs) == 1:
    (rows,) = runs.values()
    named = [(label, _points(rows, name)) for name, label in metrics]
  else:
    name, _ = metrics[0]
    named = [(run, _points(rows, name)) for run, rows in runs.items()]
  # A run keeps its color in every chart, also where others have no curve.
  numbered = [(i, *pair) for i, pair in enumerate(named) if pair[1]]
  if not numbered:
    return None
  svg = charts.draw(
      [charts.Curve(points, i) for i, _, points in numbered], salt=title
  )
  keys = [
      Key(label, charts.color(i), charts.style(i), _text(points[-1][1]))
      for i, label, points in numbered
  ]
  return Panel(title, svg, f"{title}: {_words(numbered)}", keys)


def _points(
    rows: Sequence[dict[str, Any]], name: str
) -> list[tuple[float, float]]:
  return [(row["epoch"], row[name]) for row in rows if name in row]


def _words(numbered):
  return "; ".join(
      f"{label} from {_text(points[0][1])} at epoch {points[0][0]:.3g} to"
      f" {_text(points[-1][1])} at epoch {points[-1][0]:.3g}"
      for _, label, points in numbered
  )


def _text(value):
  return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
