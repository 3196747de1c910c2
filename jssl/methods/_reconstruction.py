"""Networks and scales of methods that predict an image from an image."""

import functools
from typing import Any

import flax.linen as nn
import jax

from jssl.methods import _branch
from jssl.nets import BatchNorm, ConvDecoder, stage_names


class Autoencoder(nn.Module):
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
    decoder = ConvDecoder(
        images.shape[1] // self.stride,
        self.channels or images.shape[-1],
        width=self.width,
        norm=functools.partial(BatchNorm, axis_name=self.axis_name),
        mix=self.mix,
        dtype=_branch.dtype_of(self.net),
        name="decoder",
    )
    return decoder(features[stage_names(features)[-1]], train=train)
