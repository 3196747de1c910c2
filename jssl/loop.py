"""The training loop: everything around the compiled steps."""

from collections.abc import Callable, Iterator
import contextlib
import functools
import os
import shlex
import sys
import tempfile
from typing import Any, NamedTuple

import jax

from jssl import experiment, files, preemption, progress, report
from jssl.checkpoint import Checkpoints, NotSaved
from jssl.config import changes, ConfigDict, load_config, save_config
from jssl.data import labels_of
from jssl.evals import quality, summary
from jssl.evals.features import compute_for_scores, Features
from jssl.evals.scores import choose_k, MOST_NEIGHBOURS, quick
from jssl.experiment import Experiment
from jssl.recorder import Diverged, Recorder, Watch
from jssl.report import curves, figures, views
from jssl.step import all_finite, TrainState


def train(
    config: ConfigDict, workdir: str, *, watch: Watch | None = None
) -> dict[str, Any] | None:
  """Trains a method, or resumes its training, and evaluates the encoder.

  Args:
    config: The config, see `jssl.config.base`.
    workdir: The run's folder. If it holds a checkpoint, training resumes from
      there and ends exactly as if it had never stopped.
    watch: Called with all rows of metrics whenever there is a new one, and with
      the rows of the checkpointed run when it is resumed, such as
      `jssl.report.curves.live()` in a notebook.

  Returns:
    The content of `WORKDIR/summary.json` ({} in all but the first of several
    processes); None if SIGTERM asked to stop before the end.

  Raises:
    ValueError: If something in the config is wrong, or differs from the run
      to be resumed in the model or the order of the data, or asks for fewer
      steps than were taken.
    OSError: If the data cannot be found, or the folder cannot be written or is
      used by another run.
    Diverged: If loss or gradient are not finite for many steps in a row; the
      checkpoints are intact.
    preemption.Stopped: If Ctrl-C asked to stop, in the same way as SIGTERM:
      after saving, with what was saved as its message. It is a
      `KeyboardInterrupt`; a second Ctrl-C raises a plain one at once.
  """
  with preemption.stop_request() as stop:
    stop.outcome = f"before training began; {workdir} is unchanged"
    try:
      return _train(config, workdir, watch, stop)
    except preemption.Left:
      cause = "Ctrl-C" if stop.interrupted else "SIGTERM"
      message = f"stopped by {cause} {stop.outcome}"
    if stop.interrupted:
      raise preemption.Stopped(message)
    if jax.process_index() == 0:
      print(message, file=sys.stderr, flush=True)
    return None


def _train(config, workdir, watch, stop):
  """Trains, and keeps `stop.outcome` up to date, should a stop be requested."""
  with stop.interruptible(), progress.stage(f"loading {config.data.name}"):
    exp = experiment.make(config)
  with _exclusive(workdir):
    checkpoints = Checkpoints(workdir, keep=config.checkpoint.keep)
    with contextlib.closing(checkpoints):
      recorder, state, features = _train_to_end(
          exp, checkpoints, workdir, watch, stop
      )
    if jax.process_index() > 0:
      return {}
    with stop.interruptible():
      return _finish(exp, recorder, state, features, workdir, stop)


def _train_to_end(exp, checkpoints, workdir, watch, stop):
  """Trains all remaining steps; returns recorder, state and its features."""
  with stop.interruptible(), progress.stage("initializing the parameters"):
    state, before = _initialize(exp, checkpoints, workdir)
  first = int(state.step)
  if before is None:
    _save_config(exp, workdir)
    stop.outcome = (
        "before the first step, so no checkpoint was saved; the same command"
        " starts again"
    )
  else:
    # The old config is valid until a step was taken and saved.
    stop.outcome = (
        "before a new step was taken; the same command resumes from the"
        f" checkpoint of step {first}"
    )
  recorder = Recorder(exp, workdir, step=first, watch=watch)
  with contextlib.closing(recorder):
    _log_start(exp, recorder, checkpoints, before, first)
    step, state, features = run_steps(
        exp,
        experiment.make_call(exp),
        recorder,
        checkpoints,
        state,
        workdir=workdir,
        stop=stop,
    )
  if step > first:
    stop.outcome = (
        f"and saved at step {step}; the same command resumes from there"
    )
  if step < exp.total_steps:
    raise preemption.Left
  stop.outcome = (
      f"during evaluation; training is complete and saved at step {step}, and"
      " the same command evaluates it"
  )
  return recorder, state, features


def _initialize(exp, checkpoints, workdir):
  """Makes the first state, or restores the newest.

  Returns:
    The state; and if it was restored, the config that it was trained with, else
    None.
  """
  state = experiment.initial_state(exp)
  if checkpoints.latest is None:
    return state, None
  before = load_config(workdir)
  changes.check_same(before, exp.config, workdir)
  state = checkpoints.restore(state)
  changes.check_steps(
      before,
      exp.config,
      workdir,
      step=int(state.step),
      steps_per_epoch=exp.steps_per_epoch,
  )
  return state, before


