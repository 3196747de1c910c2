"""How fast the compiled train step is, and how close to the device's limits.

The step is the one that training compiles, augmentation included, on random
images that live on the device.
"""

from collections.abc import Callable
import math
import statistics
import tempfile
import time
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
import jax.numpy as jnp
import numpy as np

from jssl import data, experiment
from jssl.bench import _program
from jssl.bench._timing import median_seconds, seconds_of
from jssl.config import build, ConfigDict

_WINDOWS = 5
_WINDOW_SECONDS = 0.5  # The shortest window.
_CLASSES = ("first", "second")
# Side of a square matrix product, and bytes of an array: large enough to keep
# every core busy; the first of each is small enough for a laptop.
_SIDES = {"cpu": 2048, "other": 8192}
_BYTES = {"cpu": 2**28, "other": 2**31}


def measure(
    config: ConfigDict, *, profile: str | None = None
) -> dict[str, Any]:
  """Times the step of a config.

  Args:
    config: See `jssl.config.base`; its data set is not opened.
    profile: A folder for a trace of one window, to open in XProf.

  Returns:
    - "images_per_second": median over five windows, each synchronized;
      "seconds_per_step", and their "spread", (largest - smallest) / median;
    - "flops_per_step", "bytes_per_step": of one device, as the compiler counts
      them (for micro-batches the operations of the whole batch, and no bytes);
      "fraction_of_peak" and "fraction_of_bandwidth" of what this device
      reaches in a large matrix product and a large copy (above 1 where caches
      serve repeated reads); "bound" names the larger one;
    - "peak_memory_bytes" of a device; "memory" is "measured" or "planned";
    - "compile_seconds" without and "warm_compile_seconds" with a compilation
      cache on disk, tracing included;
    - "host_seconds_per_dispatch": until a call returns;
    - "recompiles": programs compiled after the first step.

  Raises:
    ValueError: If something in the config is wrong.
  """
  exp = random_experiment(config)
  dispatch = experiment.make_call(exp)
  cold, warm, compiled = _compile(exp, dispatch)
  windows, host, recompiles = _time(make_calls(exp, dispatch), profile)
  memory = _memory(compiled)  # Before the arrays of the limits are allocated.
  steps = exp.steps_per_call
  seconds = statistics.median(windows) / steps
  devices = jax.device_count()
  flops, traffic = _program.count(config, compiled, devices=devices)
  dtype = build.precision(config.precision)
  peak, bandwidth = _limits(dtype)
  fractions = {
      "fraction_of_peak": flops / seconds / peak,
      "fraction_of_bandwidth": traffic and traffic / seconds / bandwidth,
  }
  bound = max(fractions, key=lambda name: fractions[name] or 0.0)
  return {
      "images_per_second": config.batch_size / seconds,
      "seconds_per_step": seconds,
      "spread": (max(windows) - min(windows)) / statistics.median(windows),
      "flops_per_step": flops,
      "bytes_per_step": traffic,
      **fractions,
      "bound": bound.removeprefix("fraction_of_"),
      **memory,
      "compile_seconds": cold,
      "warm_compile_seconds": warm,
      "host_seconds_per_dispatch": host,
      "steps_per_dispatch": steps,
      "recompiles": recompiles,
      "method": config.method.name,
      "net": config.net.name,
      "image_size": config.image_size,
      "batch_size": config.batch_size,
      "precision": dtype.name,
      "micro_batches": config.net.micro_batches,
      "devices": devices,
      "device": jax.devices()[0].device_kind,
      "jax": jax.__version__,
  }


def random_experiment(config: ConfigDict) -> experiment.Experiment:
  """Makes an experiment with a batch of random images."""
  side = config.data.canvas or config.image_size
  random = np.random.default_rng(0)
  shape = (config.batch_size, side, side, 3)
  images = data.Images(
      image=random.integers(0, 256, shape, np.uint8),
      label=np.arange(config.batch_size, dtype=np.int32) % len(_CLASSES),
      extent=np.full((config.batch_size, 2), side, np.int32)
      if config.data.canvas
      else None,
      classes=_CLASSES,
      skipped=(),
  )
  return experiment.from_images(config, images, images)


def make_calls(
    exp: experiment.Experiment, dispatch: Callable[..., Any]
) -> Callable[[], Any]:
  """Makes a function that takes a few steps, on the same batches every time.

  Args:
    exp: The experiment.
    dispatch: See `jssl.experiment.make_call`.

  Returns:
    A function that takes `exp.steps_per_call` steps from where the last call
    ended, and returns the state and metrics.
  """
  resident, state = exp.pipeline.resident(), experiment.initial_state(exp)
  call = next(exp.pipeline.batches(0, exp.total_steps, exp.steps_per_call))

  def run():
    nonlocal state
    state, metrics = dispatch(state, resident, call.inputs)
    return state, metrics

  return run


def _compile(exp, dispatch):
  """Compiles a step without and with the compilation cache on disk."""
  resident, state = exp.pipeline.resident(), experiment.initial_state(exp)
  call = next(exp.pipeline.batches(0, exp.total_steps, 1))
  names = (
      "jax_compilation_cache_dir",
      "jax_persistent_cache_min_compile_time_secs",
  )
  before = [getattr(jax.config, name) for name in names]

  def configure(values):
    for name, value in zip(names, values):
      jax.config.update(name, value)
    compilation_cache.reset_cache()

  def compile_step():
    jax.clear_caches()
    start = time.perf_counter()
    compiled = dispatch.lower(state, resident, call.inputs).compile()
    return time.perf_counter() - start, compiled

  with tempfile.TemporaryDirectory() as folder:
    configure((folder, 0.0))
    try:
      cold, _ = compile_step()
      warm, compiled = compile_step()
    finally:
      configure(before)
  return cold, warm, compiled


def _time(run, profile):
  """Returns seconds and host seconds per call, and the number of recompiles."""
  compiled = []

  def note(event, *_, **__):
    if "backend_compile" in event:
      compiled.append(event)

  jax.block_until_ready(run())
  jax.monitoring.register_event_duration_secs_listener(note)
  count = math.ceil(_WINDOW_SECONDS / seconds_of(run))
  windows, host = [], []
  for _ in range(_WINDOWS):
    windows.append(seconds_of(run, calls=count))
    start = time.perf_counter()
    result = run()
    host.append(time.perf_counter() - start)
    jax.block_until_ready(result)
  recompiles = len(compiled)
  if profile is not None:
    with jax.profiler.trace(profile):
      seconds_of(run, calls=count)
  return windows, statistics.median(host), recompiles


def _limits(dtype):
  """Measures operations per second of this type, and bytes per second.

  The first is measured on a large matrix product, the second on an update of a
  large array.
  """
  kind = "cpu" if jax.default_backend() == "cpu" else "other"
  side, size = _SIDES[kind], _BYTES[kind]
  x, y = jnp.ones((side, side), dtype), jnp.zeros((size // 4,), jnp.float32)
  product, change = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)
  return (
      2 * side**3 / median_seconds(lambda: product(x, x), calls=3),
      2 * size / median_seconds(lambda: change(y), calls=3),
  )


def _memory(compiled):
  """Peak memory, as reported by the device or planned by the compiler."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if "peak_bytes_in_use" in stats:
    peak, source = stats["peak_bytes_in_use"], "measured"
  else:
    peak, source = _program.planned_bytes(compiled), "planned"
  return {"peak_memory_bytes": peak, "memory": source}
