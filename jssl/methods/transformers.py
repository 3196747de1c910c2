"""What methods share that work on the tokens of a vision transformer."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl.nets import ViT


def check(net: nn.Module, method: str) -> None:
  """Raises ValueError unless the net is a plain vision transformer."""
  if not isinstance(net, ViT):
    raise ValueError(
        f"{method} works on the patches of a vision transformer, and the net is"
        f" a {type(net).__name__}; set net.name to vit_tiny or another vit_..."
        " and leave net.micro_batches at 1 (accumulate_steps is exact here)."
    )


def encode_some(
    net: ViT, images: jax.Array, index: jax.Array, *, train: bool
) -> tuple[jax.Array, tuple[int, int]]:
  """Encodes some patches of each image, and nothing else.

  Args:
    net: A bound transformer.
    images: `[B, H, W, C]` in [0, 1].
    index: Which patches, int `[B, N]`.
    train: Whether `drop_path` applies.

  Returns:
    Their tokens after the last block, a class token first where there is one,
    and the height and width of the images in patches.
  """
  patches = net.embed(images)
  tokens = patches.reshape(len(images), -1, patches.shape[-1])
  tokens = jnp.take_along_axis(tokens, index[..., None], axis=1)
  _, height, width, _ = patches.shape
  return net.blocks(tokens, train=train)[-1], (height, width)
