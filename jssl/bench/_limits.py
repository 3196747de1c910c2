"""The limits of the device, measured, and the memory that a program needs."""

from typing import Any

import jax
import jax.numpy as jnp

from jssl.bench._timing import median_seconds

# Side of a square matrix product, and bytes of an array: large enough to keep
# every core busy, and small enough for a laptop.
_SIDES = {"cpu": 2048}
_SIDE = 8192
_BYTES = {"cpu": 2**28}
_BYTES_ELSEWHERE = 2**31
_CALLS = 3


def flops_per_second(dtype: Any) -> float:
  """Returns operations per second of a large matrix product of this type."""
  side = _SIDES.get(jax.default_backend(), _SIDE)
  x = jnp.ones((side, side), dtype)
  product = jax.jit(jnp.matmul)
  seconds = median_seconds(lambda: product(x, x), calls=_CALLS)
  return 2 * side**3 / seconds


def bytes_per_second() -> float:
  """Returns bytes read and written per second by an update of a large array."""
  size = _BYTES.get(jax.default_backend(), _BYTES_ELSEWHERE)
  x = jnp.zeros((size // 4,), jnp.float32)
  change = jax.jit(lambda x: x + 1)
  return 2 * size / median_seconds(lambda: change(x), calls=_CALLS)


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
