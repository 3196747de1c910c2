"""Heads: layers between the encoder and the loss, discarded after training."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# Uniform in +-1 / sqrt(fan in): PyTorch's default, as in the papers' code.
_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class MLP(nn.Module):
  """Linear layers with an activation and an optional normalisation between.

  A layer that is followed by a normalisation has no bias.

  Attributes:
    features: Width of each layer, None for the width of the input; one entry
      makes a linear head.
    norm: Constructor of the normalisation after each layer except the last,
      such as `BatchNorm`; None for none.
    last_norm: The same after the last layer, which no activation follows.
    last_bias: Whether the last layer has a bias if no normalisation follows.
    activation: Applied between layers, after the normalisation.
    dropout: Dropout rate of the activations, in [0, 1); without a "dropout"
      PRNG key nothing is dropped.
    kernel_init: Initialiser of the kernels.
    dtype: Type of the computation; parameters are float32.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jssl import nets
    >>> head = nets.MLP((64, 16), norm=nets.BatchNorm)  # That of SimCLR, small.
    >>> x = jnp.ones((8, 32))
    >>> y, variables = head.init_with_output(jax.random.key(0), x)
    >>> y.shape, sorted(variables["params"])
    ((8, 16), ['layer_1', 'layer_2', 'norm_1'])
  """

  features: Sequence[int | None]
  norm: Callable[..., nn.Module] | None = None
  last_norm: Callable[..., nn.Module] | None = None
  last_bias: bool = True
  activation: Callable[[jax.Array], jax.Array] = nn.relu
  dropout: float = 0.0
  kernel_init: Callable[..., jax.Array] = _INIT
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
      self, x: jax.Array, *, train: bool = False, views: int = 1
  ) -> jax.Array:
    """Maps embeddings.

    Args:
      x: `[V * B, D]`.
      train: Whether normalisations use the batch; see `BatchNorm`.
      views: Number of views V that are normalised separately.

    Returns:
      float32 `[V * B, features[-1]]`.

    Raises:
      ValueError: If there is no layer, or a layer of no width.
    """
    input_width, last = x.shape[-1], len(self.features)
    if not last or any(w is not None and w < 1 for w in self.features):
      raise ValueError(
          f"A head has layers of widths {tuple(self.features)}; expected one or"
          " more, each at least 1 (or None for the width of its input)."
      )
    for i, width in enumerate(self.features, start=1):
      norm = self.last_norm if i == last else self.norm
      x = nn.Dense(
          input_width if width is None else width,
          use_bias=norm is None and (i < last or self.last_bias),
          dtype=self.dtype,
          kernel_init=self.kernel_init,
          name=f"layer_{i}",
      )(x)
      if norm is not None:
        x = norm(name=f"norm_{i}", dtype=self.dtype)(
            x, train=train, views=views
        )
      if i < last:
        x = self.activation(x)
        if self.dropout:
          still = not train or not self.has_rng("dropout")
          x = nn.Dropout(self.dropout, deterministic=still)(x)
    return x.astype(jnp.float32)
