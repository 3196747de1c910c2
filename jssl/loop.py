"""The training loop: everything around the compiled step."""

from collections.abc import Callable, Iterator
import contextlib
import math
import os
import shlex
import sys
import tempfile
from typing import Any

import jax

from jssl import build
from jssl import config as configs
from jssl import files
from jssl import preemption
from jssl import progress
from jssl import report
from jssl import run as runs
from jssl.checkpoint import Checkpoints
from jssl.checkpoint import NotSaved
from jssl.config import ConfigDict
from jssl.evals import summary
from jssl.recorder import Diverged
from jssl.recorder import Recorder
from jssl.recorder import Watch
from jssl.report import curves
from jssl.report import figures
from jssl.report import views
from jssl.run import Run
from jssl.step import all_finite
from jssl.step import TrainState

# Held-out images, below which every score is a matter of luck.
_FEW = 10
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
    "max_skipped",
    "optimizer.learning_rate",
    "optimizer.schedule.",
    "optimizer.weight_decay",
    "precision",
    "steps_per_dispatch",
)
# Of these, what decides how the parameters are trained.
_TRAINING = ("optimizer.", "precision")


def train(
    config: ConfigDict, workdir: str, *, watch: Watch | None = None
) -> dict[str, Any] | None:
  """Trains a method, or resumes its training, and evaluates the encoder.

  Args:
    config: See `jssl.config.base`.
    workdir: The run's folder. If it holds a checkpoint, training resumes from
      there and ends exactly as if it had never stopped.
    watch: Called with all rows of metrics whenever there is a new one, and with
      those of before where a run is resumed, such as
      `jssl.report.curves.live()` in a notebook.

  Returns:
    What `WORKDIR/summary.json` holds ({} in all but the first of several
    processes); None if SIGTERM asked to stop before the end.

  Raises:
    ValueError: If something in the config is wrong, or differs from the run
      to be resumed in the model or the order of the data, or asks for fewer
      steps than were taken.
    OSError: If the data cannot be found, or the folder cannot be written or is
      used by another run.
    Diverged: If loss or gradient are not finite for many steps in a row; what
      was saved is intact.
    preemption.Stopped: If Ctrl-C asked to stop, in the same way as SIGTERM:
      after saving, with what is saved as its message. It is a
      `KeyboardInterrupt`; a second Ctrl-C raises a plain one at once.
  """
  with preemption.notice() as notice:
    notice.outcome = f"before training began; {workdir} is as it was"
    try:
      return _train(config, workdir, watch, notice)
    except preemption.Left:
      message = f"stopped by {notice.cause} {notice.outcome}"
    if notice.interrupted:
      raise preemption.Stopped(message)
    if jax.process_index() == 0:
      print(message, file=sys.stderr, flush=True)
    return None


