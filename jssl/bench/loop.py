"""The fraction of a training's time that is spent outside the compiled step.

That is the time for evaluations, checkpoints and logging. Work of the host
during a step (the order of the data, the next call) shows as a step that is
slower than alone; the step is timed alone before and after, since machines
drift. Compilation is excluded.
"""

from collections.abc import Callable
import statistics
import tempfile
import time
from typing import Any

import jax

from jssl import experiment, loop
from jssl.bench._timing import seconds_of
from jssl.bench.step import make_calls
from jssl.checkpoint import Checkpoints
from jssl.config import ConfigDict
from jssl.recorder import Recorder

_WINDOWS = 5


def measure(config: ConfigDict) -> dict[str, Any]:
  """Returns seconds of the step, of the loop, and the fraction outside."""
  exp = experiment.make(config)
  dispatch = experiment.make_call(exp)
  alone = _time_step(exp, dispatch)
  with tempfile.TemporaryDirectory() as workdir:
    rows, seconds = train(exp, dispatch, workdir)
  alone = statistics.median(alone + _time_step(exp, dispatch))
  rows = [row for row in rows if "loss" in row]
  # The clock of the first row starts after the first call.
  edges = [exp.steps_per_call, *(row["step"] for row in rows)]
  in_steps = exp.steps_per_call * alone + sum(
      (end - begin) * config.batch_size / row["images_per_second"]
      for begin, end, row in zip(edges, edges[1:], rows)
  )
  return {
      "steps": exp.total_steps,
      "seconds_per_step": alone,
      "images_per_second": exp.config.batch_size / alone,
      "seconds_in_loop": seconds,
      "share_outside_step": 1 - in_steps / seconds,
      "step_in_loop_over_alone": in_steps / exp.total_steps / alone,
      "device": jax.devices()[0].device_kind,
  }


def train(
    exp: experiment.Experiment, dispatch: Callable[..., Any], workdir: str
) -> tuple[list[dict[str, Any]], float]:
  """Trains to the end; returns the rows of metrics, and how long it took."""
  recorder = Recorder(exp, workdir, step=0)
  checkpoints = Checkpoints(workdir)
  state = experiment.initial_state(exp)
  loop.compute_features(exp, state)  # Compiles what evaluates.
  start = time.perf_counter()
  loop.run_steps(exp, dispatch, recorder, checkpoints, state, workdir=workdir)
  seconds = time.perf_counter() - start
  recorder.close()
  checkpoints.close()
  return recorder.rows, seconds


def _time_step(exp, dispatch):
  """Returns seconds per step, one for each window of an epoch."""
  run = make_calls(exp, dispatch)
  calls = max(1, exp.steps_per_epoch // exp.steps_per_call)
  seconds = [seconds_of(run, calls=calls) for _ in range(1 + _WINDOWS)]
  return [x / exp.steps_per_call for x in seconds[1:]]  # The first compiles.
