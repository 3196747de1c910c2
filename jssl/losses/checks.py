"""Checks of the arguments of losses, methods and optimizers."""

from collections.abc import Callable
import math

import jax

from jssl import parallel


def check_temperature(
    temperature: float | jax.Array, *, name: str = "temperature"
) -> None:
  """Raises ValueError unless the temperature is above 0 (or traced)."""
  if not isinstance(temperature, jax.core.Tracer) and not temperature > 0:
    raise ValueError(
        f"{name} is {temperature}; expected a value above 0, for example 0.07."
    )


def check_not_negative(**values: float | Callable) -> None:
  """Raises ValueError if a named number is negative or not finite.

  Functions of the step are allowed.
  """
  for name, value in values.items():
    if not callable(value) and not 0 <= value < math.inf:
      raise ValueError(f"{name} is {value}; expected a number of at least 0.")


def check_pair(**pair: jax.Array) -> None:
  """Raises ValueError unless two named arrays are both `[B, D]`."""
  (first, x), (second, y) = pair.items()
  if x.shape != y.shape or x.ndim != 2:
    raise ValueError(
        f"{first} {x.shape} and {second} {y.shape} do not fit; expected"
        " [B, D] for both."
    )


def check_global_batch(
    size: int, axis_name: str | None, *, name: str, purpose: str
) -> None:
  """Raises ValueError if the global batch holds fewer than 2 images."""
  images = size * parallel.axis_size(axis_name)
  if images < 2:
    raise ValueError(
        f"{name} got a global batch of {images} image(s); {purpose} needs at"
        " least 2. Use a larger batch, or pass axis_name if it is split over"
        " devices."
    )
