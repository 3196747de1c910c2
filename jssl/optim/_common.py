"""Shared by optimizers: weight decay, masks, clipping and checks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jssl.losses.checks import check_not_negative
from jssl.optim._schedules import Schedule


def are_matrices(tree: Any) -> Any:
  """Whether each parameter is neither a bias nor a norm's."""
  return jax.tree.map(lambda x: x.ndim > 1, tree)


def are_biases_or_norms(tree: Any) -> Any:
  """Whether each parameter has one dimension or none."""
  return jax.tree.map(lambda x: x.ndim <= 1, tree)


def add_weight_decay(
    weight_decay: float | Schedule, mask: Callable[[Any], Any] | None = None
) -> optax.GradientTransformation:
  """Adds the weight decay to all updates, or where the mask is True."""
  if not callable(weight_decay):
    return optax.add_decayed_weights(weight_decay, mask)
  # optax 0.2.5 takes only a constant here.
  make = optax.inject_hyperparams(optax.add_decayed_weights, static_args="mask")
  return make(weight_decay=weight_decay, mask=mask)


def chain_clipped(
    clip_norm: float,
    per_parameter: bool,
    *parts: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Chains the parts after clipping the gradient's norm."""
  check_not_negative(clip_norm=clip_norm)
  if clip_norm:
    make = _clip_each if per_parameter else optax.clip_by_global_norm
    parts = (make(clip_norm), *parts)
  return optax.chain(*parts)


def _clip_each(limit):
  """Limits the norm of each parameter's gradient."""

  def clip(x):
    # The 1e-6 of DINO's code avoids 0 / 0 for a gradient of zeros.
    return x * jnp.minimum(1.0, limit / (optax.tree.norm(x) + 1e-6))

  return optax.stateless(lambda updates, _: jax.tree.map(clip, updates))


def check_below_one(**values: float) -> None:
  """Raises ValueError unless each value is in [0, 1)."""
  for name, value in values.items():
    if not 0 <= value < 1:
      raise ValueError(
          f"{name} is {value}; expected a value in [0, 1), for example 0.9."
      )
