"""The training loop: everything around the compiled step."""

from collections.abc import Callable, Iterator
import contextlib
import os
import shlex
import signal
import threading
from typing import Any

import jax

from jssl import config as configs
from jssl import run as runs
from jssl import summary
from jssl.checkpoint import Checkpoints
from jssl.checkpoint import NotSaved
from jssl.config import ConfigDict
from jssl.recorder import Recorder
from jssl.report import curves
from jssl.report import material
from jssl.report import page
from jssl.report import pictures as report
from jssl.run import Run
from jssl.step import TrainState

# What may change when a run is resumed: neither the model nor the order of the
# data depends on it.
_FREE = (
    "checkpoint.",
    "data.cache",
    "data.data_dir",
    "data.max_broken",
    "data.stream",
    "data.workers",
    "epochs",
    "eval.",
    "log.",
    "optimizer.learning_rate",
    "optimizer.schedule.",
    "optimizer.weight_decay",
    "precision",
    "steps_per_dispatch",
)


def train(config: ConfigDict, workdir: str) -> dict[str, Any] | None:
  """Trains a method, or goes on training it, and judges the encoder.

  Args:
    config: See `jssl.config.base`.
    workdir: The run's folder. If it holds a checkpoint, training goes on from
      there and ends exactly as if it had never stopped.

  Returns:
    What `WORKDIR/summary.json` holds; None if SIGTERM asked to stop before the
    end, after saving.

  Raises:
    ValueError: If something in the config is wrong, or differs from the run
      to be resumed in the model or the order of the data.
    OSError: If the data cannot be found, or the folder cannot be written.
    Diverged: If the loss is no longer finite; what was saved is intact.
  """
  run = runs.prepare(config)
  os.makedirs(workdir, exist_ok=True)
  checkpoints = Checkpoints(workdir, keep=config.checkpoint.keep)
  resuming = checkpoints.latest is not None
  _settle(run.config, workdir, resuming=resuming)
  state = runs.initial_state(run)
  if resuming:
    state = checkpoints.restore(state)
  recorder = Recorder(run, workdir, step=int(state.step))
  _greet(run, recorder, resuming=resuming, step=int(state.step))
  with contextlib.closing(checkpoints), contextlib.closing(recorder):
    dispatch = runs.make_dispatch(run)
    state = run_steps(
        run, dispatch, recorder, checkpoints, state, workdir=workdir
    )
    if int(state.step) < run.total_steps:
      recorder.say(
          f"stopped by SIGTERM and saved at step {int(state.step)}; the same"
          " command goes on from there"
      )
      return None
  result = None
  if jax.process_index() == 0:
    result = summary.write(run, workdir, state, recorder.rows)
    curves.draw(recorder.rows, os.path.join(workdir, "curves.png"))
    _report(run, recorder, state, workdir)
  return result


def run_steps(
    run: Run,
    dispatch: Callable[..., tuple[TrainState, Any]],
    recorder: Recorder,
    checkpoints: Checkpoints,
    state: TrainState,
    *,
    workdir: str,
) -> TrainState:
  """Trains to the end, or until SIGTERM and a last checkpoint.

  Args:
    run: The run.
    dispatch: Its compiled steps, see `jssl.run.make_dispatch`.
    recorder: Where metrics go.
    checkpoints: Where states go.
    state: The state to go on from; it is donated.
    workdir: Where pictures go.

  Returns:
    The last state.
  """
  step = saved = int(state.step)
  held = run.feed.hold()
  paint = runs.make_pictures(run) if run.method.pictures else None
  compiling = True
  calls = run.feed.calls(step, run.total_steps, run.steps_per_dispatch)
  with _sigterm() as asked_to_stop, contextlib.closing(calls):
    for count, inputs, replaced, notes in calls:
      state, metrics = dispatch(state, held, inputs)
      step += count
      recorder.add(metrics, count)
      recorder.pictures(replaced, notes)
      if compiling:
        jax.block_until_ready(metrics)
        recorder.start_clock()
        compiling = False
      if step % run.config.log.every_steps < count:
        recorder.flush(step)
      if _due(run, step, count, "eval") and jax.process_index() == 0:
        recorder.flush(step)
        signs = runs.look(run, runs.encoder_of(run, state))
        if paint:
          _draw(run, paint(state), workdir, step)
        recorder.evaluation(step, signs)
      if _due(run, step, count, "checkpoint"):
        recorder.flush(step)
        saved = _save(checkpoints, recorder, step, state) or saved
      if asked_to_stop.is_set():
        break
    if step > saved:
      recorder.flush(step)
      checkpoints.save(step, state)
  checkpoints.wait()
  return state


