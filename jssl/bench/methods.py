"""Compares all methods with the same small budget."""

from collections.abc import Iterator, Sequence
import csv
import dataclasses
import pathlib
import statistics
import time
from typing import Any

import jax
import numpy as np

from jssl import encoder, experiment, parallel
from jssl.bench._program import planned_bytes
from jssl.config import build, of_method
from jssl.data import Batches, Pipeline, resident_pipeline
from jssl.evals import quality
from jssl.evals.features import compute_for_scores, Features
from jssl.evals.scores import quick, summarize
from jssl.experiment import Experiment
from jssl.loop import compute_features
from jssl.report import figures

SCORES = ("knn", "one_shot", "five_shot")
# By stage and by name in `SCORES`, the accuracy of each seed.
Scores = dict[str, dict[str, list[float]]]

_HEAD = (
    "| method | kNN | one-shot | five-shot | best stage | one-shot there | gain"
    " over untrained | batch | epochs | steps | seconds | MiB per step |"
)
# The joint-embedding methods with three seeds take 47 minutes on two cores.
_DIGITS_EPOCHS = 15.0


@dataclasses.dataclass(frozen=True)
class Row:
  """One line of the table: an encoder, evaluated over seeds.

  Attributes:
    name: The method, or the baseline.
    scores: For each stage, "pooled" first, and each of `SCORES`, the accuracy
      of each seed, in [0, 1].
    untrained: The same for the same nets before training.
    batch_size: Images per step; None for a baseline, like the next four.
    epochs: Passes over the training images.
    steps: Steps per training.
    seconds: Training time per seed, without compilation; the median.
    step_bytes: Memory of the compiled step on one device: arguments, results
      and temporaries, including the data set.
    collapse_warnings: Number of warnings of collapse, after each epoch and at
      the end, over all seeds.
  """

  name: str
  scores: Scores
  untrained: Scores | None = None
  batch_size: int | None = None
  epochs: float | None = None
  steps: int | None = None
  seconds: float | None = None
  step_bytes: int | None = None
  collapse_warnings: int = 0


# Columns of the CSV after those of the scores.
_COSTS = [field.name for field in dataclasses.fields(Row)][3:]


def measure(
    names: Sequence[str],
    dataset: str,
    *,
    configs: pathlib.Path | None,
    output: pathlib.Path,
    seeds: int,
    overrides: dict[str, Any],
) -> dict[str, Any]:
  """Trains methods and writes `methods.md`, `methods.csv` and `methods.png`.

  The files are rewritten after each method, so that an interrupted comparison
  leaves its results.

  Args:
    names: Methods, in the order of the table.
    dataset: A labelled data set, as in a config.
    configs: Folder with a file per method; None for jssl's own.
    output: Folder of the results, created if missing.
    seeds: Number of seeds, from 0.
    overrides: Config entries for all methods, `{"net.width": 16}`; methods that
      need a transformer keep the net of their config. Without "epochs" those
      of the config apply, but at most 15 for a ResNet on digits.

  Returns:
    The values of each row by its name: means over the seeds.

  Raises:
    ValueError: If the data set has no labels.
    OSError: If a config or the data cannot be found.
  """
  output.mkdir(parents=True, exist_ok=True)
  device = jax.devices()[0].device_kind
  title = (
      f"{dataset}, {seeds} seed{'s' * (seeds != 1)}, last epoch, on {device}"
  )
  rows: list[Row] = []
  for name in names:
    exp = experiment.make(_config(configs, name, dataset, overrides))
    if "color" in exp.method.needs and exp.train.image.shape[-1] == 1:
      print(f"{name} is skipped: {dataset} has no colors.", flush=True)
      continue
    if exp.train.label is None or exp.test.label is None:
      raise ValueError(
          f"{dataset} has no labels to evaluate with; expected a labelled data"
          " set such as digits."
      )
    if not rows:
      rows.append(_raw_pixels(exp))
    untrained, trained = _train(exp, name, seeds)
    if untrained.name not in {row.name for row in rows}:
      rows.append(untrained)
    rows.append(trained)
    _write(output, rows, title)
    print(_line(trained), flush=True)
    if text := warning(trained):
      print(text, flush=True)
  print(f"In {output}: methods.md, methods.csv, methods.png")
  return {
      row.name: {
          **{k: statistics.mean(v) for k, v in row.scores["pooled"].items()},
          "seconds": row.seconds,
          "step_bytes": row.step_bytes,
          "collapse_warnings": row.collapse_warnings,
      }
      for row in rows
  }


def _config(configs, name, dataset, overrides):
  config = of_method(name, dataset, configs=configs)
  if "patches" in build.method(config).needs:
    overrides = {k: v for k, v in overrides.items() if not k.startswith("net.")}
  elif dataset == "digits":
    config.epochs = min(config.epochs, _DIGITS_EPOCHS)
  config.update_from_flattened_dict(overrides)
  return config


def _raw_pixels(exp: Experiment) -> Row:
  none = encoder.Encoder(exp.config, exp.method, 0, (), exp.encode)
  pixels = encoder.raw_pixels(none)
  features = compute_for_scores(pixels, exp.train, exp.test)
  return Row("raw pixels", _by_stage([_summary(exp, features)]))


def _summary(exp, features):
  return summarize(features, exp.train, exp.test, exp.config.eval)


def _by_stage(evaluations: list[dict[str, Any]]) -> Scores:
  """Collects the scores of each stage over seeds, "pooled" first."""
  seeds = [{"pooled": x, **x["stages"]} for x in evaluations]
  return {
      stage: {key: [scores[stage][key] for scores in seeds] for key in SCORES}
      for stage in ("pooled", *sorted(seeds[0].keys() - {"pooled"}))
  }


