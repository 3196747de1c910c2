"""How long it takes from the command to the first step, cold and warm.

  python tests/benchmarks/start.py --config=moco_v2:digits

Arguments are those of `python -m jssl.train`, without --workdir.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app
from ml_collections import config_flags

from jssl import cli
from jssl.bench._timing import show

_POLL_SECONDS = 0.05
_LIMIT_SECONDS = 600


def measure(arguments: list[str]) -> dict[str, Any]:
  """Starts `python -m jssl.train` twice, with the same new compilation cache.

  Args:
    arguments: Those of `jssl.train`, without `--workdir`.

  Returns:
    Seconds until the first row of metrics is written, interpreter, imports,
    data and compilation included, with the cache empty ("cold") and full
    ("warm").

  Raises:
    ValueError: If training ends before its first step, with its message.
  """
  with tempfile.TemporaryDirectory() as cache:
    return {
        f"{name}_seconds": _first_step(arguments, cache)
        for name in ("cold", "warm")
    }


def _first_step(arguments, cache):
  with tempfile.TemporaryDirectory() as workdir:
    command = [
        *(sys.executable, "-m", "jssl.train", f"--workdir={workdir}"),
        *(*arguments, "--config.log.every_steps=1"),
    ]
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": cache,
        # Small programs too: all are compiled again at every start.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    start = time.monotonic()
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
      _wait_for_row(process, pathlib.Path(workdir) / "metrics.jsonl", start)
      return time.monotonic() - start
    finally:
      process.kill()
      process.communicate()


def _wait_for_row(process, metrics, start):
  while not (metrics.exists() and metrics.read_text().count("\n")):
    if process.poll() is not None:
      raise ValueError(f"no step was taken: {process.stderr.read().strip()}")
    if time.monotonic() - start > _LIMIT_SECONDS:
      raise ValueError(f"no step was taken in {_LIMIT_SECONDS} seconds.")
    time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
  config_flags.DEFINE_config_file("config", None, cli.CONFIG_HELP)
  app.run(
      lambda _: show(measure(sys.argv[1:])),
      flags_parser=cli.parse,
  )
