"""From a config to the objects that it describes."""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jssl import augment
from jssl import nets
from jssl import optim
from jssl.config import ConfigDict
from jssl.config import lookup
from jssl.method import Method
from jssl.methods import METHODS


def method(config: ConfigDict, *, axis_name: str | None = None) -> Method:
  """Makes the method, with its net and its augmentation.

  Args:
    config: See `jssl.config.base`.
    axis_name: Axis that the batch is split over, or None.

  Raises:
    ValueError: If a name or an argument is not known, or out of its range.
  """
  net = _construct(
      "config.net",
      config.net,
      nets.NETS,
      axis_name=axis_name,
      dtype=precision(config.precision),
  )()
  recipe = _construct(
      "config.augment", config.augment, augment.RECIPES, size=config.image_size
  )
  make = _construct(
      "config.method",
      config.method,
      METHODS,
      augment=recipe,
      axis_name=axis_name,
  )
  return make(net)


def schedule(config: ConfigDict, *, steps_per_epoch: int) -> optim.Schedule:
  """Makes the learning rate as a function of the step."""
  section = config.optimizer
  peak = section.learning_rate
  if section.reference_batch_size:
    peak *= config.batch_size / section.reference_batch_size
  make = _construct(
      "config.optimizer.schedule", section.schedule, optim.SCHEDULES
  )
  return make(peak, epochs=config.epochs, steps_per_epoch=steps_per_epoch)


def optimizer(
    config: ConfigDict, learning_rate: optim.Schedule
) -> optax.GradientTransformation:
  """Makes the optimizer."""
  section = config.optimizer.to_dict()
  for key in ("learning_rate", "reference_batch_size", "schedule"):
    del section[key]
  make = _construct("config.optimizer", section, optim.OPTIMIZERS)
  return make(learning_rate)


def precision(name: str) -> Any:
  """Returns the type of the computation: float32, bfloat16 or auto."""
  lookup("config.precision", name, ("auto", "float32", "bfloat16"))
  if name == "auto":
    name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
  return jnp.dtype(name)


def _construct(where, section, table, **more):
  """Binds a section's entries, and more, to the constructor it names."""
  arguments = {
      key: tuple(value) if isinstance(value, list) else value
      for key, value in section.items()
      if key != "name"
  }
  make = table[lookup(f"{where}.name", section["name"], table)]
  known = inspect.signature(make).parameters
  for key in arguments:
    lookup(f"A key of {where}", key, known)
  return functools.partial(make, **arguments, **more)
