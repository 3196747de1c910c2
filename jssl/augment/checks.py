"""Checks of the arguments of image operations."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Rounding may take floats in [0, 1] this far outside.
_ROUNDING = 1e-3


def check_image(image: jax.Array) -> None:
  """Raises ValueError unless `image` is one float image [H, W, C]."""
  if image.ndim != 3:
    raise ValueError(
        f"expected one image [H, W, C], got the shape {image.shape}; map over"
        " a batch with jax.vmap."
    )
  if not jnp.issubdtype(image.dtype, jnp.floating):
    raise ValueError(
        f"expected a float image in [0, 1], got {image.dtype}; convert it with"
        " jssl.augment.to_float."
    )


def check_array(images: Any) -> None:
  """Raises ValueError, with a remedy, unless `images` is an array."""
  if isinstance(images, (jax.Array, np.ndarray)):
    return
  if isinstance(images, (list, tuple)):
    remedy = "stack pictures of one size with np.stack"
  else:
    remedy = "pass np.asarray(image)[None] for one picture"
  kind = type(images)
  module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
  raise ValueError(
      f"images are a {module}{kind.__qualname__}; expected an array"
      f" [B, H, W, C], uint8 or float in [0, 1]: {remedy}."
  )


def check_values(images: jax.Array | np.ndarray) -> None:
  """Raises ValueError if float images are NaN or outside [0, 1].

  Tracers, whose values are unknown, pass.
  """
  if (
      isinstance(images, jax.core.Tracer)
      or not jnp.issubdtype(images.dtype, jnp.floating)
      or not images.size
      or not getattr(images, "is_fully_addressable", True)
  ):
    return
  low, high = float(images.min()), float(images.max())
  if low >= -_ROUNDING and high <= 1 + _ROUNDING:  # False for NaN.
    return
  if math.isnan(low):
    raise ValueError(
        "images hold NaN; expected floats in [0, 1]: check how they were made."
    )
  raise ValueError(
      f"images hold values from {low:.4g} to {high:.4g}; expected floats in [0,"
      " 1]. Pass pictures of 0 to 255 as uint8 or divide them by 255, clip"
      " values that a resize took out of range, and do not subtract a mean:"
      " nets do that themselves."
  )


def check_color(image: jax.Array) -> None:
  """Raises ValueError unless `image` is one float image of 1 or 3 channels."""
  check_image(image)
  if image.shape[-1] not in (1, 3):
    raise ValueError(
        "expected an image of 1 or 3 channels, got the shape"
        f" {image.shape}; drop the others, such as opacity."
    )


def height_and_width(size: int | tuple[int, int]) -> tuple[int, int]:
  """Returns `size` as (height, width); an int means a square."""
  height, width = (size, size) if isinstance(size, int) else size
  if height < 1 or width < 1:
    raise ValueError(f"expected a size of 1 pixel or more, got {size}.")
  return height, width


def check_probability(probability: float) -> None:
  """Raises ValueError unless `probability` is within [0, 1]."""
  if not 0 <= probability <= 1:
    raise ValueError(
        f"probability must be within [0, 1], got {probability}; 0 never"
        " applies the operation and 1 always does."
    )


def check_limit(name: str, value: float, *, highest: float = math.inf) -> None:
  """Raises ValueError unless 0 <= value <= highest."""
  if not 0 <= value <= highest:
    raise ValueError(
        f"{name} must be within [0, {highest}], got {value}; it is the largest"
        " change to draw, in either direction."
    )


def check_range(
    name: str, value: tuple[float, float], *, highest: float = math.inf
) -> None:
  """Raises ValueError unless 0 < low <= high <= highest."""
  low, high = value
  if not 0 < low <= high <= highest:
    raise ValueError(
        f"{name} must be (low, high) with 0 < low <= high <= {highest}, got"
        f" {value}; give the lower value first, within this range."
    )
