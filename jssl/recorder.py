"""Records what happens while training: rows of metrics, lines, warnings."""

from collections.abc import Callable, Sequence
import contextlib
import json
import pathlib
import time
from typing import Any

import jax
import numpy as np

from jssl import files
from jssl.evals import quality
from jssl.experiment import Experiment
from jssl.progress import Progress

_NAMED = 20  # Skipped pictures that are named on the screen.

Watch = Callable[[list[dict[str, Any]]], None]


class Diverged(RuntimeError):
  """The loss or the gradient was not finite for too many steps in a row."""


class MetricsLog:
  """Rows of metrics, in a file of JSON lines and as TensorBoard events.

  A row is passed to the operating system before `write` returns, so it survives
  a killed process. A resumed run drops the rows after its checkpoint, which it
  is about to write again.

  Attributes:
    rows: All rows so far, dicts with "step".
  """

  def __init__(self, workdir: str, *, step: int):
    """Opens the log of a run.

    Args:
      workdir: The run's folder.
      step: Number of steps taken; later rows are dropped.
    """
    from tensorboardX import SummaryWriter  # Slow to import.

    self._path = pathlib.Path(workdir) / "metrics.jsonl"
    self.rows = [row for row in read_metrics(workdir) if row["step"] <= step]
    with files.atomic(self._path) as temporary:
      temporary.write_text("".join(map(_line, self.rows)))
    self._file = self._path.open("a")
    self._events = SummaryWriter(str(workdir), purge_step=step + 1)

  def write(self, row: dict[str, Any]) -> None:
    """Appends a row of finite numbers; "step" must be among them."""
    line = _line(row)
    try:
      self._file.write(line)
      self._file.flush()
    except OSError as error:
      raise OSError(
          f"{self._path} could not be written: {error}. Checkpoints are intact;"
          " free space, and run the same command again."
      ) from error
    self.rows.append(row)
    for name, value in row.items():
      if name != "step":
        self._events.add_scalar(name, value, row["step"])
    self._events.flush()

  def close(self) -> None:
    """Closes the files."""
    self._file.close()
    self._events.close()


def read_metrics(workdir: str) -> list[dict[str, Any]]:
  """Returns the rows of `WORKDIR/metrics.jsonl`, [] if there is none.

  An incomplete last line, which a killed process may leave, is ignored.
  """
  path = pathlib.Path(workdir) / "metrics.jsonl"
  if not path.exists():
    return []
  whole = path.read_text().rpartition("\n")[0]
  return [json.loads(line) for line in whole.splitlines()]


