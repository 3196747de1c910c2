"""Heads: what stands between the encoder and the loss, thrown away after."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# Uniform in +-1 / sqrt(fan in): the default that the papers' code ran with.
_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class MLP(nn.Module):
  """Linear layers with ReLU between them.

  Attributes:
    features: Width of each layer, None for the width of the input; one entry
      makes a linear head.
    dtype: Type of the computation; parameters are float32.
  """

  features: Sequence[int | None]
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, D]` to `[B, features[-1]]`, float32."""
    input_width = x.shape[-1]
    for i, width in enumerate(self.features):
      width = input_width if width is None else width
      x = nn.relu(x) if i else x
      x = nn.Dense(
          width, dtype=self.dtype, kernel_init=_INIT, name=f"layer_{i + 1}"
      )(x)
    return x.astype(jnp.float32)
