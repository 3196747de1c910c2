"""Exponential moving averages (EMA) of parameter trees, and their decay."""

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
    momentum: EMA decay: weight of the target, in [0, 1].

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
  """Returns an EMA decay as a function of the step.

  Args:
    momentum: A constant in [0, 1], or already a function of the step.

  Raises:
    ValueError: If it is outside of [0, 1]; a schedule is checked at step 0.

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