def run_steps(
    exp: Experiment,
    call: Callable[..., tuple[TrainState, Any]],
    recorder: Recorder,
    checkpoints: Checkpoints,
    state: TrainState,
    *,
    workdir: str,
    stop: preemption.StopRequest | None = None,
) -> tuple[int, TrainState, Features | None]:
  """Trains to the end, or until a requested stop and a last checkpoint.

  Args:
    exp: The experiment.
    call: The compiled steps, see `jssl.experiment.make_call`.
    recorder: Records metrics.
    checkpoints: Saves states.
    state: The state to start from; it is donated.
    workdir: The run's folder.
    stop: The request to stop; None if there is none.

  Returns:
    The number of steps taken, not all if a stop was requested; the last state,
    which cannot be read if that was before the first step, since its buffers
    were donated; and its features if it was evaluated here, else None.
  """
  stop = stop or preemption.StopRequest()
  step = saved = int(state.step)
  features = None
  resident = exp.pipeline.resident()
  evaluate = _make_evaluate(exp, recorder, workdir, stop)
  due_after = _make_due_after(exp)
  save = functools.partial(_save, exp, checkpoints, workdir)
  compiled = False
  batches = exp.pipeline.batches(step, exp.total_steps, exp.steps_per_call)
  with contextlib.closing(batches):
    if due_after(step, exp.steps_per_call).evaluate and not _evaluated(
        recorder, step
    ):
      features = evaluate(step, state)
    for batch in batches:
      take = functools.partial(call, state, resident, batch.inputs)
      result = take() if compiled else _compile(take, recorder, stop)
      if result is None:
        break
      state, metrics = result
      step += batch.count
      recorder.add(metrics, batch.count)
      recorder.log_replaced(batch.replaced, batch.notes)
      if not compiled:
        recorder.start_clock()
        compiled = True
      due = due_after(step, batch.count)
      if any(due):
        recorder.flush(step)
      if due.evaluate:
        features = evaluate(step, state)
      # While steps are skipped, the state is suspect.
      if due.save and not recorder.skipped_in_a_row:
        try:
          save(step, state)
          saved = step
        except NotSaved as error:
          recorder.log(f"WARNING: {error}")
      if stop.requested():
        break
    if step > saved:
      recorder.flush(step)
      save(step, state)
  checkpoints.wait()
  return step, state, features


class _Due(NamedTuple):
  """What is due after a call."""

  log: bool
  evaluate: bool
  save: bool


def _make_due_after(exp):
  """Makes `(step, count) -> _Due`, for a call whose last step is `step`.

  Something is due if an interval ended in one of the call's `count` steps, and
  after the last step of all; before the first step, nothing is.
  """
  epoch = exp.steps_per_epoch
  intervals = dict(
      log=min(exp.config.log.every_steps, epoch),  # A row per epoch at least.
      evaluate=max(1, round(exp.config.eval.every_epochs * epoch)),
      save=max(1, round(exp.config.checkpoint.every_epochs * epoch)),
  )

  def due_after(step, count):
    last = step == exp.total_steps
    return _Due(**{
        name: step > 0 and (last or step % every < count)
        for name, every in intervals.items()
    })

  return due_after


def _evaluated(recorder, step):
  """Whether the stopped run had evaluated its last step."""
  return any("rank" in row for row in recorder.rows if row["step"] == step)


def _compile(take, recorder, stop):
  """Takes the first steps; None if a stop was requested before their end."""
  with recorder.stage("compiling"):
    return stop.unless(lambda: jax.block_until_ready(take()))


def _save(exp, checkpoints, workdir, step, state):
  """Saves a state in the background, and its config; raises Diverged."""
  if not all_finite((state.params, state.carried, state.opt_state)):
    raise Diverged(
        f"The parameters are not finite after step {step}, so they were not"
        " saved. Earlier checkpoints are intact. Lower"
        " config.optimizer.learning_rate, or set config.optimizer.clip_norm,"
        " and run the same command again."
    )
  checkpoints.save(step, state)
  _save_config(exp, workdir)


def _save_config(exp, workdir):
  """Writes the config, in the first of several processes."""
  if jax.process_index() == 0:
    save_config(exp.config, workdir)


def compute_features(exp: Experiment, state: TrainState) -> Features:
  """Computes features of test images and, if both have labels, training ones.

  Args:
    exp: The experiment.
    state: The encoder's state.
  """
  return compute_for_scores(experiment.encoder(exp, state), exp.train, exp.test)


