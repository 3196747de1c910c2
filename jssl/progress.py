"""What a run shows on the screen."""

import sys
import time

import jax
import tqdm

# Without a terminal (a log file), a line this often instead of a moving bar.
_SECONDS_BETWEEN_LINES = 60.0


class Progress:
  """A progress bar with the newest metrics, and lines above it.

  Only the first of several processes writes.
  """

  def __init__(self, *, step: int, total: int, unit: str = "step"):
    """Starts the bar.

    Args:
      step: Number of steps already taken.
      total: Number of steps in all.
      unit: What is counted.
    """
    self._unit = unit
    self._quiet = jax.process_index() > 0
    self._terminal = sys.stderr.isatty() or "ipykernel" in sys.modules
    self._said = self._start = time.monotonic()
    self._first = step
    self._bar = tqdm.tqdm(
        initial=step,
        total=total,
        unit=unit,
        dynamic_ncols=True,
        disable=self._quiet or not self._terminal,
        bar_format=(
            "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}"
            " [{elapsed}<{remaining}{postfix}]"
        ),
    )

  def advance(self, count: int) -> None:
    """Moves the bar by a number of steps."""
    self._bar.update(count)

  def show(self, row: dict[str, float], *, step: int, total: int) -> None:
    """Shows a row of training metrics."""
    text = f"{row['images_per_second']:,.0f} images/s, loss {row['loss']:.3f}"
    if "chance_loss" in row:
      text += f" (chance {row['chance_loss']:.3f})"
    if "accuracy" in row:
      text += f", accuracy {row['accuracy']:.3f}"
    self.note(text, step=step, total=total)

  def note(self, text: str, *, step: int, total: int) -> None:
    """Shows a text beside the bar; without a terminal, now and then."""
    self._bar.set_postfix_str(text, refresh=False)
    waited = time.monotonic() - self._said
    if not self._terminal and waited >= _SECONDS_BETWEEN_LINES:
      steps = max(step - self._first, 1)
      left = (total - step) * (time.monotonic() - self._start) / steps
      self.say(f"{self._unit} {step}/{total}, {left / 60:.0f} min left: {text}")

  def say(self, text: str) -> None:
    """Writes a line above the bar."""
    if not self._quiet:
      self._bar.write(text, file=sys.stderr)
      sys.stderr.flush()
    self._said = time.monotonic()

  def close(self) -> None:
    """Removes the bar."""
    self._bar.close()
