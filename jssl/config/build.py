"""Builds the objects that a config describes."""

from collections.abc import Callable, Iterable
import difflib
import functools
import inspect
import operator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import optax

from jssl import augment, nets, optim
from jssl.losses.checks import check_not_negative
from jssl.method import Method
from jssl.methods import METHODS

# Augmentations of a method, each a section of the config.
_RECIPES = ("augment", "second_augment", "local_augment")


def method(
    config: ConfigDict,
    *,
    steps_per_epoch: int = 1,
    axis_name: str | None = None,
) -> Method:
  """Makes the method, with its net and its augmentation.

  A key of the method's section that ends in `_epochs` sets the constructor's
  argument of that name in `_steps`.

  Args:
    config: The config.
    steps_per_epoch: Steps per epoch, for the method's schedules; irrelevant if
      nothing is trained.
    axis_name: Axis that the batch is split over, or None.

  Raises:
    ValueError: If a name or an argument is unknown, or out of its range.
  """
  make = METHODS[lookup("config.method.name", config.method.name, METHODS)]
  # A section that the config lacks means None, not the method's default.
  known = inspect.signature(make).parameters
  recipes = {
      section: recipe(config, section)
      for section in _RECIPES
      if section in config or section in known
  }
  section = {}
  for key, value in _scheduled("method", config, steps_per_epoch).items():
    if key.endswith("_epochs"):
      key = f"{key.removesuffix('_epochs')}_steps"
      value = round(value * steps_per_epoch)
    section[key] = value
  make = _construct(
      "config.method", section, METHODS, axis_name=axis_name, **recipes
  )
  return make(net(config, axis_name=axis_name))


def check_names(config: ConfigDict) -> None:
  """Refuses an unknown method, net, optimizer or schedule.

  Args:
    config: See `jssl.config.base`.

  Raises:
    ValueError: If a name is unknown, with the closest valid ones.
  """
  tables: dict[str, Iterable[str]] = {
      "method": METHODS,
      "net": nets.NETS,
      "optimizer": optim.OPTIMIZERS,
      "optimizer.schedule": optim.SCHEDULES,
  }
  for section, table in tables.items():
    name = operator.attrgetter(f"{section}.name")(config)
    lookup(f"config.{section}.name", name, table)


def recipe(
    config: ConfigDict, section: str = "augment"
) -> Callable[..., jax.Array] | None:
  """Makes the augmentation of a section, `(key, image, *, extent) -> view`.

  Args:
    config: The config.
    section: "augment", "second_augment" or "local_augment".

  Returns:
    The recipe, at the size of the config's images; None without the section.
  """
  if section not in config:
    return None
  entries = {"size": config.image_size, **config[section]}
  return _construct(f"config.{section}", entries, augment.RECIPES)


def net(config: ConfigDict, *, axis_name: str | None = None) -> nn.Module:
  """Makes the backbone.

  Args:
    config: The config. Keys of `config.net` that belong to other nets are
      ignored, so that changing the name is enough to change the net.
    axis_name: Axis that batch statistics are synchronised over, or None.
  """
  section = {**config.net.to_dict(), "image_size": config.image_size}
  if not section.get("heads"):  # 0: the net's default.
    section.pop("heads", None)
  parts = section.pop("micro_batches")
  make = _construct(
      "config.net",
      _without_foreign_keys(section, nets.NETS),
      nets.NETS,
      axis_name=axis_name,
      dtype=precision(config.precision),
  )
  return nets.MicroBatched(make(), parts) if parts != 1 else make()