def _train(exp: Experiment, name: str, seeds: int) -> tuple[Row, Row]:
  """Trains one method with every seed by one compiled program."""
  resident = exp.pipeline.resident()
  compiled = _compile(exp, resident)
  before, after, seconds, collapsed = [], [], [], 0
  for seed in range(seeds):
    state = parallel.replicate(exp.init(jax.random.key(seed)))
    before.append(_summary(exp, compute_features(exp, state)))
    start = time.perf_counter()
    window = []
    pipeline = resident_pipeline(
        exp.train, batch_size=exp.config.batch_size, seed=seed
    )
    for call in _calls(exp, pipeline):
      state, metrics = compiled[call.count](state, resident, call.inputs)
      window.append(metrics)
    jax.block_until_ready(state.params)
    seconds.append(time.perf_counter() - start)
    features = compute_features(exp, state)
    collapsed += _collapsed(exp, features, window)
    after.append(_summary(exp, features))
  untrained = Row(f"untrained {exp.config.net.name}", _by_stage(before))
  trained = Row(
      name,
      _by_stage(after),
      untrained=untrained.scores,
      batch_size=exp.config.batch_size,
      epochs=exp.config.epochs,
      steps=exp.total_steps,
      seconds=statistics.median(seconds),
      step_bytes=planned_bytes(compiled[max(compiled)]),
      collapse_warnings=collapsed,
  )
  return untrained, trained


def _compile(exp: Experiment, resident: Any) -> dict[int, Any]:
  """Compiles a call of each length that a training needs."""
  state = experiment.initial_state(exp)
  dispatch = experiment.make_call(exp)
  inputs = {call.count: call.inputs for call in _calls(exp, exp.pipeline)}
  return {
      count: dispatch.lower(state, resident, example).compile()
      for count, example in inputs.items()
  }


def _calls(exp: Experiment, pipeline: Pipeline) -> Iterator[Batches]:
  return pipeline.batches(0, exp.total_steps, exp.steps_per_call)


def _collapsed(exp: Experiment, features: Features, window: list[Any]) -> int:
  """Counts the warnings of collapse after each epoch and at the end."""
  calls = jax.device_get(window)
  metrics = {k: np.concatenate([call[k] for call in calls]) for k in calls[0]}
  ends = range(exp.steps_per_epoch - 1, exp.total_steps, exp.steps_per_epoch)
  rows = [{k: float(v[i]) for k, v in metrics.items()} for i in ends]
  rows.append(quick(features, exp.train, exp.test, exp.config.eval))
  warnings = list(filter(None, map(quality.collapse_warning, rows)))
  for text in dict.fromkeys(warnings):
    print(f"WARNING: {text}", flush=True)
  return len(warnings)


def _text(values: list[float]) -> str:
  """Mean and, for several seeds, standard deviation."""
  mean = f"{statistics.mean(values):.3f}"
  return f"{mean} ± {statistics.stdev(values):.3f}" if values[1:] else mean


def _line(row: Row) -> str:
  """One line of the table; a baseline has no gain and no costs."""
  stage = best_stage(row.scores)
  cells = [row.name, *map(_text, row.scores["pooled"].values())]
  cells += [stage, _text(row.scores[stage]["one_shot"])]
  if row.untrained is None:
    return f"| {' | '.join(cells)} |{' |' * 6}"
  memory = "" if row.step_bytes is None else f"{row.step_bytes / 2**20:.0f}"
  cells += [_text(_gains(row)), str(row.batch_size), f"{row.epochs:g}"]
  cells += [str(row.steps), f"{row.seconds:.0f}", memory]
  return f"| {' | '.join(cells)} |"


def best_stage(scores: Scores) -> str:
  """Returns the stage of the best mean one-shot accuracy, "pooled" if equal."""
  return max(scores, key=lambda x: statistics.mean(scores[x]["one_shot"]))


def _gains(row: Row) -> list[float]:
  """Gain in one-shot accuracy by training, from best stage to best stage."""
  after, before = (
      scores[best_stage(scores)]["one_shot"]
      for scores in (row.scores, row.untrained or {})
  )
  return [a - b for a, b in zip(after, before)]


def warning(row: Row) -> str:
  """Returns a warning if the gain by training is within that of seeds."""
  gains = _gains(row)
  spread = statistics.stdev(gains) if gains[1:] else 0.0
  if statistics.mean(gains) > spread:
    return ""
  return (
      f"WARNING: {row.name} gained {statistics.mean(gains):.3f} of one-shot"
      " accuracy at its best stage over that of its untrained net, but seeds"
      f" differ by {spread:.3f}: look for a bug, or train longer."
  )


def _write(output: pathlib.Path, rows: list[Row], title: str) -> None:
  rule = "|" + " --- |" * (_HEAD.count("|") - 1)
  lines = [_HEAD, rule, *map(_line, rows)]
  text = f"{title} (mean ± standard deviation)\n\n" + "\n".join(lines) + "\n"
  (output / "methods.md").write_text(text)
  with (output / "methods.csv").open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(("name", "seed", "stage", *SCORES, *_COSTS))
    for row in rows:
      costs = [getattr(row, name) for name in _COSTS]
      writer.writerows(_by_seed(row.name, row.scores, costs))
      if row.untrained is not None:
        name = f"untrained {row.name}"
        writer.writerows(_by_seed(name, row.untrained, []))
  figures.bars(
      [row.name for row in rows],
      {name: [row.scores["pooled"][name] for row in rows] for name in SCORES},
      output / "methods.png",
      title=title,
  )


def _by_seed(name, scores, costs):
  """Yields a line of the CSV per stage and seed."""
  for stage, columns in scores.items():
    for seed, values in enumerate(zip(*columns.values())):
      yield name, seed, stage, *values, *costs
