"""Vision transformers, with learned or sine-cosine positions."""

from collections.abc import Sequence
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jssl.nets.patches import grid_of

_POOLINGS = ("token", "mean")
_POSITIONS = ("learned", "sincos")

# PyTorch's trunc_normal_(std=0.02) cuts at -2 and 2, which it never meets.
_INIT = nn.initializers.normal(0.02)
# Of the flattened patch: without the axes, Flax counts a patch's pixels into
# the fan-out too.
_PATCH_INIT = nn.initializers.variance_scaling(
    1.0, "fan_avg", "uniform", in_axis=(0, 1, 2), out_axis=3
)


class ViT(nn.Module):
  """A vision transformer that returns patch features and pooled features.

  Kernels, tables and the class token start as in DINO, normal of deviation
  0.02, but the patch projection as in MoCo v3 and MAE, Xavier uniform. (MoCo v3
  starts all kernels so, and the class token at a deviation of 1e-6.)

  Attributes:
    width: Width D of a token.
    depth: Number of blocks.
    heads: Number of attention heads, a divisor of the width.
    patch_size: Side of a patch in pixels.
    mlp_ratio: Width of a block's hidden layer over that of a token.
    pooling: What is pooled: "token", a class token that attends to the patches,
      or "mean", the mean of the patch tokens, and there is no class token.
    positions: "learned", a table that is resized for other image sizes, or
      "sincos", the fixed one of `sincos_2d`, made for the size at hand.
    image_size: Side of the images that the learned table is made for.
    drop_path: Rate at which the last block's branches are left out in training
      (stochastic depth); it grows linearly from 0 at the first block. Nothing
      is left out without a "dropout" PRNG key, as in a target network.
    mean: Subtracted from images in [0, 1]: a number, or one per channel.
    std: Then divided by.
    axis_name: Not used, since there are no batch statistics; nets share it.
    dtype: Type of the computation; parameters are float32.

  References:
    Dosovitskiy et al., An Image is Worth 16x16 Words, 2021; the resized table
    as in Caron et al., Emerging Properties in Self-Supervised Vision
    Transformers, 2021 (DINO); the fixed one and the projection's start as in
    Chen et al., An Empirical Study of Training Self-Supervised Vision
    Transformers, 2021 (MoCo v3).

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jssl import nets
    >>> net = nets.ViT(32, depth=2, heads=2, patch_size=4, image_size=16)
    >>> images = jnp.zeros((1, 16, 24, 3))  # Positions are resized for it.
    >>> params = jax.jit(net.init)(jax.random.key(0), images)
    >>> features = jax.jit(net.apply)(params, images)
    >>> features["stage_2"].shape, features["pooled"].shape
    ((1, 4, 6, 32), (1, 32))

    A published one by name, of which only the shapes are computed:

    >>> images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    >>> params = jax.eval_shape(nets.vit_tiny().init, jax.random.key(0), images)
    >>> sum(x.size for x in jax.tree.leaves(params))
    5524416
  """

  width: int
  depth: int
  heads: int
  patch_size: int = 16
  mlp_ratio: float = 4
  pooling: str = "token"
  positions: str = "learned"
  image_size: int = 224
  drop_path: float = 0.0
  mean: float | Sequence[float] = 0.5
  std: float | Sequence[float] = 0.25
  axis_name: str | None = None
  dtype: Any = jnp.float32

  def setup(self) -> None:
    """Checks the arguments and makes the layers."""
    if self.pooling not in _POOLINGS:
      raise ValueError(
          f"pooling is {self.pooling!r}; expected one of {_POOLINGS}."
      )
    if self.positions not in _POSITIONS:
      raise ValueError(
          f"positions is {self.positions!r}; expected one of {_POSITIONS}."
      )
    if self.width % self.heads:
      raise ValueError(
          f"A width of {self.width} is not divisible by {self.heads} heads;"
          " change the width or heads."
      )
    self.patch = nn.Conv(
        self.width,
        (self.patch_size, self.patch_size),
        self.patch_size,
        padding="VALID",
        dtype=self.dtype,
        kernel_init=_PATCH_INIT,
    )
    if self.positions == "learned":
      grid = grid_of(self.image_size, self.image_size, self.patch_size)
      shape = (*grid, self.width)
      self.patch_positions = self.param("patch_positions", _INIT, shape)
    if self.pooling == "token":
      self.class_token = self.param("class_token", _INIT, (1, self.width))
      if self.positions == "learned":
        self.class_position = self.param(
            "class_position", _INIT, (1, self.width)
        )
    rates = np.linspace(0.0, self.drop_path, self.depth)
    self.block = {
        str(i): Block(self.heads, self.mlp_ratio, float(rate), self.dtype)
        for i, rate in enumerate(rates, start=1)
    }
    # In float32, as the pooled features are.
    self.norm = nn.LayerNorm(epsilon=1e-6)

  def __call__(
      self, images: jax.Array, *, train: bool = False
  ) -> dict[str, jax.Array]:
    """Computes features.

    Args:
      images: `[B, H, W, C]` in [0, 1], H and W multiples of `patch_size`.
      train: Whether `drop_path` applies.

    Returns:
      `{"stage_1": [B, h, w, D], ..., "pooled": [B, D]}`: the patch tokens after
      each quarter of the blocks (after each block where there are fewer than
      four), the last after the final normalisation; and, in float32 and of the
      same normalised tokens, the class token or the mean of the patches.

    Raises:
      ValueError: If patches do not divide the images or the heads do not divide
        the width, or if `pooling` or `positions` is none of theirs.
    """
    patches = self.embed(images)
    tokens = patches.reshape(patches.shape[0], -1, self.width)
    stages = self.blocks(tokens, train=train)
    first = 1 if self.pooling == "token" else 0  # Of the patch tokens.
    features = {
        f"stage_{i}": x[:, first:].astype(self.dtype).reshape(patches.shape)
        for i, x in enumerate(stages, start=1)
    }
    last = stages[-1]
    features["pooled"] = last[:, 0] if first else jnp.mean(last, axis=1)
    return features

  def embed(self, images: jax.Array) -> jax.Array:
    """Projects patches of images and adds positions: `[B, h, w, D]`."""
    x = self.project(images)
    return x + self.positions_of((x.shape[1], x.shape[2]))

  def project(self, images: jax.Array) -> jax.Array:
    """Projects patches of images, without positions: `[B, h, w, D]`."""
    grid_of(images.shape[1], images.shape[2], self.patch_size)
    x = (images - jnp.asarray(self.mean)) / jnp.asarray(self.std)
    return self.patch(x.astype(self.dtype))

  def positions_of(self, grid: tuple[int, int]) -> jax.Array:
    """Returns the positions of a grid of patches, `[h, w, D]`."""
    if self.positions == "sincos":
      table = sincos_2d(self.width, grid).reshape(*grid, self.width)
    else:
      table = self.patch_positions
      if table.shape[:2] != grid:
        table = jax.image.resize(
            table, (*grid, self.width), "cubic", antialias=False
        )
    return table.astype(self.dtype)

  def blocks(self, tokens: jax.Array, *, train: bool) -> list[jax.Array]:
    """Runs the blocks on patch tokens, any number of them.

    Args:
      tokens: `[B, T, D]`, with their positions.
      train: Whether `drop_path` applies.

    Returns:
      All tokens after each stage, the class token first where there is one:
      `[B, T, D]` or `[B, 1 + T, D]`; the last after the final normalisation.
    """
    x = tokens.astype(self.dtype)
    if self.pooling == "token":
      token = self.class_token
      if self.positions == "learned":
        token = token + self.class_position
      token = jnp.broadcast_to(token, (x.shape[0], 1, self.width))
      x = jnp.concatenate([token.astype(self.dtype), x], axis=1)
    count = min(4, self.depth)
    ends = [self.depth * i // count for i in range(1, count + 1)]
    stages = []
    for i in range(1, self.depth + 1):
      x = self.block[str(i)](x, train=train)
      if i in ends:
        stages.append(x)
    stages[-1] = self.norm(x)
    return stages


class Block(nn.Module):
  """A pre-norm transformer block: attention, then two linear layers.

  Attributes:
    heads: See `ViT`.
    mlp_ratio: See `ViT`.
    drop_path: Rate at which each of the two branches is left out in training,
      for each image alone.
    dtype: See `ViT`.
  """

  heads: int
  mlp_ratio: float
  drop_path: float
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps `[B, T, D]` to `[B, T, D]`."""
    width = x.shape[-1]
    dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=_INIT)
    norm = functools.partial(nn.LayerNorm, epsilon=1e-6, dtype=self.dtype)
    drop = nn.Dropout(
        self.drop_path,
        broadcast_dims=(1, 2),
        deterministic=not train or not self.has_rng("dropout"),
    )
    # One matrix and one bias, as optimizers treat parameters by dimensions.
    y = dense(3 * width, name="qkv")(norm(name="norm_1")(x))
    heads = lambda z: z.reshape(*z.shape[:2], self.heads, -1).swapaxes(1, 2)
    y = attend(*map(heads, jnp.split(y, 3, axis=-1)))  # [B, heads, T, D/heads]
    x = x + drop(dense(width, name="out")(y.swapaxes(1, 2).reshape(x.shape)))
    y = dense(int(width * self.mlp_ratio), name="mlp_1")(norm(name="norm_2")(x))
    y = gelu(y)
    return x + drop(dense(width, name="mlp_2")(y))


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  """Averages values by the softmax of scaled products of queries and keys.

  The value and gradient of `jax.nn.dot_product_attention`; on CPU in two thirds
  of its time, as products of matrices that lie together, and with the softmax's
  division after the second product instead of before.

  Args:
    query: `[B, heads, T, D]`.
    key: `[B, heads, S, D]`.
    value: `[B, heads, S, D]`.

  Returns:
    `[B, heads, T, D]`, of the type of `value`; the softmax is in float32.

  Reference:
    Vaswani et al., Attention Is All You Need, 2017, equation 1.
  """
  query = query * np.float32(query.shape[-1] ** -0.5).astype(query.dtype)
  scores = jnp.matmul(
      query, key.swapaxes(-1, -2), preferred_element_type=jnp.float32
  )
  largest = jnp.max(scores, axis=-1, keepdims=True)
  weights = jnp.exp(scores - jax.lax.stop_gradient(largest))
  total = jnp.sum(weights, axis=-1, keepdims=True)
  sums = jnp.matmul(
      weights.astype(value.dtype), value, preferred_element_type=jnp.float32
  )
  return (sums / total).astype(value.dtype)


def gelu(x: jax.Array) -> jax.Array:
  """The exact GELU, by erf: faster than by erfc, as `nn.gelu` has it.

  Equal but for rounding where the result is below 1e-6 of x.

  Reference:
    Hendrycks and Gimpel, Gaussian Error Linear Units, 2016, equation 1.
  """
  return 0.5 * x * (1 + jax.lax.erf(x * np.asarray(2**-0.5, x.dtype)))


def sincos_2d(dim: int, grid: tuple[int, int]) -> jax.Array:
  """Makes a table of positions in two dimensions.

  The first half of the dimensions tells the column and the second the row, each
  by sines, then cosines, of frequencies from 1 down to (almost) 1 / 10000.

  Args:
    dim: Width of the table, a multiple of 4.
    grid: Height h and width w.

  Returns:
    `[h * w, dim]`, float32, row after row.

  Reference:
    MoCo v3 (see `ViT`), in the order of He et al., Masked Autoencoders Are
    Scalable Vision Learners, 2022.

  Raises:
    ValueError: If the width is not a multiple of 4.

  Example:
    >>> from jssl.nets.vit import sincos_2d
    >>> table = sincos_2d(8, (2, 3))  # Two rows of three patches.
    >>> table.shape, table[0].tolist()  # At the origin: sines 0, cosines 1.
    ((6, 8), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0])
  """
  if dim % 4:
    raise ValueError(
        f"Sine-cosine positions of width {dim} need a multiple of 4; change the"
        " width or use learned positions."
    )
  rows, columns = np.indices(grid).reshape(2, -1, 1)
  frequencies = 10000.0 ** (-np.arange(dim // 4) / (dim // 4))
  angles = (columns * frequencies, rows * frequencies)
  parts = [f(x) for x in angles for f in (np.sin, np.cos)]
  return jnp.asarray(np.concatenate(parts, axis=1), jnp.float32)


# The width is bound by position, so that a config's "width" of a ResNet cannot
# replace it; the rest can change: MoCo v3's small one has 12 heads.
vit_micro = functools.partial(ViT, 96, depth=4, heads=3)  # Not published.
vit_tiny = functools.partial(ViT, 192, depth=12, heads=3)
vit_small = functools.partial(ViT, 384, depth=12, heads=6)
vit_base = functools.partial(ViT, 768, depth=12, heads=12)
vit_large = functools.partial(ViT, 1024, depth=24, heads=16)
