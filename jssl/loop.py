"""The training loop: everything around the compiled step."""

from collections.abc import Callable, Iterator
import contextlib
import os
import shlex
import tempfile
from typing import Any

import jax

from jssl import config as configs
from jssl import lock
from jssl import preemption
from jssl import run as runs
from jssl import summary
from jssl.checkpoint import Checkpoints
from jssl.checkpoint import NotSaved
from jssl.config import ConfigDict
from jssl.recorder import Diverged
from jssl.recorder import Recorder
from jssl.recorder import Watch
from jssl.report import curves
from jssl.report import material
from jssl.report import page
from jssl.report import pictures as report
from jssl.run import Run
from jssl.step import all_finite
from jssl.step import TrainState

# What may change when a run is resumed: neither the model nor the order of the
# data depends on it.
# Held-out images, below which every score is a matter of luck.
_FEW = 10
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
    "max_skipped",
    "optimizer.learning_rate",
    "optimizer.schedule.",
    "optimizer.weight_decay",
    "precision",
    "steps_per_dispatch",
)


def train(
    config: ConfigDict, workdir: str, *, watch: Watch | None = None
) -> dict[str, Any] | None:
  """Trains a method, or goes on training it, and judges the encoder.

  Args:
    config: See `jssl.config.base`.
    workdir: The run's folder. If it holds a checkpoint, training goes on from
      there and ends exactly as if it had never stopped.
    watch: Called with all rows of metrics whenever there is a new one, and with
      those of before where a run goes on, such as
      `jssl.report.curves.live()` in a notebook.

  Returns:
    What `WORKDIR/summary.json` holds ({} in all but the first of several
    processes); None if SIGTERM asked to stop before the end, after saving.

  Raises:
    ValueError: If something in the config is wrong, or differs from the run
      to be resumed in the model or the order of the data.
    OSError: If the data cannot be found, or the folder cannot be written or is
      used by another run.
    Diverged: If loss or gradient are not finite for many steps in a row; what
      was saved is intact.
  """
  run = runs.prepare(config)
  with _own(workdir):
    checkpoints = Checkpoints(workdir, keep=config.checkpoint.keep)
    with contextlib.closing(checkpoints):
      resuming = checkpoints.latest is not None
      state = runs.initial_state(run)
      if resuming:
        _check_same(run.config, workdir)
        state = checkpoints.restore(state)
      if jax.process_index() == 0:
        configs.save(run.config, workdir)
      recorder = Recorder(run, workdir, step=int(state.step), watch=watch)
      with contextlib.closing(recorder):
        _greet(run, recorder, checkpoints, resuming=resuming, state=state)
        state, stopped = run_steps(
            run,
            runs.make_dispatch(run),
            recorder,
            checkpoints,
            state,
            workdir=workdir,
        )
        if stopped:
          recorder.say(
              f"stopped by SIGTERM and saved at step {int(state.step)}; the"
              " same command goes on from there"
          )
          return None
    if jax.process_index() > 0:
      return {}
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
) -> tuple[TrainState, bool]:
  """Trains to the end, or until SIGTERM and a last checkpoint.

  Args:
    run: The run.
    dispatch: Its compiled steps, see `jssl.run.make_dispatch`.
    recorder: Where metrics go.
    checkpoints: Where states go.
    state: The state to go on from; it is donated.
    workdir: Where pictures go.

  Returns:
    The last state, and whether SIGTERM asked to stop.
  """
  step = saved = int(state.step)
  held = run.feed.hold()
  look = _looker(run, recorder, workdir)
  compiling, stopped = True, False
  calls = run.feed.calls(step, run.total_steps, run.steps_per_dispatch)
  with preemption.notice() as notice, contextlib.closing(calls):
    if step and _due(run, step, run.steps_per_dispatch, "eval"):
      look(notice, step, state)  # Unless it was done before.
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
      if _due(run, step, count, "eval"):
        look(notice, step, state)
      if _due(run, step, count, "checkpoint"):
        recorder.flush(step)
        # Among steps that change nothing, what is there is suspect.
        if not recorder.skipped_in_a_row:
          saved = _save(checkpoints, recorder, step, state) or saved
      stopped = notice.came()
      if stopped:
        break
    if step > saved:
      recorder.flush(step)
      checkpoints.save(step, _finite(state))
  checkpoints.wait()
  return state, stopped


