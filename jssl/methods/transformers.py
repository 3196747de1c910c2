"""What methods share that work on the tokens of a vision transformer."""

import flax.linen as nn

from jssl.nets import ViT


def check(net: nn.Module, method: str) -> None:
  """Raises ValueError unless the net is a plain vision transformer."""
  if not isinstance(net, ViT):
    raise ValueError(
        f"{method} works on the patches of a vision transformer, and the net is"
        f" a {type(net).__name__}; set net.name to vit_tiny or another vit_..."
        " and leave net.micro_batches at 1 (accumulate_steps is exact here)."
    )
