"""Large batches in little memory, with exact gradients."""

import functools
from typing import Any

import flax.linen as nn
import jax

from jssl.nets.vit import ViT


class MicroBatched(nn.Module):
  """A backbone that processes the batch in parts.

  Gradient accumulation changes a loss that compares the images of a batch: each
  part would see its own negatives only. Here only the backbone works in parts.
  Its forward pass keeps only the features of a part; the loss sees those of the
  whole batch; the backward pass computes each part again and adds its gradient.
  Value and gradient are those of the whole batch, memory is that of one part,
  and the cost is one more forward pass. On CPU a ResNet saves no memory.

  Batch normalisation sees one part: `groups` of the net divide a part, and
  running statistics are updated once per part.

  Attributes:
    net: A backbone.
    parts: Number of parts, a divisor of the batch on a device.

  Reference:
    Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory
    Limited Setup, 2021 (GradCache).

  Example:
    >>> import jax
    >>> from jssl import nets
    >>> net = nets.ViT(8, depth=1, heads=1, patch_size=4, image_size=8)
    >>> parts = nets.MicroBatched(net, 2)
    >>> images = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
    >>> params = jax.jit(parts.init)(jax.random.key(1), images)  # The net's.
    >>> @jax.jit
    ... def difference(params):
    ...   whole = net.apply(params, images, train=True)["pooled"]
    ...   again = parts.apply(params, images, train=True)["pooled"]
    ...   return jax.numpy.abs(whole - again).max()
    >>> bool(difference(params) < 1e-5)
    True
  """

  net: nn.Module
  parts: int

  def setup(self) -> None:
    """Shares the scope of the net, so that parameter trees are the same."""
    nn.share_scope(self, self.net)

  @property
  def dtype(self) -> Any:
    """The computation type of the net."""
    return self.net.dtype

  def __call__(
      self, images: jax.Array, *, train: bool = False, views: int = 1
  ) -> dict[str, jax.Array]:
    """Computes features, as the net does.

    Args:
      images: `[V * B, H, W, C]` in [0, 1].
      train: Whether to run in training mode, and in parts; without gradients
        there is little memory to save.
      views: Number of views V that are normalised separately; a part has all
        views of its images.

    Returns:
      `{"stage_1": [V * B, ...], ..., "pooled": [V * B, D]}`.

    Raises:
      ValueError: In training, if the parts do not divide B.
    """
    if not train or self.is_initializing():
      return self.net(images, train=train)
    size = images.shape[0] // views
    if self.parts < 1 or size % self.parts:
      raise ValueError(
          f"A batch of {size} images on a device is not divisible into"
          f" {self.parts} parts; change the batch size or net.micro_batches."
      )

    # From [V, parts, B / parts] to [parts, V, B / parts], and back.
    split = images.reshape(views, self.parts, -1, *images.shape[1:])
    split = split.swapaxes(0, 1).reshape(self.parts, -1, *images.shape[1:])
    features, new = self._scan(split, views)
    for name, value in new.items():
      self.put_variable("batch_stats", name, value)

    def join(x):
      x = x.reshape(self.parts, views, -1, *x.shape[2:]).swapaxes(0, 1)
      return x.reshape(-1, *x.shape[3:])

    return jax.tree.map(join, features)

  def _scan(self, images, views):
    """Returns features of all parts, and the running statistics at last."""
    net, variables = self.net.unbind()
    stats = variables.pop("batch_stats", {})
    mutable = ["batch_stats"] * self.is_mutable_collection("batch_stats")
    keys = None
    if self.has_rng("dropout"):
      keys = jax.random.split(self.make_rng("dropout"), self.parts)

    def run(variables, stats, keys, images, *, unrolled):

      def part(stats, inputs):
        key, images = inputs
        features, new = net.apply(
            {**variables, "batch_stats": stats},
            images,
            train=True,
            views=views,
            mutable=mutable,
            rngs=None if key is None else {"dropout": key},
        )
        return new.get("batch_stats", stats), features

      # In a loop nothing is shared with the backward pass in any case.
      part = jax.checkpoint(part, prevent_cse=unrolled)
      unroll = self.parts if unrolled else 1
      return jax.lax.scan(part, stats, (keys, images), unroll=unroll)

    # In a loop on CPU, ResNets take 15 times as long and transformers half.
    on_cpu = functools.partial(run, unrolled=not isinstance(net, ViT))
    stats, features = jax.lax.platform_dependent(
        *(variables, stats, keys, images),
        cpu=on_cpu,
        default=functools.partial(run, unrolled=False),
    )
    return features, stats if mutable else {}
