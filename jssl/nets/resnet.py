"""Residual networks, with ImageNet and CIFAR stems and a width factor."""

from collections.abc import Sequence
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl.nets.backbone import stage_name
from jssl.nets.norm import BatchNorm, normalize_images

_STEMS = ("imagenet", "cifar")


class ResNet(nn.Module):
  """A residual network that returns every stage and the pooled features.

  Attributes:
    stage_sizes: Number of blocks in each stage.
    bottleneck: Whether blocks are 1x1-3x3-1x1 with four times wider outputs
      (stride in the 3x3 convolution) instead of two 3x3 convolutions.
    width: Channels of the first stage's 3x3 convolutions; each later stage has
      twice as many. 64 in the paper.
    stem: "imagenet" (7x7 convolution of stride 2, then max-pooling) or "cifar"
      (one 3x3 convolution of stride 1).
    mean: Subtracted from images in [0, 1]: a number, or one per channel.
    std: Divides the result: a number, or one per channel.
    zero_init_residual: Whether the scale of each block's last normalisation
      starts at 0, so that the block starts as the identity.
    groups: See `BatchNorm`.
    axis_name: See `BatchNorm`.
    dtype: Type of the computation; parameters and statistics are float32.

  Reference:
    He et al., Deep Residual Learning, 2016; the stride's place as in
    torchvision's models (version 1.5).

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jssl import nets
    >>> net = nets.resnet8(stem="cifar", width=4)
    >>> images = jnp.zeros((2, 8, 8, 3))
    >>> variables = jax.jit(net.init)(jax.random.key(0), images)
    >>> sorted(variables)  # Running statistics are apart from parameters.
    ['batch_stats', 'params']
    >>> features = jax.jit(net.apply)(variables, images)
    >>> features["stage_3"].shape, features["pooled"].shape
    ((2, 2, 2, 16), (2, 16))

    A published one by name, of which only the shapes are computed:

    >>> images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    >>> init = nets.resnet18().init
    >>> variables = jax.eval_shape(init, jax.random.key(0), images)
    >>> sum(x.size for x in jax.tree.leaves(variables["params"]))
    11176512
  """

  stage_sizes: Sequence[int]
  bottleneck: bool = False
  width: int = 64
  stem: str = "imagenet"
  mean: float | Sequence[float] = 0.5
  std: float | Sequence[float] = 0.25
  zero_init_residual: bool = False
  groups: int = 1
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
      self, images: jax.Array, *, train: bool = False, views: int = 1
  ) -> dict[str, jax.Array]:
    """Computes features.

    Args:
      images: `[V * B, H, W, C]` in [0, 1].
      train: Whether to normalise by the batch and update running statistics
        (collection "batch_stats"), or to use the running ones.
      views: Number of views V that are normalised separately; see `BatchNorm`.

    Returns:
      `{"stage_1": [V * B, h, w, c], ..., "pooled": [V * B, D]}`, pooled in
      float32.

    Raises:
      ValueError: If `stem` is unknown, the batch is not divisible into the
        groups of `BatchNorm`, or `mean` or `std` does not fit the channels.
    """
    if self.stem not in _STEMS:
      raise ValueError(f"stem is {self.stem!r}; expected one of {_STEMS}.")
    conv = functools.partial(
        nn.Conv,
        use_bias=False,
        dtype=self.dtype,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    )
    norm = functools.partial(
        BatchNorm, self.groups, self.axis_name, dtype=self.dtype
    )
    x = normalize_images(images, self.mean, self.std)
    x = x.astype(self.dtype)
    if self.stem == "imagenet":
      x = conv(self.width, (7, 7), 2, padding=3, name="stem")(x)
    else:
      x = conv(self.width, (3, 3), name="stem")(x)
    x = nn.relu(norm(name="stem_norm")(x, train=train, views=views))
    if self.stem == "imagenet":
      x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
    features = {}
    for i, blocks in enumerate(self.stage_sizes, start=1):
      stage = stage_name(i)
      for j in range(1, blocks + 1):
        x = Block(
            self.width * 2 ** (i - 1),
            stride=2 if i > 1 and j == 1 else 1,
            bottleneck=self.bottleneck,
            zero_init=self.zero_init_residual,
            conv=conv,
            norm=norm,
            name=f"{stage}_block_{j}",
        )(x, train=train, views=views)
      features[stage] = x
    features["pooled"] = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
    return features


class Block(nn.Module):
  """A residual block: two 3x3 convolutions, or a bottleneck.

  Attributes:
    channels: Channels of the 3x3 convolutions.
    stride: Stride of the block.
    bottleneck: See `ResNet`.
    zero_init: See `ResNet.zero_init_residual`.
    conv: Constructor of a convolution.
    norm: Constructor of a normalisation.
  """

  channels: int
  stride: int
  bottleneck: bool
  zero_init: bool
  conv: Any
  norm: Any

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, views: int) -> jax.Array:
    """Maps `[B, h, w, c]` to `[B, h / stride, w / stride, channels (x4)]`."""
    run = dict(train=train, views=views)
    three = functools.partial(self.conv, self.channels, (3, 3), padding=1)
    if self.bottleneck:
      out = 4 * self.channels
      convs: tuple[nn.Module, ...] = (
          self.conv(self.channels, (1, 1), name="conv_1"),
          three(strides=self.stride, name="conv_2"),
          self.conv(out, (1, 1), name="conv_3"),
      )
    else:
      out = self.channels
      convs = (three(strides=self.stride, name="conv_1"), three(name="conv_2"))
    y = x
    for i, layer in enumerate(convs, start=1):
      last = i == len(convs)
      zeros = nn.initializers.zeros
      scale = dict(scale_init=zeros) if last and self.zero_init else {}
      y = self.norm(name=f"norm_{i}", **scale)(layer(y), **run)
      y = y if last else nn.relu(y)
    if x.shape != y.shape:
      # The gradient of a strided convolution is slow: it is written with gaps.
      x = x[:, :: self.stride, :: self.stride]
      x = self.conv(out, (1, 1), name="shortcut")(x)
      x = self.norm(name="shortcut_norm")(x, **run)
    return nn.relu(x + y)


# The CIFAR family of section 4.2 with one block per stage; its width is 16.
resnet8 = functools.partial(ResNet, (1, 1, 1))
resnet18 = functools.partial(ResNet, (2, 2, 2, 2))
resnet34 = functools.partial(ResNet, (3, 4, 6, 3))
resnet50 = functools.partial(ResNet, (3, 4, 6, 3), True)
resnet101 = functools.partial(ResNet, (3, 4, 23, 3), True)