def batch_multiple(config: ConfigDict, *, devices: int) -> int:
  """Returns the number that the global batch must be a multiple of.

  Args:
    config: The config.
    devices: Number of devices that share the batch.

  Returns:
    The number of devices, times the BatchNorm groups per device, times
    `config.net.micro_batches`.
  """
  section = _without_foreign_keys(config.net.to_dict(), nets.NETS)
  groups = max(section.get("groups", 1) // devices, 1)
  return devices * groups * max(config.net.micro_batches, 1)


def schedule(config: ConfigDict, *, steps_per_epoch: int) -> optim.Schedule:
  """Makes the learning rate as a function of the number of updates."""
  section = config.optimizer
  peak = section.learning_rate
  names = ("learning_rate", "reference_batch_size")
  _check_numbers("config.optimizer", {name: section[name] for name in names})
  _check_numbers("config.optimizer.schedule", section.schedule)
  if section.reference_batch_size:
    images = config.batch_size * config.accumulate_steps
    peak *= images / section.reference_batch_size
  make = _construct(
      "config.optimizer.schedule",
      _without_foreign_keys(section.schedule.to_dict(), optim.SCHEDULES),
      optim.SCHEDULES,
  )
  return make(
      peak,
      epochs=config.epochs,
      steps_per_epoch=steps_per_epoch / config.accumulate_steps,
  )


def optimizer(
    config: ConfigDict, *, steps_per_epoch: int = 1
) -> optax.GradientTransformation:
  """Makes the optimizer.

  Args:
    config: The config. Keys that belong to other optimizers are ignored, so
      that changing the name is enough to change the optimizer.
    steps_per_epoch: Steps per epoch, for its schedules.
  """
  updates_per_epoch = steps_per_epoch / config.accumulate_steps
  section = _scheduled("optimizer", config, updates_per_epoch)
  for key in ("learning_rate", "reference_batch_size", "schedule"):
    del section[key]
  section = _without_foreign_keys(section, optim.OPTIMIZERS)
  make = _construct("config.optimizer", section, optim.OPTIMIZERS)
  learning_rate = schedule(config, steps_per_epoch=steps_per_epoch)
  return optim.accumulate(make(learning_rate), config.accumulate_steps)


def precision(name: str) -> Any:
  """Returns the type of the computation for "float32", "bfloat16" or "auto"."""
  lookup("config.precision", name, ("auto", "float32", "bfloat16"))
  if name == "auto":
    name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
  return jnp.dtype(name)


def lookup(where: str, name: str, table: Iterable[str]) -> str:
  """Returns the name if the table has it.

  Args:
    where: What the name is, for the message.
    name: The name.
    table: All valid names.

  Raises:
    ValueError: If not, with the closest valid names.
  """
  table = list(table)
  if name in table:
    return name
  near = difflib.get_close_matches(str(name), table, n=3)
  hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
  raise ValueError(
      f"{where} is {name!r}; expected one of {', '.join(sorted(table))}.{hint}"
  )


def _construct(where, section, table, **more):
  """Binds a section's entries, and other arguments, to its constructor."""
  arguments = {
      key: tuple(value) if isinstance(value, list) else value
      for key, value in section.items()
      if key != "name"
  }
  make = table[lookup(f"{where}.name", section["name"], table)]
  known = inspect.signature(make).parameters
  for key in more:
    lookup(f"A section of the config for {where}", key, known)
  for key in arguments:
    lookup(f"A key of {where}", key, sorted(set(known) - {"net", *more}))
  return functools.partial(make, **arguments, **more)


def _scheduled(section, config, steps_per_epoch):
  """Returns a section as a dict, with schedules as functions of the step."""
  made = {}
  for key, value in config[section].items():
    if isinstance(value, ConfigDict) and key != "schedule":
      where, value = f"config.{section}.{key}", value.to_dict()
      _check_numbers(where, value, share=key == "momentum")
      start = value.pop("value")
      value = _without_foreign_keys(value, optim.SCHEDULES)
      make = _construct(where, value, optim.SCHEDULES)
      value = make(start, epochs=config.epochs, steps_per_epoch=steps_per_epoch)
    made[key] = value
  return made


def _check_numbers(where, section, *, share=False):
  """Raises ValueError for a negative number, or for a share above 1."""
  for key, value in section.items():
    if isinstance(value, (int, float)):
      name = f"{where}.{key}"
      check_not_negative(**{name: value})
      if share and key in ("value", "start", "end") and value > 1:
        raise ValueError(
            f"{name} is {value}; expected a value in [0, 1], for example 0.996."
        )


def _without_foreign_keys(section, table):
  """Removes keys that only other constructors of the table have."""
  make = table.get(section["name"])
  if make is None:
    return section  # `_construct` lists the valid names.
  own = inspect.signature(make).parameters
  others = {
      key for x in table.values() for key in inspect.signature(x).parameters
  }
  return {
      key: value
      for key, value in section.items()
      if key == "name" or key in own or key not in others
  }
