"""How long a compiled function takes."""

from collections.abc import Callable
import statistics
import time
from typing import Any

import jax


def seconds_of(function: Callable[[], Any]) -> float:
  """Returns the seconds of a call and all it started on the devices."""
  start = time.perf_counter()
  jax.block_until_ready(function())
  return time.perf_counter() - start


def median_seconds(
    function: Callable[[], Any], *, windows: int = 5, calls: int = 1
) -> float:
  """Returns seconds a call: the median of windows, each synchronised.

  Args:
    function: What is timed. It is called once before, to compile.
    windows: Number of windows.
    calls: Number of calls in a window.
  """
  jax.block_until_ready(function())
  seconds = []
  for _ in range(windows):
    start = time.perf_counter()
    for _ in range(calls):
      result = function()
    jax.block_until_ready(result)
    seconds.append((time.perf_counter() - start) / calls)
  return statistics.median(seconds)
