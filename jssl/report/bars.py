"""A bar chart of accuracies."""

import statistics


def draw(
    names: list[str],
    scores: dict[str, list[list[float]]],
    path: str,
    *,
    title: str,
) -> None:
  """Draws a group of bars for each name to a PNG.

  Args:
    names: One for each group, from top to bottom.
    scores: For each kind of bar, the values over seeds of every name. A bar is
      their mean; dots show the seeds.
    path: The file to write.
    title: Above the chart.
  """
  # Slow to import; and without pyplot no window system is touched.
  from matplotlib.figure import Figure

  height = 0.8 / len(scores)
  figure = Figure(figsize=(9, 1.5 + 0.5 * len(names)), layout="constrained")
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
  figure.savefig(path, dpi=120)
