"""SIGTERM: the notice that a machine is about to be taken away."""

from collections.abc import Callable, Iterator
import contextlib
import signal
import threading
import types
from typing import TypeVar

import jax
from jax.experimental import multihost_utils

T = TypeVar("T")


class Notice:
  """Whether the notice came.

  Where several processes train together, one of them is enough, and all learn
  of it after the same call.
  """

  def __init__(self):
    self._came = self._leaving = False
    self._calls = 0

  def came(self) -> bool:
    """Whether to save and stop now; to be asked after every call of steps."""
    if jax.process_count() == 1:
      return self._came
    self._calls += 1
    return multihost_utils.reached_preemption_sync_point(self._calls)

  def unless(self, function: Callable[[], T]) -> T | None:
    """Calls a function, which the notice ends at once (in a single process).

    Args:
      function: What may be left in the middle.

    Returns:
      Its result; None if the notice came before its end.
    """
    try:
      self._leaving = True
      result = None if self._came else function()
      self._leaving = False
      return result
    except _Left:
      return None
    finally:
      self._leaving = False

  def handle(self, number: int, frame: types.FrameType | None) -> None:
    """Takes the signal."""
    del number, frame
    self._came = True
    if self._leaving:
      self._leaving = False
      raise _Left


class _Left(BaseException):
  """A block was left."""


@contextlib.contextmanager
def notice() -> Iterator[Notice]:
  """Yields the notice, which SIGTERM brings instead of ending the process."""
  given = Notice()
  # JAX takes the signal if several processes train together, and Python allows
  # handlers in the main thread only.
  alone = jax.process_count() == 1
  if not alone or threading.current_thread() is not threading.main_thread():
    yield given
    return
  previous = signal.signal(signal.SIGTERM, given.handle)
  try:
    yield given
  finally:
    # None is a handler that Python did not set: JAX's, which only takes note.
    signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)
