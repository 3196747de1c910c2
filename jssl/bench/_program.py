"""Compiled train steps: how they are made, and what they cost."""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax

from jssl import data, experiment, parallel
from jssl.config import build, ConfigDict
from jssl.encoder import example_batch
from jssl.step import init_state

_STEPS_PER_EPOCH = 1000  # Of the schedules; the program does not depend on it.
_RESIDENT = 50_000  # Images of a resident set, as in CIFAR-10.
_array = jax.ShapeDtypeStruct


def for_device(config: ConfigDict) -> ConfigDict:
  """Copies a config, with what "auto" means on a TPU or GPU.

  Args:
    config: See `jssl.config.base`; its data set is not opened.
  """
  config = ConfigDict(config.to_dict())
  if config.precision == "auto":
    config.precision = "bfloat16"
  config.resolved = dict(channels=3, classes=["first", "second"])
  return config


def make_call(
    config: ConfigDict, targets: Sequence[Any], steps: int = 1
) -> tuple[Any, tuple[Any, ...]]:
  """Makes the mapped steps of a config, with the shapes of their arguments.

  Args:
    config: See `for_device`.
    targets: The devices that share the batch, or descriptions of them.
    steps: Steps of a resident data set in one call; 1 for a streamed one.

  Returns:
    The call, to be lowered, and its arguments.
  """
  method = build.method(
      config,
      steps_per_epoch=_STEPS_PER_EPOCH,
      axis_name=parallel.AXIS_NAME,
  )
  optimizer = build.optimizer(config, steps_per_epoch=_STEPS_PER_EPOCH)
  example = example_batch(config)
  state = jax.eval_shape(
      lambda key: init_state(method, optimizer, key, example),
      jax.random.key(0),
  )
  shares = (len(targets), steps, config.batch_size // len(targets))
  batch_of: Callable[..., Any] = lambda resident, inputs: inputs
  if steps > 1:
    images, inputs = _batch_shapes(config, _RESIDENT), _array(shares, "int32")
    resident = jax.eval_shape(data.as_rows, images)
    batch_of = functools.partial(data.take, shape=images["image"].shape[1:])
  else:
    resident, inputs = {}, _batch_shapes(config, *shares)
  call = experiment.map_steps(method, optimizer, batch_of, devices=targets)
  return call, (state, resident, inputs)


def _batch_shapes(config, *shape):
  """Returns the shapes of a batch of a canvas, or of images of one size."""
  canvas = config.data.canvas
  side = canvas or config.image_size
  batch = {
      "image": _array((*shape, side, side, 3), "uint8"),
      "label": _array(shape, "int32"),
  }
  return batch | ({"extent": _array((*shape, 2), "int32")} if canvas else {})


def count(
    config: ConfigDict, compiled: Any, *, devices: int = 1
) -> tuple[float | None, float | None]:
  """Counts what a compiled step does on each device.

  Args:
    config: See `for_device`.
    compiled: Its compiled program.
    devices: Number of devices that share the batch.

  Returns:
    Operations, and the bytes that they read and write; None where it is not
    known. The compiler counts a loop once, whatever its number of rounds. So
    micro-batches are counted as the whole batch, without what they compute
    twice and without bytes.
  """
  if config.net.micro_batches == 1:
    found = compiled.cost_analysis() or {}
    return found.get("flops"), found.get("bytes accessed")
  whole = for_device(config)
  whole.update(batch_size=config.batch_size // devices)
  whole.net.micro_batches = 1
  call, arguments = make_call(whole, jax.devices("cpu")[:1])
  return (call.lower(*arguments).cost_analysis() or {}).get("flops"), None


def planned_bytes(compiled: Any) -> int | None:
  """Returns the bytes a compiled program needs; None if they are not known."""
  plan = compiled.memory_analysis()
  if plan is None:
    return None
  return (
      plan.argument_size_in_bytes
      + plan.output_size_in_bytes
      + plan.temp_size_in_bytes
      - plan.alias_size_in_bytes
  )
