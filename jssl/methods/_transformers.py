"""Shared by methods on the patches of a vision transformer."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl.nets import ViT
from jssl.nets.norm import normalize_images
from jssl.nets.patches import patchify


def check(net: nn.Module, method: str, *, partial: bool = False) -> None:
  """Checks that a method can use a net.

  Args:
    net: The net.
    method: Name of the method, for the message.
    partial: Whether the net has to encode a part of the patches.

  Raises:
    ValueError: Unless the net is a plain vision transformer, with absolute
      positions if it has to encode a part of the patches.
  """
  if not isinstance(net, ViT):
    raise ValueError(
        f"{method} works on the patches of a vision transformer, and the net is"
        f" a {type(net).__name__}; set net.name to vit_tiny or another vit_..."
        " and leave net.micro_batches at 1 (accumulate_steps is exact here)."
    )
  if partial and net.positions == "relative":
    raise ValueError(
        f"{method} encodes a part of the patches of an image, and relative"
        " positions need all; set net.positions to 'sincos' or 'learned'."
    )


def encode_some(
    net: ViT,
    images: jax.Array,
    index: jax.Array,
    *,
    valid: jax.Array | None = None,
    train: bool,
) -> tuple[jax.Array, tuple[int, int]]:
  """Encodes some patches of each image; the others do not enter the net.

  Args:
    net: A bound transformer.
    images: `[B, H, W, C]` in [0, 1].
    index: Indices of the patches, int `[B, N]`.
    valid: Which of them are attended to, bool `[B, N]`; None for all.
    train: Whether `drop_path` applies.

  Returns:
    Their tokens after the last block, after a class token if there is one, and
    the height and width of the images in patches.
  """
  patches = net.embed(images)  # [B, h, w, D]
  tokens = patches.reshape(len(images), -1, patches.shape[-1])
  tokens = jnp.take_along_axis(tokens, index[..., None], axis=1)  # [B, N, D]
  _, height, width, _ = patches.shape
  tokens = net.blocks(tokens, valid=valid, train=train)[-1]
  return tokens, (height, width)


def pixels_of(net: ViT, images: jax.Array) -> jax.Array:
  """Returns the patches `[B, T, P * P * C]` of images as the net sees them."""
  pixels = normalize_images(images, net.mean, net.std)
  return patchify(pixels, net.patch_size)
