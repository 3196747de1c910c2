"""How long a compiled function takes, and how results are printed."""

from collections.abc import Callable, Mapping
import json
import statistics
import time
from typing import Any

import jax


def seconds_of(function: Callable[[], Any], *, calls: int = 1) -> float:
  """Returns the seconds per call, with all it started on the devices."""
  start = time.perf_counter()
  for _ in range(calls):
    result = function()
  jax.block_until_ready(result)
  return (time.perf_counter() - start) / calls


def median_seconds(
    function: Callable[[], Any], *, windows: int = 5, calls: int = 1
) -> float:
  """Returns seconds per call: the median of windows, each synchronized.

  Args:
    function: What is timed. It is called once before, to compile.
    windows: Number of windows.
    calls: Number of calls in a window.
  """
  jax.block_until_ready(function())
  return statistics.median(
      seconds_of(function, calls=calls) for _ in range(windows)
  )


def show(result: Mapping[str, Any]) -> None:
  """Prints one row per value, and all of them as a JSON object."""
  _rows(result)
  print(json.dumps(result))


def _rows(result, indent=""):
  width = max(map(len, result), default=0)
  for name, value in result.items():
    if isinstance(value, Mapping):
      print(f"{indent}{name}")
      _rows(value, indent + "  ")
    else:
      text = f"{value:.4g}" if isinstance(value, float) else value
      print(f"{indent}{name:{width}}  {text}")