def _draw(run, pictures, workdir, step):
  """Writes the pictures of this step, and the newest under one name."""
  os.makedirs(os.path.join(workdir, "pictures"), exist_ok=True)
  epoch = step / run.steps_per_epoch
  title = f"{run.config.method.name} on {run.config.data.name}, epoch {epoch:g}"
  pictures = jax.device_get(pictures)
  for name in (f"pictures/step_{step:07}.png", "reconstructions.png"):
    report.draw(pictures, os.path.join(workdir, name), title=title)


def _report(run, recorder, state, workdir):
  """Writes the report; a failure does not spoil what was trained."""
  try:
    path = os.path.join(workdir, "report.html")
    page.write(material.of_run(run, workdir, state), path)
  except Exception as error:  # Whatever it is, all else is written.
    cause = f"{type(error).__name__}: {error}".splitlines()[0]
    recorder.say(
        f"WARNING: report.html could not be made ({cause}); make it with"
        f" python -m jssl.report --workdir={shlex.quote(workdir)}"
    )


def _due(run, step, count, section):
  """Whether an event is due after the call of so many steps to this step."""
  epochs = run.config[section].every_epochs
  every = max(1, round(epochs * run.steps_per_epoch))
  return step == run.total_steps or step % every < count


def _save(checkpoints, recorder, step, state):
  """Saves in the background; returns the step, or None if that failed."""
  try:
    checkpoints.save(step, state)
    return step
  except NotSaved as error:
    recorder.say(f"WARNING: {error}")


def _settle(config, workdir, *, resuming):
  """Writes the config, unless the run there is of another model or order."""
  if resuming:
    changed = [
        f"  config.{key}: {old!r} there, {new!r} now"
        for key, old, new in configs.difference(configs.load(workdir), config)
        if not key.startswith(_FREE)
    ]
    if changed:
      raise ValueError(
          f"{workdir} holds a run of another model or order of the data:\n"
          + "\n".join(changed)
          + "\nSet them back to go on with it, or give another --workdir."
      )
  if jax.process_index() == 0:
    configs.save(config, workdir)


def _greet(run, recorder, *, resuming, step):
  """Tells what is about to happen, and which pictures were left out."""
  config, train, test = run.config, run.train, run.test
  recorder.say(
      f"{config.method.name} of {config.net.name} on {config.data.name}:"
      f" {run.feed.size:,} images to train on"
      f"{', streamed' if run.feed.streamed else ''}; {len(test.image):,} held"
      f" out; {jax.device_count()} x {jax.devices()[0].device_kind}"
  )
  recorder.left_out(list(dict.fromkeys(train.skipped + test.skipped)))
  if resuming and step < run.total_steps:
    recorder.say(f"going on from step {step} of {run.total_steps}")
  elif resuming:
    recorder.say(f"trained to its end before, step {step}; judging it again")


@contextlib.contextmanager
def _sigterm() -> Iterator[threading.Event]:
  """Yields an event that SIGTERM sets, instead of ending the process."""
  event = threading.Event()
  # Python allows handlers in the main thread only, and processes that train
  # together would stop at different steps.
  alone = jax.process_count() == 1
  if not alone or threading.current_thread() is not threading.main_thread():
    yield event
    return
  previous = signal.signal(signal.SIGTERM, lambda *_: event.set())
  try:
    yield event
  finally:
    signal.signal(signal.SIGTERM, previous)
