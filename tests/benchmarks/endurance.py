"""Whether a long training grows in memory, or slows down.

  python tests/benchmarks/endurance.py --config=moco_v2:digits --steps=10000

Trains as `python -m jssl.train` does, evaluations and checkpoints included, and
compares the first third with the last. The last line is a JSON object.
"""

from collections.abc import Iterator
import contextlib
import pathlib
import statistics
import tempfile
import threading
from typing import Any, NamedTuple

from absl import app, flags
import jax
from ml_collections import config_flags

from jssl import cli, data, experiment
from jssl.bench import loop
from jssl.bench._timing import show
from jssl.config import ConfigDict

_CONFIG = config_flags.DEFINE_config_file("config", None, cli.CONFIG_HELP)
_STEPS = flags.DEFINE_integer("steps", 10_000, "Number.", lower_bound=100)

_EVERY_SECONDS = 1.0
_PAGE = 4096
_STATM = pathlib.Path("/proc/self/statm")


def main(argv: list[str]) -> None:
  """Runs the command."""
  del argv
  with cli.plain_errors():
    result = measure(cli.required(_CONFIG), steps=_STEPS.value)
  show(result)


class Sample(NamedTuple):
  """Memory at a moment, in bytes; None where the system does not report it."""

  host: int | None
  device: int | None
  arrays: int


def measure(config: ConfigDict, *, steps: int) -> dict[str, Any]:
  """Trains for a number of steps.

  Args:
    config: The config; its epochs are set.
    steps: Number of steps; the first tenth is warm-up.

  Returns:
    Bytes of host and device memory (medians of the first and of the last third
    after the warm-up; None where the system does not report it) and of JAX's
    arrays, and the time of a step in the last third relative to the first.
  """
  source = experiment.open_split(config, "train")
  an_epoch = data.steps_per_epoch(source.length, config.batch_size)
  config.epochs = steps / an_epoch
  exp = experiment.make(config)
  dispatch = experiment.make_call(exp)
  with tempfile.TemporaryDirectory() as workdir, _sampled() as samples:
    rows, seconds = loop.train(exp, dispatch, workdir)
  rows = _after_warm_up([row for row in rows if "loss" in row])
  samples = _after_warm_up(samples)
  first, last = [
      statistics.median(1 / row["images_per_second"] for row in part)
      for part in _thirds(rows)
  ]
  return {
      "steps": exp.total_steps,
      "seconds": seconds,
      "step_time_last_over_first": last / first,
      "host_bytes": _medians([x.host for x in samples]),
      "device_bytes": _medians([x.device for x in samples]),
      "array_bytes": _medians([x.arrays for x in samples]),
      "device": jax.devices()[0].device_kind,
  }


@contextlib.contextmanager
def _sampled() -> Iterator[list[Sample]]:
  """Samples the memory regularly while the block runs."""
  samples, ended = [], threading.Event()

  def sample():
    while not ended.wait(_EVERY_SECONDS):
      samples.append(_sample())

  thread = threading.Thread(target=sample, daemon=True)
  thread.start()
  try:
    yield samples
  finally:
    ended.set()
    thread.join()


def _sample():
  host = None
  if _STATM.exists():  # Linux.
    host = int(_STATM.read_text().split()[1]) * _PAGE
  stats = jax.local_devices()[0].memory_stats() or {}
  arrays = sum(x.nbytes for x in jax.live_arrays())
  return Sample(host, stats.get("bytes_in_use"), arrays)


def _after_warm_up(values):
  return values[len(values) // 10 :]


def _thirds(values):
  third = max(len(values) // 3, 1)
  return values[:third], values[-third:]


def _medians(values):
  """Medians of the first and of the last third."""
  if None in values:
    return None
  return [round(statistics.median(part)) for part in _thirds(values)]


if __name__ == "__main__":
  app.run(main, flags_parser=cli.parse)