def _looker(run, recorder, workdir):
  """Makes the function that evaluates, in the first process."""
  paint = runs.make_pictures(run) if run.method.pictures else None
  done = {row["step"] for row in recorder.rows if "rank" in row}

  def look(notice, step, state):
    recorder.flush(step)
    if jax.process_index() or step in done:
      return

    def evaluate():
      signs = runs.look(run, runs.encoder_of(run, state))
      if paint:
        _draw(run, recorder, paint(state), workdir, step)
      return signs

    signs = notice.unless(evaluate)
    if signs is not None:  # Else the resumed run does it.
      recorder.evaluation(step, signs)

  return look


def _draw(run, recorder, pictures, workdir, step):
  """Writes the pictures of this step, and the newest under one name."""
  epoch = step / run.steps_per_epoch
  title = f"{run.config.method.name} on {run.config.data.name}, epoch {epoch:g}"
  pictures = jax.device_get(pictures)
  try:
    os.makedirs(os.path.join(workdir, "pictures"), exist_ok=True)
    for name in (f"pictures/step_{step:07}.png", "reconstructions.png"):
      report.draw(pictures, os.path.join(workdir, name), title=title)
  except OSError as error:  # A full disk is no reason to stop.
    recorder.say(f"WARNING: pictures could not be written: {error}")


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
    checkpoints.save(step, _finite(state))
    return step
  except NotSaved as error:
    recorder.say(f"WARNING: {error}")


def _finite(state):
  """Returns the state if there is sense in saving it."""
  if not all_finite((state.params, state.carried, state.opt_state)):
    raise Diverged(
        f"The parameters are not finite after step {int(state.step)}, so they"
        " were not saved. Checkpoints from before are intact. Lower"
        " config.optimizer.learning_rate, or set config.optimizer.clip_norm,"
        " and run the same command again."
    )
  return state


def _check_same(config, workdir):
  """Refuses to resume a run of another model or order of the data."""
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


def _greet(run, recorder, checkpoints, *, resuming, state):
  """Tells what is about to happen, and which pictures were left out."""
  step = int(state.step)
  for line in checkpoints.unreadable:
    recorder.say(f"WARNING: {line}")
  config, train, test = run.config, run.train, run.test
  recorder.say(
      f"{config.method.name} of {config.net.name} on {config.data.name}:"
      f" {run.feed.size:,} images to train on"
      f"{', streamed' if run.feed.streamed else ''}; {len(test.image):,} held"
      f" out; {jax.device_count()} x {jax.devices()[0].device_kind}"
  )
  if len(test.image) < _FEW:
    recorder.say(
        f"WARNING: {len(test.image)} held-out images are too few to judge by;"
        " scores say little"
    )
  recorder.left_out(list(dict.fromkeys(train.skipped + test.skipped)))
  for note in dict.fromkeys(train.notes + test.notes):
    recorder.say(f"WARNING: {note}")
  if resuming and step < run.total_steps:
    recorder.say(f"going on from step {step} of {run.total_steps}")
  elif resuming:
    recorder.say(f"trained to its end before, step {step}; judging it again")


@contextlib.contextmanager
def _own(workdir: str) -> Iterator[None]:
  """Keeps other runs out of the folder; makes it if need be."""
  try:
    os.makedirs(workdir, exist_ok=True)
    tempfile.TemporaryFile(dir=workdir).close()
  except OSError as error:
    raise OSError(
        f"Nothing can be written in {workdir} ({error.strerror}): mend that, or"
        " give another --workdir."
    ) from error
  if jax.process_index():
    yield
    return
  busy = (
      f"{workdir} is used by another run that is still going on: wait for its"
      " end, or give another --workdir."
  )
  with lock.exclusive(os.path.join(workdir, "run.lock"), busy=busy):
    yield
