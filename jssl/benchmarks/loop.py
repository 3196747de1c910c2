"""Which share of a training's time is spent outside the compiled step.

On evaluations, checkpoints and logging. What the loop does while the device
works (the order of the data, the next call) shows as a step that is slower than
alone; the step is timed alone before and after, since machines drift.
Compilation is left out.
"""

from collections.abc import Callable
import statistics
import tempfile
import time
from typing import Any

import jax

from jssl import loop
from jssl import run as runs
from jssl.checkpoint import Checkpoints
from jssl.config import ConfigDict
from jssl.recorder import Recorder

_WINDOWS = 5


def measure(config: ConfigDict) -> dict[str, Any]:
  """Returns seconds of the step, of the loop, and the share outside."""
  run = runs.prepare(config)
  dispatch = runs.make_dispatch(run)
  alone = _time_step(run, dispatch)
  with tempfile.TemporaryDirectory() as workdir:
    rows, seconds = train(run, dispatch, workdir)
  alone = statistics.median(alone + _time_step(run, dispatch))
  rows = [row for row in rows if "loss" in row]
  # The clock of the first row starts after the first call.
  edges = [run.steps_per_dispatch, *(row["step"] for row in rows)]
  in_steps = run.steps_per_dispatch * alone + sum(
      (end - begin) * config.batch_size / row["images_per_second"]
      for begin, end, row in zip(edges, edges[1:], rows)
  )
  return {
      "steps": run.total_steps,
      "seconds_per_step": alone,
      "images_per_second": run.config.batch_size / alone,
      "seconds_in_loop": seconds,
      "share_outside_step": 1 - in_steps / seconds,
      "step_in_loop_over_alone": in_steps / run.total_steps / alone,
      "device": jax.devices()[0].device_kind,
  }


def train(
    run: runs.Run, dispatch: Callable[..., Any], workdir: str
) -> tuple[list[dict[str, Any]], float]:
  """Trains to the end; returns the rows of metrics, and how long it took."""
  recorder = Recorder(run, workdir, step=0)
  checkpoints = Checkpoints(workdir)
  state = runs.initial_state(run)
  runs.compute_features(run, state)  # Compiles what evaluates.
  start = time.perf_counter()
  loop.run_steps(run, dispatch, recorder, checkpoints, state, workdir=workdir)
  seconds = time.perf_counter() - start
  recorder.close()
  checkpoints.close()
  return recorder.rows, seconds


def _time_step(run, dispatch):
  """Returns seconds a step, of windows of an epoch each, synchronised."""
  state, held = runs.initial_state(run), run.feed.hold()
  calls = max(1, run.steps_per_epoch // run.steps_per_dispatch)
  call = next(run.feed.calls(0, run.total_steps, run.steps_per_dispatch))
  seconds = []
  for _ in range(1 + _WINDOWS):
    start = time.perf_counter()
    for _ in range(calls):
      state, metrics = dispatch(state, held, call.inputs)
    jax.block_until_ready((state, metrics))
    taken = time.perf_counter() - start
    seconds.append(taken / calls / run.steps_per_dispatch)
  return seconds[1:]  # The first window compiles.
