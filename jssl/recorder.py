"""What a run writes down and shows while it trains."""

from collections.abc import Callable
import contextlib
import time
from typing import Any

import jax
import numpy as np

from jssl.evals import quality
from jssl.metrics import MetricsLog
from jssl.progress import Progress
from jssl.run import Run

_NAMED = 20  # Pictures left out that are named on the screen.

Watch = Callable[[list[dict[str, Any]]], None]


class Diverged(RuntimeError):
  """The loss or the gradient is not finite, step after step."""


class Recorder:
  """Turns the device's metrics to rows, lines and warnings.

  Of several processes, only the first writes and shows them.

  Attributes:
    skipped_in_a_row: Number of the newest steps that changed nothing, as far as
      they were flushed.
  """

  def __init__(
      self, run: Run, workdir: str, *, step: int, watch: Watch | None = None
  ):
    """Goes on where an earlier run was.

    Args:
      run: The run.
      workdir: Its folder.
      step: Number of steps taken.
      watch: Called with all rows whenever there is a new one, and at once if
        there are some.
    """
    self._run = run
    self._watch = watch
    self._learning_rate = jax.jit(run.learning_rate)
    first = jax.process_index() == 0
    self._log = MetricsLog(workdir, step=step) if first else None
    self._progress = Progress(step=step, total=run.total_steps)
    # Metrics on the device, a dict of [S] a call.
    self._window: list[dict[str, jax.Array]] = []
    # What went wrong with pictures, to tell it once.
    self._told: set[str] = set()
    self._replaced = 0  # How often.
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

  def say(self, text: str) -> None:
    """Shows a line."""
    self._progress.say(text)

  def stage(self, text: str) -> contextlib.AbstractContextManager[None]:
    """Shows what is going on in a block, see `jssl.progress.stage`."""
    return self._progress.stage(text)

  def add(self, metrics: dict[str, jax.Array], count: int) -> None:
    """Takes the metrics of a call of `count` steps, without waiting."""
    self._window.append(metrics)
    self._images += count * self._run.config.batch_size
    self._progress.advance(count)

  def left_out(self, skipped: list[str]) -> None:
    """Tells which pictures are left out from the start.

    Args:
      skipped: "name: reason" of each.
    """
    if not skipped:
      return
    count = len(skipped)
    more = f"\n  and {count - _NAMED} more" if count > _NAMED else ""
    self.say(
        f"WARNING: {count} of the pictures left out:\n"
        + "\n".join(f"  {name}" for name in skipped[:_NAMED])
        + more
    )
    self._told.update(skipped)

  def pictures(self, replaced: list[str], notes: list[str]) -> None:
    """Tells of pictures that another one took the place of, each once.

    Args:
      replaced: "name: reason" of each.
      notes: Whatever else happened to them.
    """
    for reason in replaced:
      if reason not in self._told and len(self._told) < _NAMED:
        self.say(f"WARNING: the next picture takes the place of {reason}")
      self._told.add(reason)
    for note in notes:
      if note not in self._told:
        self.say(f"WARNING: {note}")
      self._told.add(note)
    self._replaced += len(replaced)

  def start_clock(self) -> None:
    """Leaves what was done before out of images a second."""
    self._images = 0
    self._clock = time.monotonic()

  def flush(self, step: int) -> None:
    """Writes the mean of what was added since the last row.

    Args:
      step: Number of steps taken by what was added.

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
    self._tell_skipped(skipped, metrics, step)
    row = {
        name: float(np.mean(values[~skipped]))
        for name, values in metrics.items()
        if np.isfinite(values[~skipped]).all() and not skipped.all()
    }
    row["skipped"] = int(skipped.sum())
    elapsed = max(time.monotonic() - self._clock, 1e-9)
    row["images_per_second"] = self._images / elapsed
    if self._run.feed.streamed:
      row["replaced"] = self._replaced
    row["learning_rate"] = float(self._learning_rate(step))
    self._write(step, row)
    if "loss" in row:
      self._progress.show(row, step=step, total=self._run.total_steps)
    self.start_clock()
    if self.skipped_in_a_row >= self._run.config.max_skipped:
      raise Diverged(self._diverged(metrics, step))

  def evaluation(self, step: int, signs: dict[str, float]) -> None:
    """Writes a row of an evaluation, and warns if it shows collapse."""
    wrong = [name for name, x in signs.items() if not np.isfinite(x)]
    signs = {name: x for name, x in signs.items() if name not in wrong}
    self._write(step, signs)
    loss: dict[str, Any] = next(
        (row for row in reversed(self.rows) if "loss" in row), {}
    )
    parts = [f"epoch {step / self._run.steps_per_epoch:.4g}"]
    if "loss" in loss:
      chance = loss.get("chance_loss")
      of = "" if chance is None else f" (chance {chance:.3f})"
      parts.append(f"loss {loss['loss']:.3f}{of}")
    if "knn" in signs:
      parts.append(f"kNN {signs['knn']:.3f}")
    if "rank" in signs:
      parts.append(f"rank {signs['rank']:.1f}")
    self.say("  ".join(parts))
    if wrong:
      self.say(f"WARNING: of the features, {', '.join(wrong)} is not finite")
    warning = quality.collapse_warning(
        {**loss, **signs}, images=len(self._run.test.image)
    )
    if warning:
      self.say(f"WARNING: {warning}")
    self.start_clock()

  def close(self) -> None:
    """Closes files and bar."""
    if self._log:
      self._log.close()
    self._progress.close()

  def _write(self, step, values):
    row = {
        "step": step,
        "epoch": step / self._run.steps_per_epoch,
        "seconds": time.monotonic() - self._start,
        **values,
    }
    if self._log:
      self._log.write(row)
      if self._watch:
        self._watch(self.rows)

  def _tell_skipped(self, skipped, metrics, step):
    """Counts the steps that changed nothing, and names the first of them."""
    for i, bad in enumerate(skipped):
      self.skipped_in_a_row = self.skipped_in_a_row + 1 if bad else 0
      self._skipped += int(bad)
      if bad and self._skipped <= _NAMED:
        self.say(
            f"WARNING: step {step - len(skipped) + i + 1} changed nothing,"
            f" because {_cause(metrics, i)}"
        )

  def _diverged(self, metrics, step):
    rate = float(self._learning_rate(step - 1))
    return (
        f"{_cause(metrics, -1)} at step {step}, with learning rate {rate:g};"
        f" {self.skipped_in_a_row} steps in a row changed nothing. Checkpoints"
        " from before are intact. Likely causes: too high a learning rate"
        " (lower config.optimizer.learning_rate), too short a warm-up (raise"
        " config.optimizer.schedule.warmup_epochs), gradients that explode (set"
        " config.optimizer.clip_norm), or bfloat16 (set"
        " config.precision=float32). Then run the same command again."
    )


def _cause(metrics, i):
  """Says what of a step is not finite."""
  for name in ("loss", "gradient_norm"):
    if not np.isfinite(metrics[name][i]):
      return f"{name} is {metrics[name][i]}"
  return "a statistic or key that it would carry on is not finite"
