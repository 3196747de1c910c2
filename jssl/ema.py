"""Exponential moving averages of parameter trees, and their momentum."""

from collections.abc import Callable
from typing import Any

import jax

PyTree = Any


def update(
    target: PyTree, online: PyTree, momentum: jax.Array | float
) -> PyTree:
  """Moves a target tree towards an online tree.

  Args:
    target: The averaged tree, for example MoCo's key encoder.
    online: The trained tree, of the same structure, shapes and types.
    momentum: Share of the target that is kept, in [0, 1].

  Returns:
    `momentum * target + (1 - momentum) * online`, leaf by leaf. No gradient
    flows from it to `online`.

  Raises:
    ValueError: If the trees differ in structure.

  Reference:
    He et al., Momentum Contrast, 2020, equation 2.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import ema
    >>> target, online = {"w": jnp.zeros(2)}, {"w": jnp.ones(2)}
    >>> ema.update(target, online, 0.75)["w"].tolist()
    [0.25, 0.25]
  """
  online = jax.lax.stop_gradient(online)
  return jax.tree.map(
      lambda t, o: (momentum * t + (1.0 - momentum) * o).astype(t.dtype),
      target,
      online,
  )


def as_schedule(momentum: float | Callable) -> Callable:
  """Returns a momentum as a function of the step.

  Args:
    momentum: A constant in [0, 1], or already a function of the step.

  Raises:
    ValueError: If it lies outside [0, 1], a function's value at its start.

  Example:
    >>> from jssl import ema
    >>> ema.as_schedule(0.99)(1000)
    0.99
  """
  schedule = momentum if callable(momentum) else lambda step: momentum
  start = float(schedule(0))
  if not 0.0 <= start <= 1.0:
    raise ValueError(
        f"EMA momentum is {start}; expected a value in [0, 1], for example"
        " 0.999."
    )
  return schedule