def _make_evaluate(exp, recorder, workdir, stop):
  """Makes `(step, state) -> features`, a quick evaluation while training.

  It returns None for all states except the last, whose features are needed
  again, in all but the first process, and if a stop was requested.
  """
  reconstruct = None
  if exp.method.pictures:
    reconstruct = views.make_reconstruct(exp.method, exp.test)

  def measure(step, state):
    features = compute_features(exp, state)
    scores = quick(features, exp.train, exp.test, exp.config.eval)
    if reconstruct:
      pictures = jax.device_get(reconstruct(state.params, state.carried))
      try:
        _draw(exp, pictures, step, workdir)
      except OSError as error:  # A full disk is no reason to stop.
        recorder.log(f"WARNING: pictures could not be written: {error}")
    return features, scores

  def evaluate(step, state):
    if jax.process_index():
      return None
    epoch = step / exp.steps_per_epoch
    with recorder.stage(f"evaluating after epoch {epoch:.4g}"):
      result = stop.unless(lambda: measure(step, state))
    if result is None:
      return None  # The resumed run evaluates it.
    features, scores = result
    recorder.evaluation(step, scores)
    return features if step == exp.total_steps else None

  return evaluate


def _draw(exp, pictures, step, workdir):
  """Writes reconstructions twice: by the step's name, and as the newest."""
  config, epoch = exp.config, step / exp.steps_per_epoch
  title = f"{config.method.name} on {config.data.name}, epoch {epoch:g}"
  os.makedirs(os.path.join(workdir, "pictures"), exist_ok=True)
  for name in (f"pictures/step_{step:07}.png", "reconstructions.png"):
    path = os.path.join(workdir, name)
    figures.reconstruction_grid(pictures, path, title=title)


def _finish(exp, recorder, state, features, workdir, stop):
  """Evaluates the encoder, and writes summary, curves and report."""
  encoder, rows = experiment.encoder(exp, state), recorder.rows
  if features is None:
    with progress.stage("computing features"):
      features = compute_for_scores(encoder, exp.train, exp.test)
  result = summary.write(
      encoder, workdir, exp.train, exp.test, rows, features=features
  )
  save_config(exp.config, workdir)
  stop.outcome = (
      "while the report was written; training is complete, summary.json is"
      " written, and the same command writes the rest"
  )
  writers = {
      "curves.png": lambda path: curves.draw(rows, path),
      "report.html": lambda path: report.write(
          report.gather(encoder, workdir, exp.train, exp.test, features), path
      ),
  }
  for name, write in writers.items():
    try:
      with progress.stage(f"writing {name}"):
        write(os.path.join(workdir, name))
    except Exception as error:  # The other files are still written.
      cause = f"{type(error).__name__}: {error}".splitlines()[0]
      recorder.log(
          f"WARNING: {name} could not be made ({cause}); the report can be made"
          f" again with python -m jssl.report --workdir={shlex.quote(workdir)}"
      )
  return result


def _log_start(exp, recorder, checkpoints, before, step):
  """Logs what is trained, which pictures are skipped, and what changed."""
  for line in checkpoints.unreadable:
    recorder.log(f"WARNING: {line}")
  config, train, test = exp.config, exp.train, exp.test
  streamed = ", streamed" if exp.pipeline.streamed else ""
  recorder.log(
      f"{config.method.name} of {config.net.name} on {config.data.name}:"
      f" {exp.pipeline.size:,} images to train on{streamed};"
      f" {len(test.image):,} held out; {jax.device_count()} x"
      f" {jax.devices()[0].device_kind}"
  )
  if len(test.image) < quality.ENOUGH_IMAGES:
    recorder.log(
        f"WARNING: {len(test.image)} held-out images are too few to evaluate;"
        " scores on them are not reliable"
    )
  _log_neighbours(exp, recorder)
  recorder.log_skipped(list(dict.fromkeys(train.skipped + test.skipped)))
  for note in dict.fromkeys(train.notes + test.notes):
    recorder.log(f"WARNING: {note}")
  if before is None:
    return
  if step == exp.total_steps:
    recorder.log(f"already trained to the end, step {step}; evaluating again")
  else:
    recorder.log(f"resuming from step {step} of {exp.total_steps}")
  for line in changes.describe(
      before, config, step=step, steps_per_epoch=exp.steps_per_epoch
  ):
    recorder.log(line)


def _log_neighbours(exp, recorder):
  """Logs the number of neighbours of kNN if small classes lower it."""
  known = labels_of(exp.train)[exp.train.labelled()]
  if exp.config.eval.k or not len(known) or not len(exp.test.labelled()):
    return
  k = choose_k(0, known)
  if k < MOST_NEIGHBOURS:
    s = "s" if k > 1 else ""
    recorder.log(
        f"kNN uses {k} neighbour{s}, since the smallest class has {k} training"
        f" image{s}; config.eval.k sets another number"
    )


@contextlib.contextmanager
def _exclusive(workdir: str) -> Iterator[None]:
  """Locks the folder against other runs; makes it if it is missing."""
  try:
    os.makedirs(workdir, exist_ok=True)
    tempfile.TemporaryFile(dir=workdir).close()
  except OSError as error:
    raise OSError(
        f"{workdir} cannot be written ({error.strerror}): fix that, or give"
        " another --workdir."
    ) from error
  if jax.process_index():
    yield
    return
  busy = (
      f"{workdir} is used by another run: wait until it ends, or give another"
      " --workdir."
  )
  with files.exclusive(os.path.join(workdir, "run.lock"), busy=busy):
    yield
