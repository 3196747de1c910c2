"""Requests to stop: SIGTERM, sent before a machine is preempted, and Ctrl-C.

The first one lets training save and stop. A second Ctrl-C stops at once.
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

# A program that ends within these seconds does not print a message first.
_SECONDS_TO_STOP = 0.5


class Stopped(KeyboardInterrupt):
  """Ctrl-C stopped training cleanly; the message says what was saved."""


class Left(BaseException):
  """A block was left because a stop was requested."""


class StopRequest:
  """Whether a stop was requested.

  If several processes train together, a request to one of them is enough, and
  all learn of it after the same call.

  Attributes:
    outcome: What would be saved if training stopped now, for the message.
    interrupted: Whether the request was Ctrl-C, in this process, and not
      SIGTERM.
  """

  def __init__(
      self,
      *,
      on_interrupt: Callable[..., Any] = signal.default_int_handler,
  ):
    """Starts without a request.

    Args:
      on_interrupt: The handler of the second Ctrl-C.
    """
    self.outcome, self.interrupted = "", False
    self._requested = self._interruptible = False
    self._calls = 0
    self._on_interrupt = on_interrupt

  def requested(self) -> bool:
    """Whether to save and stop now; ask after every call of the steps."""
    if jax.process_count() == 1:
      return self._requested
    self._calls += 1
    return multihost_utils.reached_preemption_sync_point(self._calls)

  @contextlib.contextmanager
  def interruptible(self) -> Iterator[None]:
    """A block that a request ends at once (in a single process).

    Raises:
      Left: If a stop was requested before the end of the block.
    """
    # In this order, no request is missed between the check and the block.
    self._interruptible = True
    try:
      if self._requested:
        raise Left
      yield
    finally:
      self._interruptible = False

  def unless(self, function: Callable[[], T]) -> T | None:
    """Calls a function, which a request ends at once.

    Args:
      function: It may be left in the middle, see `interruptible`.

    Returns:
      Its result; None if a stop was requested before its end.
    """
    try:
      with self.interruptible():
        return function()
    except Left:
      return None

  def handle(self, number: int, frame: types.FrameType | None) -> None:
    """Handles a signal."""
    if number == signal.SIGINT:
      if self.interrupted or self._requested:
        self._on_interrupt(number, frame)
      self.interrupted = True
      if jax.process_count() > 1:
        # JAX passes this signal on to the others.
        os.kill(os.getpid(), signal.SIGTERM)
        return
    self._requested = True
    if self._interruptible:
      self._interruptible = False
      raise Left


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
  """Handles SIGTERM and Ctrl-C in a block, and yields the request.

  A second Ctrl-C does what the first would do outside the block: it raises
  `KeyboardInterrupt`.
  """
  # Python allows handlers in the main thread only.
  if threading.current_thread() is not threading.main_thread():
    yield StopRequest()
    return
  interrupt: Any = signal.getsignal(signal.SIGINT)
  request, numbers = StopRequest(on_interrupt=interrupt), []
  if callable(interrupt):  # Background jobs of a shell ignore it.
    numbers.append(signal.SIGINT)
  # JAX handles SIGTERM if several processes train together.
  if jax.process_count() == 1:
    numbers.append(signal.SIGTERM)
  previous = {x: signal.signal(x, request.handle) for x in numbers}
  try:
    yield request
  finally:
    for number, handler in previous.items():
      # None is a handler that Python did not set: JAX's, which only records it.
      signal.signal(number, handler or signal.SIG_DFL)


@contextlib.contextmanager
def quit_on_second_interrupt(
    write: Callable[[str], None], end: Callable[[], NoReturn]
) -> Iterator[None]:
  """Ends the program at the second Ctrl-C, whatever it is doing.

  Python's own handlers wait until a call into a library returns, and compiling
  may take minutes.

  Args:
    write: Called with a line for the user if the first one takes a while.
    end: Ends the program, from another thread.

  Yields:
    Nothing.
  """
  main = threading.current_thread() is threading.main_thread()
  if not main or not callable(signal.getsignal(signal.SIGINT)):
    yield
    return
  readable, writable = os.pipe()
  os.set_blocking(writable, False)
  before = signal.set_wakeup_fd(writable, warn_on_full_buffer=False)

  def interrupted():
    """Waits for Ctrl-C; returns False if the block ended before."""
    while number := os.read(readable, 1):
      if number[0] == signal.SIGINT:
        return True
    return False

  def listen():
    if interrupted():
      if not select.select([readable], [], [], _SECONDS_TO_STOP)[0]:
        write("stopping; press Ctrl-C once more to quit at once")
      if interrupted():
        end()
    os.close(readable)

  thread = threading.Thread(target=listen, daemon=True)
  thread.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(before)
    os.close(writable)  # Ends the thread.
    thread.join()
