"""How long `import jssl` takes, compared with the libraries it builds on.

python tests/benchmarks/imports.py
"""

import statistics
import subprocess
import sys
import time
from typing import Any

from absl import app

from jssl import cli
from jssl.bench._timing import show

_WITHOUT = "import jax, flax, optax"
_RUNS = 7


def measure() -> dict[str, Any]:
  """Starts an interpreter for each in turn, seven times.

  Returns:
    "jssl_seconds" and "without_seconds", medians; and "ratio", the median of
    the ratios of consecutive runs, which is 1 if jssl adds nothing.
  """
  _seconds(_WITHOUT)  # Reads files for the first time.
  pairs = [(_seconds("import jssl"), _seconds(_WITHOUT)) for _ in range(_RUNS)]
  ours, without = zip(*pairs)
  return {
      "jssl_seconds": statistics.median(ours),
      "without_seconds": statistics.median(without),
      "ratio": statistics.median(a / b for a, b in pairs),
  }


def _seconds(code):
  start = time.perf_counter()
  subprocess.run([sys.executable, "-c", code], check=True)
  return time.perf_counter() - start


if __name__ == "__main__":
  app.run(lambda _: show(measure()), flags_parser=cli.parse)