def _train(config, workdir, watch, notice):
  """Trains; at any moment, the notice knows what a stop then leaves."""
  with notice.leaving(), progress.stage(f"loading {config.data.name}"):
    run = runs.prepare(config)
  with _own(workdir):
    checkpoints = Checkpoints(workdir, keep=config.checkpoint.keep)
    with contextlib.closing(checkpoints):
      resuming = checkpoints.latest is not None
      with notice.leaving(), progress.stage("initializing the parameters"):
        state = runs.initial_state(run)
        if resuming:
          before = configs.load(workdir)
          changed = _check_same(before, run.config, workdir)
          state = checkpoints.restore(state)
          _check_steps(run, before, changed, int(state.step), workdir)
      first = int(state.step)
      write_config = lambda: configs.save(run.config, workdir)
      if jax.process_index() > 0:
        write_config = lambda: None
      if resuming:
        # Until a step was taken and saved with it, the config of before holds.
        notice.outcome = (
            "before a new step was taken; the same command resumes from the"
            f" checkpoint of step {first}"
        )
      else:
        write_config()
        notice.outcome = (
            "before the first step, so no checkpoint was saved; the same"
            " command starts again"
        )
      recorder = Recorder(run, workdir, step=first, watch=watch)
      with contextlib.closing(recorder):
        _greet(run, recorder, checkpoints, resuming=resuming, step=first)
        if resuming and changed:
          _tell_changes(run, recorder, before, changed, first)
        state, step = run_steps(
            run,
            runs.make_dispatch(run),
            recorder,
            checkpoints,
            state,
            workdir=workdir,
            notice=notice,
            on_save=write_config,
        )
      if step > first:
        notice.outcome = (
            f"and saved at step {step}; the same command resumes from there"
        )
      if step < run.total_steps:
        raise preemption.Left
      notice.outcome = (
          f"at the evaluation; training is complete and saved at step {step},"
          " and the same command evaluates it"
      )
    if jax.process_index() > 0:
      return {}
    with notice.leaving():
      result = summary.write(
          runs.encoder_of(run, state),
          workdir,
          run.train,
          run.test,
          recorder.rows,
      )
      write_config()
      notice.outcome = (
          "while the report was written; training is complete, summary.json is"
          " written, and the same command makes the rest"
      )
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
    notice: preemption.Notice | None = None,
    on_save: Callable[[], None] = lambda: None,
) -> tuple[TrainState, int]:
  """Trains to the end, or until a request to stop and a last checkpoint.

  Args:
    run: The run.
    dispatch: Its compiled steps, see `jssl.run.make_dispatch`.
    recorder: Where metrics go.
    checkpoints: Where states go.
    state: The state to go on from; it is donated.
    workdir: Where pictures go.
    notice: Of a request to stop; None if there is none.
    on_save: Called when a checkpoint is being saved.

  Returns:
    The last state, and its step: less than the run's steps if a request to stop
    came. Before the first step of this call, the state is donated and gone.
  """
  notice = notice or preemption.Notice()
  step = saved = int(state.step)
  held = run.feed.hold()
  look = _looker(run, recorder, workdir)
  # At least a row per epoch.
  log_every = min(run.config.log.every_steps, run.steps_per_epoch)
  compiling = True
  calls = run.feed.calls(step, run.total_steps, run.steps_per_dispatch)
  with contextlib.closing(calls):
    if step and _due(run, step, run.steps_per_dispatch, "eval"):
      look(notice, step, state)  # Unless it was done before.
    for count, inputs, replaced, notes in calls:
      if compiling:
        done = _first(dispatch, recorder, notice, (state, held, inputs))
        if done is None:
          break
        state, metrics = done
      else:
        state, metrics = dispatch(state, held, inputs)
      step += count
      recorder.add(metrics, count)
      recorder.pictures(replaced, notes)
      if compiling:
        recorder.start_clock()
        compiling = False
      if step % log_every < count:
        recorder.flush(step)
      if _due(run, step, count, "eval"):
        look(notice, step, state)
      if _due(run, step, count, "checkpoint"):
        recorder.flush(step)
        # Among steps that change nothing, what is there is suspect.
        if not recorder.skipped_in_a_row:
          saved = _save(checkpoints, recorder, step, state, on_save) or saved
      if notice.came():
        break
    if step > saved:
      recorder.flush(step)
      checkpoints.save(step, _finite(state))
      on_save()
  checkpoints.wait()
  return state, step


def _first(dispatch, recorder, notice, arguments):
  """Compiles and makes the first call; None if a request to stop came."""
  with recorder.stage("compiling"):
    return notice.unless(lambda: jax.block_until_ready(dispatch(*arguments)))


def _looker(run, recorder, workdir):
  """Makes the function that evaluates, in the first process."""
  reconstruct = None
  if run.method.pictures:
    reconstruct = views.make_reconstruct(run.method, run.test)
  done = {row["step"] for row in recorder.rows if "rank" in row}

  def look(notice, step, state):
    recorder.flush(step)
    if jax.process_index() or step in done:
      return

    def evaluate():
      signs = runs.quick(run, runs.compute_features(run, state))
      if reconstruct:
        rows = reconstruct(state.params, state.carried)
        _draw(run, recorder, rows, workdir, step)
      return signs

    epoch = step / run.steps_per_epoch
    with recorder.stage(f"evaluating after epoch {epoch:.4g}"):
      signs = notice.unless(evaluate)
    if signs is not None:  # Else the resumed run does it.
      recorder.evaluation(step, signs)

  return look


def _draw(run, recorder, rows, workdir, step):
  """Writes the reconstructions of this step, and the newest under one name."""
  epoch = step / run.steps_per_epoch
  title = f"{run.config.method.name} on {run.config.data.name}, epoch {epoch:g}"
  try:
    os.makedirs(os.path.join(workdir, "pictures"), exist_ok=True)
    for name in (f"pictures/step_{step:07}.png", "reconstructions.png"):
      figures.reconstruction_grid(
          rows, os.path.join(workdir, name), title=title
      )
  except OSError as error:  # A full disk is no reason to stop.
    recorder.say(f"WARNING: pictures could not be written: {error}")


def _report(run, recorder, state, workdir):
  """Writes curves and report; a failure does not spoil what was trained."""
  for name, write in (
      ("curves.png", lambda path: curves.draw(recorder.rows, path)),
      (
          "report.html",
          lambda path: report.write(
              report.gather(
                  runs.encoder_of(run, state), workdir, run.train, run.test
              ),
              path,
          ),
      ),
  ):
    try:
      with recorder.stage(f"writing {name}"):
        write(os.path.join(workdir, name))
    except Exception as error:  # Whatever it is, all else is written.
      cause = f"{type(error).__name__}: {error}".splitlines()[0]
      recorder.say(
          f"WARNING: {name} could not be made ({cause}); the report can be made"
          f" again with python -m jssl.report --workdir={shlex.quote(workdir)}"
      )


