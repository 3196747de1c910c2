"""Decoders, from features to pixels or features; discarded after training."""

from collections.abc import Callable
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl.nets import attention, vit


class ConvDecoder(nn.Module):
  """Upsamples a feature map by transposed convolutions of stride 2.

  Attributes:
    size: Height and width of the output, the input's times a power of two.
    channels: Channels of the output.
    width: Channels of the last layer except the output; each earlier layer has
      twice as many, 512 at most.
    norm: Constructor of the normalisation, such as `BatchNorm`.
    mix: Whether a layer that connects all positions of a channel, and one that
      connects all channels of a position, come first.
    dtype: Type of the computation; parameters are float32.

  Reference:
    Pathak et al., Context Encoders, 2016, section 3.1: the mixing layers are
    its channel-wise fully-connected layer.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jssl import nets
    >>> decoder = nets.ConvDecoder(size=16, channels=3, width=4)
    >>> x = jnp.ones((2, 4, 4, 8))  # Doubled twice.
    >>> params = jax.jit(decoder.init)(jax.random.key(0), x)
    >>> jax.jit(decoder.apply)(params, x).shape
    (2, 16, 16, 3)
  """

  size: int
  channels: int
  width: int = 64
  norm: Callable[..., nn.Module] | None = None
  mix: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Decodes features to images.

    Args:
      x: `[B, h, h, D]`.
      train: Whether normalisations use the batch; see `BatchNorm`.

    Returns:
      float32 `[B, size, size, channels]`.

    Raises:
      ValueError: If `size` is not h times a power of two.
    """
    side = x.shape[1]
    steps = max(1, self.size // side).bit_length() - 1
    if side << steps != self.size or x.shape[2] != side:
      raise ValueError(
          f"Features of {side} x {x.shape[2]} cannot be doubled to an image of"
          f" {self.size} x {self.size}; choose an image size or an output"
          " stride for which the ratio of the sides is a power of two."
      )
    if self.mix:
      x = nn.relu(self._mix(x))
    for i in reversed(range(steps)):
      x = nn.ConvTranspose(
          min(512, self.width << i),
          (4, 4),
          (2, 2),
          use_bias=self.norm is None,
          dtype=self.dtype,
          name=f"up_{steps - i}",
      )(x)
      if self.norm is not None:
        x = self.norm(name=f"norm_{steps - i}", dtype=self.dtype)(
            x, train=train
        )
      x = nn.relu(x)
    x = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name="out")(x)
    return x.astype(jnp.float32)

  def _mix(self, x):
    batch, height, width, channels = x.shape
    places = height * width
    kernel = self.param(
        "places",
        nn.initializers.lecun_normal(in_axis=0, out_axis=1, batch_axis=2),
        (places, places, channels),
    )
    x = x.reshape(batch, places, channels)
    x = jnp.einsum("bpc,pqc->bqc", x, kernel.astype(self.dtype))
    x = nn.Dense(channels, dtype=self.dtype, name="mix")(x)
    return x.reshape(batch, height, width, channels)


class TransformerDecoder(nn.Module):
  """Predicts hidden patches from the tokens of visible ones.

  Attributes:
    out: Width of a prediction.
    width: Width of a token inside, a multiple of 4 and of the heads.
    depth: Number of blocks.
    heads: Number of attention heads.
    mlp_ratio: See `ViT`.
    weight_init: See `ViT`.
    attention: See `ViT`.
    dtype: Type of the computation; parameters are float32.

  Reference:
    He et al., Masked Autoencoders Are Scalable Vision Learners, 2022. There
    all patches are sorted and predicted; blocks do not depend on the order, and
    only hidden patches enter the loss, so here these come last.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jssl import masking, nets
    >>> decoder = nets.TransformerDecoder(out=12, width=8, depth=1, heads=2)
    >>> split = masking.random_split(jax.random.key(0), 16, 12)
    >>> visible, hidden = split.visible[None], split.hidden[None]
    >>> tokens = jnp.ones((1, 4, 32))  # Of an encoder, of the visible patches.
    >>> run = lambda key: decoder.init_with_output(
    ...     key, tokens, visible, hidden, (4, 4)
    ... )
    >>> predicted, params = jax.jit(run)(jax.random.key(1))
    >>> predicted.shape
    (1, 12, 12)
  """

  out: int
  width: int = 512
  depth: int = 8
  heads: int = 16
  mlp_ratio: float = 4
  weight_init: str = "mae"
  attention: str = "auto"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
      self,
      tokens: jax.Array,
      visible: jax.Array,
      hidden: jax.Array,
      grid: tuple[int, int],
      *,
      valid: jax.Array | None = None,
      train: bool = False,
  ) -> jax.Array:
    """Predicts hidden patches.

    Args:
      tokens: `[B, V, D]`, or `[B, 1 + V, D]` with a class token first.
      visible: Indices of their patches, int `[B, V]`.
      hidden: Indices of the patches to predict, int `[B, M]`.
      grid: Height and width of the image in patches.
      valid: Which patches are attended to, visible ones first, bool
        `[B, V + M]`; None for all.
      train: Not used; all decoders take it.

    Returns:
      float32 `[B, M, out]`.

    Raises:
      ValueError: If the width is not a multiple of 4.
    """
    init = vit.weight_init_of(self.weight_init)
    dense = functools.partial(
        nn.Dense, dtype=self.dtype, kernel_init=init.linear
    )
    table = vit.sincos_2d(self.width, grid).astype(self.dtype)
    x = dense(self.width, name="in")(tokens.astype(self.dtype))
    first = x.shape[1] - visible.shape[1]  # The class token has no position.
    x = x.at[:, first:].add(table[visible])
    # Two-dimensional, so that optimizers decay it.
    token = self.param("mask_token", init.other, (1, self.width))
    x = jnp.concatenate([x, token.astype(self.dtype) + table[hidden]], axis=1)
    bias = None
    if valid is not None:
      always = jnp.ones((len(valid), first), bool)
      bias = attention.bias_of(jnp.concatenate([always, valid], axis=1))
    for i in range(1, self.depth + 1):
      x = vit.Block(
          self.heads,
          mlp_ratio=self.mlp_ratio,
          weight_init=init,
          attention=self.attention,
          index=i,
          dtype=self.dtype,
          name=f"{i}",
      )(x, bias=bias)
    x = vit.LayerNorm(name="norm")(x[:, -hidden.shape[1] :])
    return dense(self.out, name="out")(x).astype(jnp.float32)
