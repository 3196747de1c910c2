"""What methods share that work on the tokens of a vision transformer."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl.nets import ViT


def check(net: nn.Module, method: str, *, some: bool = False) -> None:
  """Checks that a method can use a net.

  Args:
    net: The net.
    method: Name of the method, for the message.
    some: Whether the net sees some patches alone.

  Raises:
    ValueError: Unless the net is a plain vision transformer, of positions of
      its patches where it sees some alone.
  """
  if not isinstance(net, ViT):
    raise ValueError(
        f"{method} works on the patches of a vision transformer, and the net is"
        f" a {type(net).__name__}; set net.name to vit_tiny or another vit_..."
        " and leave net.micro_batches at 1 (accumulate_steps is exact here)."
    )
  if some and net.positions == "relative":
    raise ValueError(
        f"{method} shows its net some patches of an image, and relative"
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
  """Encodes some patches of each image, and nothing else.

  Args:
    net: A bound transformer.
    images: `[B, H, W, C]` in [0, 1].
    index: Which patches, int `[B, N]`.
    valid: Which of these count, bool `[B, N]`; None for all.
    train: Whether `drop_path` applies.

  Returns:
    Their tokens after the last block, a class token first where there is one,
    and the height and width of the images in patches.
  """
  patches = net.embed(images)
  tokens = patches.reshape(len(images), -1, patches.shape[-1])
  tokens = jnp.take_along_axis(tokens, index[..., None], axis=1)
  _, height, width, _ = patches.shape
  tokens = net.blocks(tokens, valid=valid, train=train)[-1]
  return tokens, (height, width)