class Recorder:
  """Turns metrics on the device into rows, lines and warnings.

  Of several processes, only the first writes and shows them.

  Attributes:
    skipped_in_a_row: Number of the newest flushed steps that changed nothing.
  """

  def __init__(
      self,
      exp: Experiment,
      workdir: str,
      *,
      step: int,
      watch: Watch | None = None,
  ):
    """Starts recording, or continues the rows of a resumed run.

    Args:
      exp: The experiment.
      workdir: The run's folder.
      step: Number of steps taken.
      watch: Called with all rows whenever there is a new one, and at once if
        there are any.
    """
    self._exp = exp
    self._watch = watch
    self._learning_rate = jax.jit(exp.learning_rate)
    first = jax.process_index() == 0
    self._log = MetricsLog(workdir, step=step) if first else None
    self._progress = Progress(step=step, total=exp.total_steps)
    # Metrics on the device, a dict of [S] per call.
    self._window: list[dict[str, jax.Array]] = []
    # Problems of pictures that were logged, each once.
    self._logged: set[str] = set()
    self._replaced = 0  # Pictures that were replaced.
    self._skipped = 0  # Steps that changed nothing.
    self.skipped_in_a_row = 0
    self._images = 0  # Images since the clock was started.
    earlier = [row["seconds"] for row in self.rows]
    self._start = time.monotonic() - max(earlier, default=0.0)
    self._clock = time.monotonic()
    if watch and self.rows:
      watch(self.rows)

  @property
  def rows(self) -> list[dict[str, Any]]:
    """All rows written so far, those of an interrupted run included."""
    return self._log.rows if self._log else []

  def log(self, text: str) -> None:
    """Logs a line."""
    self._progress.log(text)

  def stage(self, text: str) -> contextlib.AbstractContextManager[None]:
    """Shows what a block does, see `jssl.progress.stage`."""
    return self._progress.stage(text)

  def add(self, metrics: dict[str, jax.Array], count: int) -> None:
    """Adds the metrics of a call of `count` steps, without waiting."""
    self._window.append(metrics)
    self._images += count * self._exp.config.batch_size
    self._progress.advance(count)

  def log_skipped(self, skipped: list[str]) -> None:
    """Logs which pictures are skipped from the start.

    Args:
      skipped: "name: reason" of each.
    """
    if not skipped:
      return
    count = len(skipped)
    pictures = "1 picture is" if count == 1 else f"{count} pictures are"
    more = f"\n  and {count - _NAMED} more" if count > _NAMED else ""
    self.log(
        f"WARNING: {pictures} skipped:\n"
        + "\n".join(f"  {name}" for name in skipped[:_NAMED])
        + more
    )
    self._logged.update(skipped)

  def log_replaced(self, replaced: Sequence[str], notes: Sequence[str]) -> None:
    """Logs pictures that were replaced by another one, each once.

    Args:
      replaced: "name: reason" of each.
      notes: What else the user should know about pictures.
    """
    for reason in replaced:
      if reason not in self._logged and len(self._logged) < _NAMED:
        self.log(f"WARNING: replaced by the next picture: {reason}")
      self._logged.add(reason)
    for note in notes:
      if note not in self._logged:
        self.log(f"WARNING: {note}")
      self._logged.add(note)
    self._replaced += len(replaced)

  def start_clock(self) -> None:
    """Excludes the time up to now from images per second."""
    self._images = 0
    self._clock = time.monotonic()

  def flush(self, step: int) -> None:
    """Writes the mean of the metrics added since the last row.

    Args:
      step: Number of steps taken, those of the added metrics included.

    Raises:
      Diverged: If too many steps in a row changed nothing, see
        `jssl.step.make_step`.
    """
    if not self._window:
      return
    calls = jax.device_get(self._window)
    self._window = []
    metrics = {
        name: np.concatenate([call[name] for call in calls])
        for name in calls[0]
    }
    skipped = metrics.pop("skipped") > 0
    self._log_skipped_steps(skipped, metrics, step)
    row = {
        name: float(np.mean(values[~skipped]))
        for name, values in metrics.items()
        if np.isfinite(values[~skipped]).all() and not skipped.all()
    }
    row["skipped"] = int(skipped.sum())
    elapsed = max(time.monotonic() - self._clock, 1e-9)
    row["images_per_second"] = self._images / elapsed
    if self._exp.pipeline.streamed:
      row["replaced"] = self._replaced
    row["learning_rate"] = float(self._learning_rate(step))
    self._write(step, row)
    if "loss" in row:
      text = f"{row['images_per_second']:,.0f} images/s, {_describe_loss(row)}"
      if "accuracy" in row:
        text += f", accuracy {row['accuracy']:.3f}"
      self._progress.note(text)
    self.start_clock()
    if self.skipped_in_a_row >= self._exp.config.max_skipped:
      raise Diverged(self._diverged(metrics, step))

  def evaluation(self, step: int, scores: dict[str, float]) -> None:
    """Writes a row of an evaluation, and warns if it shows collapse."""
    wrong = [name for name, x in scores.items() if not np.isfinite(x)]
    scores = {name: x for name, x in scores.items() if name not in wrong}
    self._write(step, scores)
    loss: dict[str, Any] = next(
        (row for row in reversed(self.rows) if "loss" in row), {}
    )
    parts = [f"epoch {step / self._exp.steps_per_epoch:.4g}"]
    if "loss" in loss:
      parts.append(_describe_loss(loss))
    if "knn" in scores:
      parts.append(f"kNN {scores['knn']:.3f}")
    if "rank" in scores:
      parts.append(f"rank {scores['rank']:.1f}")
    self.log("  ".join(parts))
    if wrong:
      self.log(f"WARNING: not finite for these features: {', '.join(wrong)}")
    # A net that has diverged needs no second warning.
    diverged = wrong or self.skipped_in_a_row
    known = loss if diverged else {**loss, **scores}
    warning = quality.collapse_warning(known, images=len(self._exp.test.image))
    if warning:
      self.log(f"WARNING: {warning}")
    self.start_clock()

  def close(self) -> None:
    """Closes files and bar."""
    if self._log:
      self._log.close()
    self._progress.close()

  def _write(self, step, values):
    row = {
        "step": step,
        "epoch": step / self._exp.steps_per_epoch,
        "seconds": time.monotonic() - self._start,
        **values,
    }
    if self._log:
      self._log.write(row)
      if self._watch:
        self._watch(self.rows)

  def _log_skipped_steps(self, skipped, metrics, step):
    """Counts the steps that changed nothing, and logs the first of them."""
    for i, bad in enumerate(skipped):
      self.skipped_in_a_row = self.skipped_in_a_row + 1 if bad else 0
      self._skipped += int(bad)
      if bad and self._skipped <= _NAMED:
        self.log(
            f"WARNING: step {step - len(skipped) + i + 1} changed nothing,"
            f" because {_cause(metrics, i)}"
        )

  def _diverged(self, metrics, step):
    learning_rate = float(self._learning_rate(step - 1))
    return (
        f"{_cause(metrics, -1)} at step {step}, with learning rate"
        f" {learning_rate:g}; {self.skipped_in_a_row} steps in a row changed"
        " nothing. Earlier checkpoints are intact. Likely causes: a learning"
        " rate that is too high (lower config.optimizer.learning_rate), a"
        " warm-up that is too short (raise"
        " config.optimizer.schedule.warmup_epochs), gradients that explode"
        " (set config.optimizer.clip_norm), or bfloat16 (set"
        " config.precision=float32). Then run the same command again."
    )


def _describe_loss(row):
  """Describes the loss of a row: "loss 2.105 (chance 2.303)"."""
  chance = f" (chance {row['chance_loss']:.3f})" if "chance_loss" in row else ""
  return f"loss {row['loss']:.3f}{chance}"


def _cause(metrics, i):
  """Names the value that is not finite in a step."""
  for name in ("loss", "gradient_norm"):
    if not np.isfinite(metrics[name][i]):
      return f"{name} is {metrics[name][i]}"
  return "a statistic or key that it would carry on is not finite"


def _line(row):
  return json.dumps(row, allow_nan=False) + "\n"
