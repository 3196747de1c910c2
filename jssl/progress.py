"""A progress bar on the screen, with lines above it."""

from collections.abc import Iterator
import contextlib
import os
import sys
import threading
import time
from typing import Any

import jax
import tqdm

# Without a terminal (a log file), a line per minute replaces the moving bar.
_SECONDS_BETWEEN_LINES = 60.0
# How often a bar moves while the program waits for something else.
_SECONDS_BETWEEN_REFRESHES = 1.0


@contextlib.contextmanager
def stage(text: str) -> Iterator[None]:
  """Shows what a block is doing, if it takes a while.

  On a terminal it is a line with a clock, which disappears at the end of the
  block; in a log file, one line. Only the first of several processes writes.

  Args:
    text: What it does, such as "evaluating (1 of 3: trained)".

  Yields:
    Nothing.
  """
  progress = Progress(step=0, total=None)
  with contextlib.closing(progress), progress.stage(text):
    yield


def _size() -> dict[str, Any]:
  """The size of the bar: that of the terminal, if it is known."""
  try:
    known = os.get_terminal_size(sys.stderr.fileno()).columns > 0
  except (OSError, ValueError):  # No terminal: a log file or a notebook.
    known = True
  return {"dynamic_ncols": True} if known else {"ncols": 80, "nrows": 20}


def _in_notebook() -> bool:
  """Whether this process is the kernel of a notebook."""
  ipython = sys.modules.get("IPython")  # A kernel has imported it.
  shell = ipython.get_ipython() if ipython else None
  # The package `ipykernel` alone is no sign: other tools import it, too.
  return getattr(shell, "kernel", None) is not None


class Progress:
  """A progress bar with the newest metrics, and lines above it.

  Only the first of several processes writes.
  """

  def __init__(self, *, step: int, total: int | None, unit: str = "step"):
    """Starts the bar.

    Args:
      step: Number of steps already taken.
      total: Number of steps in all; None for a clock alone, see `stage`.
      unit: What is counted.
    """
    self._unit = unit
    self._first = self._step = step
    self._quiet = jax.process_index() > 0
    self._terminal = sys.stderr.isatty() or _in_notebook()
    self._logged = self._start = time.monotonic()
    self._bar = tqdm.tqdm(
        initial=step,
        total=total,
        unit=unit,
        # A clock alone is of no use once it has stopped.
        leave=total is not None,
        delay=0 if total is not None else 1e-6,  # Until it has its text.
        **_size(),
        disable=self._quiet or not self._terminal,
        bar_format=(
            "{desc}: {elapsed}"
            if total is None
            else (
                "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}"
                " [{elapsed}<{remaining}{postfix}]"
            )
        ),
    )

  def advance(self, count: int) -> None:
    """Moves the bar by a number of steps."""
    self._step += count
    self._bar.update(count)

  def note(self, text: str) -> None:
    """Shows a text next to the bar; without a terminal, now and then."""
    self._bar.set_postfix_str(text, refresh=False)
    waited = time.monotonic() - self._logged
    if not self._terminal and waited >= _SECONDS_BETWEEN_LINES:
      pace = (time.monotonic() - self._start) / max(self._step - self._first, 1)
      minutes = (self._bar.total - self._step) * pace / 60
      self.log(
          f"{self._unit} {self._step}/{self._bar.total}, {minutes:.0f} min"
          f" left: {text}"
      )

  @contextlib.contextmanager
  def stage(self, text: str) -> Iterator[None]:
    """Shows what a block is doing that takes no steps.

    Args:
      text: What it does. On a terminal it is shown next to the bar, whose clock
        continues; in a log file it is a line.

    Yields:
      Nothing.
    """
    if not self._terminal:
      self.log(text)
      yield
      return
    before = self._bar.postfix
    if self._bar.total is None:
      self._bar.set_description_str(text)
    else:
      self._bar.set_postfix_str(text)
    ended = threading.Event()

    def refresh():
      while not ended.wait(_SECONDS_BETWEEN_REFRESHES):
        self._bar.refresh()

    thread = threading.Thread(target=refresh, daemon=True)
    thread.start()
    try:
      yield
    finally:
      ended.set()
      thread.join()
      self._bar.set_postfix_str(before or "", refresh=False)

  def log(self, text: str) -> None:
    """Logs a line, above the bar."""
    if not self._quiet:
      self._bar.write(text, file=sys.stderr)
      sys.stderr.flush()
    self._logged = time.monotonic()

  def close(self) -> None:
    """Removes the bar."""
    self._bar.close()
