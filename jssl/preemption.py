"""Requests to stop: SIGTERM, which comes before a machine is taken, and Ctrl-C.

The first one lets training save and stop. A second Ctrl-C is not waited with.
"""

from collections.abc import Callable, Iterator
import contextlib
import os
import select
import signal
import threading
import types
from typing import Any, NoReturn, TypeVar

import jax
from jax.experimental import multihost_utils

T = TypeVar("T")

# A program that ends so soon says nothing before.
_SECONDS_TO_STOP = 0.5


class Stopped(KeyboardInterrupt):
  """Ctrl-C stopped training in good order; the message says what is saved."""


class Left(BaseException):
  """A block was left because of the request."""


class Notice:
  """Whether a request to stop came.

  Where several processes train together, one of them is enough, and all learn
  of it after the same call.

  Attributes:
    outcome: What a stop at this moment leaves, for the message.
  """

  outcome = ""

  def __init__(
      self,
      *,
      on_interrupt: Callable[..., Any] = signal.default_int_handler,
  ):
    """Waits for the request.

    Args:
      on_interrupt: The handler of the second Ctrl-C.
    """
    self._came = self._leaving = self._interrupted = False
    self._calls = 0
    self._on_interrupt = on_interrupt

  @property
  def cause(self) -> str:
    """What a message calls the request."""
    return "Ctrl-C" if self._interrupted else "SIGTERM"

  @property
  def interrupted(self) -> bool:
    """Whether the request was Ctrl-C, in this process, and not SIGTERM."""
    return self._interrupted

  def came(self) -> bool:
    """Whether to save and stop now; to be asked after every call of steps."""
    if jax.process_count() == 1:
      return self._came
    self._calls += 1
    return multihost_utils.reached_preemption_sync_point(self._calls)

  @contextlib.contextmanager
  def leaving(self) -> Iterator[None]:
    """A block that the request ends at once (in a single process).

    Raises:
      Left: If the request came before the block's end.
    """
    # In this order, no request falls between the question and the block.
    self._leaving = True
    try:
      if self._came:
        raise Left
      yield
    finally:
      self._leaving = False

  def unless(self, function: Callable[[], T]) -> T | None:
    """Calls a function, which the request ends at once.

    Args:
      function: What may be left in the middle, see `leaving`.

    Returns:
      Its result; None if the request came before its end.
    """
    try:
      with self.leaving():
        return function()
    except Left:
      return None

  def handle(self, number: int, frame: types.FrameType | None) -> None:
    """Takes the signal."""
    if number == signal.SIGINT:
      if self._interrupted or self._came:
        self._on_interrupt(number, frame)
      self._interrupted = True
      if jax.process_count() > 1:
        # JAX tells the others of this signal.
        os.kill(os.getpid(), signal.SIGTERM)
        return
    self._came = True
    if self._leaving:
      self._leaving = False
      raise Left


@contextlib.contextmanager
def notice() -> Iterator[Notice]:
  """Yields the notice, which SIGTERM or Ctrl-C bring.

  A second Ctrl-C does what the first would do without the notice: it raises
  `KeyboardInterrupt`.
  """
  # Python allows handlers in the main thread only.
  if threading.current_thread() is not threading.main_thread():
    yield Notice()
    return
  numbers = []
  interrupt = signal.getsignal(signal.SIGINT)
  if callable(interrupt):  # Background jobs of a shell ignore it.
    given = Notice(on_interrupt=interrupt)
    numbers.append(signal.SIGINT)
  else:
    given = Notice()
  # JAX takes SIGTERM if several processes train together.
  if jax.process_count() == 1:
    numbers.append(signal.SIGTERM)
  previous = {x: signal.signal(x, given.handle) for x in numbers}
  try:
    yield given
  finally:
    for number, handler in previous.items():
      # None is a handler that Python did not set: JAX's, which only takes note.
      signal.signal(number, handler or signal.SIG_DFL)


@contextlib.contextmanager
def quits_at_the_second(
    say: Callable[[str], None], end: Callable[[], NoReturn]
) -> Iterator[None]:
  """Ends the program at the second Ctrl-C, whatever it is doing.

  Python's own handlers wait until a call into a library returns, and compiling
  may take minutes.

  Args:
    say: Called with a line for the user if the first one takes a while.
    end: Ends the program, from another thread.

  Yields:
    Nothing.
  """
  main = threading.current_thread() is threading.main_thread()
  if not main or not callable(signal.getsignal(signal.SIGINT)):
    yield
    return
  heard, told = os.pipe()
  os.set_blocking(told, False)
  before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)

  def interrupted():
    """Waits for Ctrl-C; returns False if the block ended before."""
    while number := os.read(heard, 1):
      if number[0] == signal.SIGINT:
        return True
    return False

  def listen():
    if interrupted():
      if not select.select([heard], [], [], _SECONDS_TO_STOP)[0]:
        say("stopping; press Ctrl-C once more to quit at once")
      if interrupted():
        end()
    os.close(heard)

  thread = threading.Thread(target=listen, daemon=True)
  thread.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(before)
    os.close(told)  # Ends the thread.
    thread.join()
