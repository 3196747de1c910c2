"""Large batches in little memory, exactly."""

from typing import Any

import flax.linen as nn
import jax


class MicroBatched(nn.Module):
  """A backbone that computes its features a part of the batch at a time.

  Gradient accumulation changes a loss that looks across the batch: each part
  would see the negatives of its part alone. Here only the backbone works in
  parts. Forward, it keeps nothing of a part but its features; the loss sees
  those of the whole batch; backward, each part is computed once more and its
  gradient added. Value and gradient are those of the whole batch, memory is
  that of one part, and the cost is one more forward pass.

  Batch normalisation sees a part: `groups` of the net count within it, and
  running statistics move once a part.

  Attributes:
    net: A backbone.
    parts: Number of parts, a divisor of the batch on a device.

  Reference:
    Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory
    Limited Setup, 2021 (GradCache).
  """

  net: nn.Module
  parts: int

  def setup(self) -> None:
    """Takes the net's place in the tree of parameters."""
    nn.share_scope(self, self.net)

  @property
  def dtype(self) -> Any:
    """Of the computation."""
    return self.net.dtype

  def __call__(
      self, images: jax.Array, *, train: bool = False
  ) -> dict[str, jax.Array]:
    """Computes the features of images `[B, H, W, C]`, as the net does."""
    if not train or self.is_initializing():
      return self.net(images, train=train)
    size = images.shape[0]
    if self.parts < 1 or size % self.parts:
      raise ValueError(
          f"A batch of {size} images on a device is not divisible into"
          f" {self.parts} parts; change the batch size or net.micro_batches."
      )

    def part(net, carry, images):
      return carry, net(images, train=True)

    # XLA's CPU backend is slow at convolutions inside of a loop.
    unrolled = jax.default_backend() == "cpu"
    scan = nn.scan(
        nn.remat(part, prevent_cse=unrolled),
        variable_broadcast="params",
        variable_carry="batch_stats",
        split_rngs={"dropout": True},
        unroll=self.parts if unrolled else 1,
    )
    images = images.reshape(self.parts, -1, *images.shape[1:])
    _, features = scan(self.net, None, images)
    return jax.tree.map(lambda x: x.reshape(size, *x.shape[2:]), features)