def _due(run, step, count, section):
  """Whether an event is due after the call of so many steps to this step."""
  epochs = run.config[section].every_epochs
  every = max(1, round(epochs * run.steps_per_epoch))
  return step == run.total_steps or step % every < count


def _save(checkpoints, recorder, step, state, on_save):
  """Saves in the background; returns the step, or None if that failed."""
  try:
    checkpoints.save(step, _finite(state))
    on_save()
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


def _check_same(before, config, workdir):
  """Refuses to resume a run of another model or order of the data.

  Returns:
    The entries that may differ and do: (key, old value, new value).
  """
  different = configs.difference(before, config)
  refused = [x for x in different if not x[0].startswith(_FREE)]
  if refused:
    # Which settings there are follows from these names, and from the version.
    renamed = any(key.split(".")[-1] == "name" for key, _, _ in refused)
    if any(map(_is_absent, refused)) and not renamed:
      cause = "was made by another version of jssl, with other settings"
      remedy = (
          "Finish it with that version, or start a new run in another"
          " --workdir. What is saved can still be evaluated and exported."
      )
    else:
      cause = "holds a run of another model or order of the data"
      remedy = "Set them back to resume it, or give another --workdir."
    lines = "".join(
        f"  config.{key}: {old!r} there, {new!r} now\n"
        for key, old, new in refused
    )
    raise ValueError(f"{workdir} {cause}:\n{lines}{remedy}")
  return different


def _is_absent(change):
  """Whether one of both configs lacks the entry."""
  return configs.ABSENT in change[1:]


def _check_steps(run, before, changed, step, workdir):
  """Refuses what would make a finished run's files say what never happened."""
  trained = step / run.steps_per_epoch
  done = f"{workdir} was trained for {trained:.6g} epochs ({step} steps)"
  if step > run.total_steps:
    raise ValueError(
        f"{done}, but config.epochs={run.config.epochs:g} asks for only"
        f" {run.total_steps} steps. Give config.epochs={before.epochs:g} as"
        " before, more to train longer, or another --workdir for a shorter"
        " training."
    )
  if step < run.total_steps:
    return
  whole = round(before.epochs * run.steps_per_epoch)
  if step < whole:
    raise ValueError(
        f"{done}, which is all of config.epochs={run.config.epochs:g}, but by"
        f" the schedules of {before.epochs:g} epochs ({whole} steps), so no"
        f" step would be taken with epochs {before.epochs:g} ->"
        f" {run.config.epochs:g}. Give config.epochs={before.epochs:g} as"
        " before to finish it, evaluate it as it is with python -m"
        " jssl.evaluate, or give another --workdir for a shorter training."
    )
  # Nobody can set back what another version did not have.
  unused = [
      x for x in changed if x[0].startswith(_TRAINING) and not _is_absent(x)
  ]
  if unused:
    raise ValueError(
        f"{done}, which is all of config.epochs={run.config.epochs:g}, so no"
        f" step would be taken with {_listed(unused)}. Set that back to"
        " evaluate the run as it is, raise config.epochs to train it further,"
        " or give another --workdir."
    )


def _listed(changed):
  """Says what changed: "epochs 6 -> 7, learning rate 0.03 -> 0.01"."""
  words = lambda key: key.removeprefix("optimizer.").replace(".", " ")
  return ", ".join(
      f"{words(key).replace('_', ' ')} {_short(old)} -> {_short(new)}"
      for key, old, new in changed
  )


def _short(value):
  return f"{value:g}" if isinstance(value, float) else str(value)


def _tell_changes(run, recorder, before, changed, step):
  """Says which settings changed, and what the schedule makes of them."""
  recorder.say(f"changed since then: {_listed(changed)}")
  if step == run.total_steps:
    return
  updates = step // run.config.accumulate_steps
  schedules = (
      build.schedule(config, steps_per_epoch=run.steps_per_epoch)
      for config in (before, run.config)
  )
  old, new = (float(schedule(updates)) for schedule in schedules)
  if not math.isclose(old, new, rel_tol=1e-3, abs_tol=1e-12):
    recorder.say(
        f"the schedule now runs over {run.config.epochs:g} epochs: at step"
        f" {step} the learning rate is {new:.3g}, where it was {old:.3g}"
    )


def _greet(run, recorder, checkpoints, *, resuming, step):
  """Tells what is about to happen, and which pictures were left out."""
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
        f"WARNING: {len(test.image)} held-out images are too few to evaluate;"
        " scores say little"
    )
  recorder.left_out(list(dict.fromkeys(train.skipped + test.skipped)))
  for note in dict.fromkeys(train.notes + test.notes):
    recorder.say(f"WARNING: {note}")
  if resuming and step < run.total_steps:
    recorder.say(f"going on from step {step} of {run.total_steps}")
  elif resuming:
    recorder.say(f"trained to its end before, step {step}; evaluating it again")


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
  with files.exclusive(os.path.join(workdir, "run.lock"), busy=busy):
    yield
