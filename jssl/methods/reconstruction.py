"""What methods share that make an image of an image."""

from collections.abc import Sequence
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl.methods import branch as branches
from jssl.nets import BatchNorm
from jssl.nets import ConvDecoder


class Painter(nn.Module):
  """A backbone, and a decoder of its last feature map.

  Attributes:
    net: A backbone of `jssl.nets`.
    channels: Channels of the output, None for those of the images.
    stride: Side of the images over that of the output.
    width: See `ConvDecoder`.
    mix: See `ConvDecoder`.
    axis_name: Axis that statistics are synchronised over, or None.
  """

  net: nn.Module
  channels: int | None = None
  stride: int = 1
  width: int = 64
  mix: bool = False
  axis_name: Any = None

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps images `[B, H, W, C]` to float32 `[B, size, size, channels]`."""
    features = self.net(images, train=train)
    stages = features.keys() - {"pooled"}
    last = max(stages, key=lambda name: int(name.removeprefix("stage_")))
    decoder = ConvDecoder(
        images.shape[1] // self.stride,
        self.channels or images.shape[-1],
        width=self.width,
        norm=functools.partial(BatchNorm, axis_name=self.axis_name),
        mix=self.mix,
        dtype=branches.dtype_of(self.net),
        name="decoder",
    )
    return decoder(features[last], train=train)


def from_image(
    images: jax.Array,
    *,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
) -> jax.Array:
  """Maps [0, 1] to what decoders predict: by default [-2, 2].

  Args:
    images: `[..., C]`.
    mean: Subtracted: a number, or one per channel.
    std: Then divided by.
  """
  return (images - jnp.asarray(mean)) / jnp.asarray(std)


def to_image(
    prediction: jax.Array,
    *,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
) -> jax.Array:
  """Maps what a decoder predicts to [0, 1], the inverse of `from_image`."""
  pixels = jnp.asarray(mean) + jnp.asarray(std) * prediction
  return jnp.clip(pixels, 0.0, 1.0)
