"""Vision transformers, with learned, sine-cosine or relative positions."""

from collections.abc import Callable, Sequence
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.interpolate

from jssl.augment import resampling
from jssl.nets.attention import attend, bias_of, check_implementation
from jssl.nets.backbone import stage_name
from jssl.nets.norm import normalize_images
from jssl.nets.patches import grid_of

_POOLINGS = ("token", "mean", "patches")
_POSITIONS = ("learned", "sincos", "relative")
_ACTIVATIONS = ("gelu", "swiglu")
_RESIZES = ("dino", "bicubic", "antialias")


class WeightInit(NamedTuple):
  """Initialisers of a transformer; biases start at 0.

  Attributes:
    linear: For kernels of linear layers.
    qkv: For the joint kernel of queries, keys and values.
    patch: For the patch projection, `[P, P, C, D]`.
    class_token: For the class token.
    other: For mask tokens and learned positions.
    by_depth: Whether the last kernel of each branch of the i-th block is
      divided by sqrt(2 i).
  """

  linear: Callable[..., jax.Array]
  qkv: Callable[..., jax.Array]
  patch: Callable[..., jax.Array]
  class_token: Callable[..., jax.Array]
  other: Callable[..., jax.Array]
  by_depth: bool = False


def _xavier_each_of_three(key, shape, dtype=jnp.float32):
  """Xavier uniform for queries, keys and values, each by itself."""
  limit = (6 / (shape[0] + shape[1] // 3)) ** 0.5
  return jax.random.uniform(key, shape, dtype, -limit, limit)


def _cut_normal(key, shape, dtype=jnp.float32):
  """A normal of deviation 0.02, truncated at one deviation."""
  return 0.02 * jax.random.truncated_normal(key, -1, 1, shape, dtype)


def _flat_patch(scale, mode):
  # Fans of the flattened patch: without the axes, Flax would count a patch's
  # pixels into the fan-out too.
  return nn.initializers.variance_scaling(
      scale, mode, "uniform", in_axis=(0, 1, 2), out_axis=3
  )


# PyTorch's trunc_normal_(std=0.02) cuts at -2 and 2, 100 deviations away.
_NORMAL = nn.initializers.normal(0.02)
_XAVIER = nn.initializers.xavier_uniform()
_XAVIER_PATCH = _flat_patch(1.0, "fan_avg")
# As in the code of each method's authors.
WEIGHT_INITS = {
    # PyTorch's default for the patch projection, +-1 / sqrt(fan in).
    "dino": WeightInit(
        _NORMAL, _NORMAL, _flat_patch(1 / 3, "fan_in"), _NORMAL, _NORMAL
    ),
    "moco_v3": WeightInit(
        _XAVIER,
        _xavier_each_of_three,
        _XAVIER_PATCH,
        nn.initializers.normal(1e-6),
        _NORMAL,
    ),
    "mae": WeightInit(_XAVIER, _XAVIER, _XAVIER_PATCH, _NORMAL, _NORMAL),
    "ijepa": WeightInit(_NORMAL, _NORMAL, _NORMAL, _NORMAL, _NORMAL),
    "simmim": WeightInit(
        _cut_normal,
        _cut_normal,
        _cut_normal,
        _cut_normal,
        _cut_normal,
        by_depth=True,
    ),
}


class ViT(nn.Module):
  """A vision transformer that returns patch features and pooled features.

  Attributes:
    width: Width D of a token.
    depth: Number of blocks.
    heads: Number of attention heads, a divisor of the width.
    patch_size: Side of a patch in pixels.
    mlp_ratio: Width of a block's hidden layer over that of a token.
    pooling: What is pooled: "token", a class token that attends to the patches;
      "mean", the mean of the patch tokens, and there is no class token; or
      "patches", the mean of the patch tokens, next to a class token.
    positions: "learned", a table that is resized for other image sizes;
      "sincos", the fixed one of `sincos_2d`, made for the size at hand; or
      "relative", only a bias of the attention by the distance of two patches,
      from one table for all blocks, resized for other image sizes.
    position_resize: How a learned table is resized for other image sizes:
      "dino", as in DINO's code, bicubically to sides that are longer by a tenth
      of a patch; "bicubic", to the sides themselves, as in MAE's code; or
      "antialias", the same with a low-pass filter, as in timm and in DINOv2
      with registers.
    registers: Number of register tokens: they follow the class token and are
      not part of the features.
    image_size: Side of the images that the tables are made for.
    drop_path: Drop path rate of the last block in training (stochastic depth);
      it grows linearly from 0 at the first block. Both branches of a block are
      dropped independently of each other, and so are images. Without a
      "dropout" PRNG key, as in a target network, nothing is dropped.
    layer_scale: Initial value of a trained scale per feature of each branch; 0
      for no such scale.
    key_bias: Whether keys have a bias, as queries and values do. The softmax
      does not depend on it.
    weight_init: Initialisation, the name of a method whose authors' code uses
      it: "dino", normal of deviation 0.02, except that the patch projection is
      uniform in +-1 / sqrt(fan in); "ijepa", all normal of deviation 0.02;
      "mae", Xavier uniform; "moco_v3", the same, except that queries, keys and
      values are drawn separately and the class token at deviation 1e-6; or
      "simmim", normal of deviation 0.02 truncated at one deviation, and scaled
      by depth. In all of them biases start at 0.
    attention: Implementation of the attention, see
      `jssl.nets.attention.attend`.
    activation: Of the hidden layer of a block: "gelu", or "swiglu", a gated
      layer of two thirds of the width, rounded up to a multiple of 8.
    mean: Subtracted from images in [0, 1]: a number, or one per channel.
    std: Divides the result: a number, or one per channel.
    axis_name: Not used, since there are no batch statistics; all nets take it.
    dtype: Type of the computation; parameters are float32.

  References:
    Dosovitskiy et al., An Image is Worth 16x16 Words, 2021; the resized table
    as in Caron et al., Emerging Properties in Self-Supervised Vision
    Transformers, 2021 (DINO); the fixed one as in Chen et al., An Empirical
    Study of Training Self-Supervised Vision Transformers, 2021 (MoCo v3);
    relative positions, layer scale and keys without bias as in Bao et al.,
    BEiT: BERT Pre-Training of Image Transformers, 2022, and in SimMIM's code;
    registers as in Darcet et al., Vision Transformers Need Registers, 2024;
    the gated layer as in Oquab et al., DINOv2, 2024.

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
  position_resize: str = "dino"
  registers: int = 0
  image_size: int = 224
  drop_path: float = 0.0
  layer_scale: float = 0.0
  key_bias: bool = True
  weight_init: str = "dino"
  attention: str = "auto"
  activation: str = "gelu"
  mean: float | Sequence[float] = 0.5
  std: float | Sequence[float] = 0.25
  axis_name: str | None = None
  dtype: Any = jnp.float32

  def setup(self) -> None:
    """Checks the arguments and makes the layers."""
    for name, known in (
        ("pooling", _POOLINGS),
        ("positions", _POSITIONS),
        ("position_resize", _RESIZES),
        ("activation", _ACTIVATIONS),
    ):
      value = getattr(self, name)
      if value not in known:
        raise ValueError(f"{name} is {value!r}; expected one of {known}.")
    init = weight_init_of(self.weight_init)
    check_implementation(self.attention)
    if self.width % self.heads:
      raise ValueError(
          f"A width of {self.width} is not divisible by {self.heads} heads;"
          " change the width or heads."
      )
    if self.layer_scale < 0:
      raise ValueError(
          f"layer_scale is {self.layer_scale}; expected more than 0, for"
          " example 0.1, or 0 for none."
      )
    self.patch = nn.Conv(
        self.width,
        (self.patch_size, self.patch_size),
        self.patch_size,
        padding="VALID",
        dtype=self.dtype,
        kernel_init=init.patch,
    )
    if self.positions != "sincos":
      rows, columns = grid_of(self.image_size, self.image_size, self.patch_size)
    if self.positions == "learned":
      shape = (rows, columns, self.width)
      self.patch_positions = self.param("patch_positions", init.other, shape)
    elif self.positions == "relative":
      zeros = nn.initializers.zeros
      shape = (2 * rows - 1, 2 * columns - 1, self.heads)
      self.relative_positions = self.param("relative_positions", zeros, shape)
    if self.has_class_token:
      self.class_token = self.param(
          "class_token", init.class_token, (1, self.width)
      )
      if self.positions == "learned":
        self.class_position = self.param(
            "class_position", init.other, (1, self.width)
        )
      elif self.positions == "relative":
        # From the class token to patches, from patches to it, to itself.
        self.class_relative_positions = self.param(
            "class_relative_positions", zeros, (3, self.heads)
        )
    if self.registers:
      self.register_tokens = self.param(
          "register_tokens", init.other, (self.registers, self.width)
      )
    self.block = {
        str(i): Block(
            self.heads,
            mlp_ratio=self.mlp_ratio,
            layer_scale=self.layer_scale,
            key_bias=self.key_bias,
            weight_init=init,
            attention=self.attention,
            activation=self.activation,
            index=i,
            dtype=self.dtype,
        )
        for i in range(1, self.depth + 1)
    }
    # In float32, as the pooled features are.
    self.norm = LayerNorm()

  @property
  def has_class_token(self) -> bool:
    """Whether a class token comes before the patch tokens."""
    return self.pooling != "mean"

  @property
  def first_patch(self) -> int:
    """Index of the first patch token, after the class token and registers."""
    return int(self.has_class_token) + self.registers

  def __call__(
      self, images: jax.Array, *, train: bool = False, views: int = 1
  ) -> dict[str, jax.Array]:
    """Computes features.

    Args:
      images: `[B, H, W, C]` in [0, 1], H and W multiples of `patch_size`.
      train: Whether `drop_path` applies.
      views: Not used, since there are no batch statistics; all nets take it.

    Returns:
      `{"stage_1": [B, h, w, D], ..., "pooled": [B, D]}`: the patch tokens after
      each quarter of the blocks (after each block where there are fewer than
      four), the last after the final normalisation; and, in float32 and of the
      same normalised tokens, the class token or the mean of the patches.

    Raises:
      ValueError: If patches do not divide the images or the heads do not divide
        the width, if `pooling` or `positions` is unknown, or if `mean` or `std`
        has another number of channels.
    """
    del views
    patches = self.embed(images)
    tokens = patches.reshape(patches.shape[0], -1, self.width)
    _, rows, columns, _ = patches.shape
    stages = self.blocks(tokens, grid=(rows, columns), train=train)
    first = self.first_patch
    features = {
        stage_name(i): x[:, first:].astype(self.dtype).reshape(patches.shape)
        for i, x in enumerate(stages, start=1)
    }
    last = stages[-1]
    if self.pooling == "token":
      features["pooled"] = last[:, 0]
    else:
      features["pooled"] = jnp.mean(last[:, first:], axis=1)
    return features

  def embed(self, images: jax.Array) -> jax.Array:
    """Projects patches of images and adds positions: `[B, h, w, D]`."""
    x = self.project(images)
    return x + self.positions_of((x.shape[1], x.shape[2]))

  def project(self, images: jax.Array) -> jax.Array:
    """Projects patches of images, without positions: `[B, h, w, D]`."""
    grid_of(images.shape[1], images.shape[2], self.patch_size)
    x = normalize_images(images, self.mean, self.std)
    return self.patch(x.astype(self.dtype))

  def positions_of(self, grid: tuple[int, int]) -> jax.Array:
    """Returns the positions of a grid of patches, `[h, w, D]`."""
    if self.positions == "relative":
      return jnp.zeros((*grid, self.width), self.dtype)
    if self.positions == "sincos":
      table = sincos_2d(self.width, grid).reshape(*grid, self.width)
    else:
      table = self.patch_positions
      if table.shape[:2] != grid:
        table = _resize_positions(table, grid, self.position_resize)
    return table.astype(self.dtype)

  def attention_bias(self, grid: tuple[int, int]) -> jax.Array | None:
    """Returns the bias of relative positions to the attention of a grid.

    Args:
      grid: Height h and width w in patches.

    Returns:
      float32 `[heads, T, T]`, from a token (row) to another, T = h * w, one
      more with a class token; None for other positions.
    """
    if self.positions != "relative":
      return None
    table = self.relative_positions
    sizes = [2 * side - 1 for side in grid]
    if table.shape[:2] != tuple(sizes):
      rows, columns = map(_by_distance, table.shape[:2], sizes)
      # A TPU would round to bfloat16.
      exact = jax.lax.Precision.HIGHEST
      table = jnp.einsum(
          "ai,bj,ijh->abh", rows, columns, table, precision=exact
      )
    places = np.indices(grid).reshape(2, -1)
    apart = places[:, :, None] - places[:, None]  # [2, T, T]
    apart += np.asarray(grid)[:, None, None] - 1
    bias = table[tuple(apart)]
    if self.registers:
      raise ValueError(
          f"registers is {self.registers}, and relative positions have none for"
          " them; set registers to 0, or positions to 'learned'."
      )
    if self.has_class_token:
      to_patches, to_class, to_itself = self.class_relative_positions
      count = bias.shape[0]
      top = jnp.broadcast_to(to_patches, (1, count, self.heads))
      left = jnp.broadcast_to(to_class, (count, 1, self.heads))
      top = jnp.concatenate([to_itself[None, None], top], axis=1)
      bias = jnp.concatenate([left, bias], axis=1)
      bias = jnp.concatenate([top, bias], axis=0)
    return jnp.moveaxis(bias, -1, 0)

  def blocks(
      self,
      tokens: jax.Array,
      *,
      grid: tuple[int, int] | None = None,
      valid: jax.Array | None = None,
      train: bool,
  ) -> list[jax.Array]:
    """Runs the blocks on patch tokens, any number of them.

    Args:
      tokens: `[B, T, D]`, with their positions.
      grid: Height and width in patches of the image that they fill; None for
        a part of an image, which relative positions do not support.
      valid: Which tokens are attended to, bool `[B, T]`; None for all.
      train: Whether `drop_path` applies.

    Returns:
      All tokens after each stage, class token and registers first where there
      are any: `[B, first_patch + T, D]`; the last after the final
      normalisation.

    Raises:
      ValueError: If relative positions are given a part of an image.
    """
    if self.positions == "relative" and grid is None:
      raise ValueError(
          "Relative positions need all patches of an image, not a part of them;"
          " set net.positions to 'sincos' or 'learned'."
      )
    x = tokens.astype(self.dtype)
    if self.first_patch:
      first = jnp.concatenate(self._first_tokens())
      first = jnp.broadcast_to(first, (x.shape[0], *first.shape))
      x = jnp.concatenate([first.astype(self.dtype), x], axis=1)
    bias = None if grid is None else self.attention_bias(grid)
    if valid is not None:
      first = jnp.ones((len(valid), x.shape[1] - valid.shape[1]), bool)
      bias = bias_of(jnp.concatenate([first, valid], axis=1), bias)
    count = min(4, self.depth)
    ends = [self.depth * i // count for i in range(1, count + 1)]
    stages = []
    scales: Any = [None] * self.depth
    if self.drop_path and train and self.has_rng("dropout"):
      rates = np.linspace(0.0, self.drop_path, self.depth)
      scales = branch_scales(self.make_rng("dropout"), rates, len(x))
    for i in range(1, self.depth + 1):
      x = self.block[str(i)](x, bias=bias, scales=scales[i - 1])
      if i in ends:
        stages.append(x)
    stages[-1] = self.norm(x)
    return stages

  def _first_tokens(self):
    """Returns the class token and the registers, those that there are."""
    tokens = []
    if self.has_class_token:
      tokens.append(self.class_token)
      if self.positions == "learned":
        tokens[0] = tokens[0] + self.class_position
    if self.registers:
      tokens.append(self.register_tokens)
    return tokens


class Block(nn.Module):
  """A pre-norm transformer block: attention, then two linear layers.

  Attributes:
    heads: See `ViT`.
    mlp_ratio: See `ViT`.
    layer_scale: See `ViT`.
    key_bias: See `ViT`.
    weight_init: Initialisers.
    attention: See `ViT`.
    activation: See `ViT`.
    index: Number of the block, from 1.
    dtype: See `ViT`.
  """

  heads: int
  mlp_ratio: float = 4
  layer_scale: float = 0.0
  key_bias: bool = True
  weight_init: WeightInit = WEIGHT_INITS["dino"]
  attention: str = "auto"
  activation: str = "gelu"
  index: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
      self,
      x: jax.Array,
      *,
      bias: jax.Array | None = None,
      scales: jax.Array | None = None,
  ) -> jax.Array:
    """Computes new tokens.

    Args:
      x: Tokens, `[B, T, D]`.
      bias: See `attend`.
      scales: Factors of the two branches of each image, float32 `[2, B]`, such
        as those of `branch_scales`; None for 1.

    Returns:
      `[B, T, D]`.
    """
    width = x.shape[-1]
    y = self._qkv(LayerNorm(dtype=self.dtype, name="norm_1")(x))
    heads = lambda z: z.reshape(*z.shape[:2], self.heads, -1)
    q, k, v = map(heads, y)  # [B, T, heads, D / heads]
    y = attend(q, k, v, bias=bias, implementation=self.attention)
    y = y.reshape(x.shape)
    y = self._dense(width, name="out", last=True)(y)
    x = x + self._scaled(1, y, scales)
    y = self._hidden(LayerNorm(dtype=self.dtype, name="norm_2")(x))
    y = self._dense(width, name="mlp_2", last=True)(y)
    return x + self._scaled(2, y, scales)

  def _qkv(self, x):
    """Projects tokens to queries, keys and values, `[B, T, D]` each."""
    query, key, value = _Projections(
        self.key_bias, self.weight_init.qkv, self.dtype, name="qkv"
    )(x)
    if not self.key_bias:
      zeros = nn.initializers.zeros
      query += self.param("query_bias", zeros, x.shape[-1:]).astype(self.dtype)
      value += self.param("value_bias", zeros, x.shape[-1:]).astype(self.dtype)
    return query, key, value

  def _hidden(self, x):
    """The hidden layer, `[B, T, mlp_ratio * D]` unless it is gated."""
    width = int(x.shape[-1] * self.mlp_ratio)
    if self.activation == "gelu":
      return gelu(self._dense(width, name="mlp_1")(x))
    width = -(-(2 * width // 3) // 8) * 8
    gate, y = jnp.split(self._dense(2 * width, name="mlp_1")(x), 2, axis=-1)
    return nn.silu(gate) * y

  def _dense(self, width, *, name, last=False):
    init = self.weight_init.linear
    if last and self.weight_init.by_depth:
      divisor = (2 * self.index) ** 0.5
      init = lambda *arguments: self.weight_init.linear(*arguments) / divisor
    return nn.Dense(width, dtype=self.dtype, kernel_init=init, name=name)

  def _scaled(self, i, x, scales):
    """Multiplies the first or second branch by its trained and given scales."""
    if self.layer_scale:
      start = nn.initializers.constant(self.layer_scale)
      trained = self.param(f"scale_{i}", start, x.shape[-1:])
      x = x * trained.astype(self.dtype)
    if scales is not None:
      # In float32: rounded, the scales would have another mean than 1.
      factor = scales[i - 1, :, None, None].astype(jnp.float32)
      x = (x.astype(jnp.float32) * factor).astype(self.dtype)
    return x


class _Projections(nn.Module):
  """Three linear layers of one kernel and one bias.

  They are one parameter, as optimizers treat parameters by their dimension, but
  three products: a TPU would have to cut a joint result, and join its gradient.
  """

  use_bias: bool
  kernel_init: Callable[..., jax.Array]
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> list[jax.Array]:
    """Maps `[..., D]` to three `[..., D]`."""
    shape = (x.shape[-1], 3 * x.shape[-1])
    kernel = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
    products = [x @ part for part in jnp.split(kernel, 3, axis=1)]
    if not self.use_bias:
      return products
    bias = self.param("bias", nn.initializers.zeros, shape[1:])
    biases = jnp.split(bias.astype(self.dtype), 3)
    return [product + part for product, part in zip(products, biases)]


def weight_init_of(name: str) -> WeightInit:
  """Returns the initialisers of a method by its name; see `ViT`.

  Raises:
    ValueError: If the name is unknown.
  """
  if name not in WEIGHT_INITS:
    raise ValueError(
        f"weight_init is {name!r}; expected one of {tuple(WEIGHT_INITS)}."
    )
  return WEIGHT_INITS[name]


def branch_scales(
    key: jax.Array, rates: Sequence[float] | np.ndarray, batch: int
) -> jax.Array:
  """Draws drop path (stochastic depth) for all blocks at once.

  Args:
    key: A PRNG key.
    rates: Drop path rate of each block.
    batch: Number of images B.

  Returns:
    Factors of the two branches of each block and image, float32 `[len(rates),
    2, B]`: 0 with the probability of the block's rate, else 1 / (1 - rate), so
    that their mean is 1.

  Reference:
    Huang et al., Deep Networks with Stochastic Depth, 2016.

  Example:
    >>> import jax
    >>> import numpy as np
    >>> from jssl.nets.vit import branch_scales
    >>> scales = branch_scales(jax.random.key(0), [0.0, 0.5], 100)
    >>> scales.shape, np.unique(scales[0]), np.unique(scales[1])
    ((2, 2, 100), array([1.], dtype=float32), array([0., 2.], dtype=float32))
  """
  kept = 1 - np.asarray(rates, np.float32)[:, None, None]
  lots = jax.random.bernoulli(key, kept, (len(rates), 2, batch))
  return jnp.where(lots, 1 / np.maximum(kept, 1e-30), 0.0)


class LayerNorm(nn.LayerNorm):
  """A LayerNorm whose variance keeps its digits at a large mean.

  Flax's default, E[x^2] - E[x]^2, keeps none at N(2000, 1), and its two-pass
  variance costs an eighth of a ViT's step on CPU. Here tokens are first shifted
  by their first feature, which changes nothing else and is free: any of D
  features is within sqrt(D) deviations of the mean.
  """

  epsilon: float = 1e-6

  def __call__(
      self, x: jax.Array, *, mask: jax.Array | None = None
  ) -> jax.Array:
    """Normalises `[..., D]` over its last dimension; for the mask see Flax."""
    x = x.astype(jnp.float32)
    return super().__call__(x - jax.lax.stop_gradient(x[..., :1]), mask=mask)


def gelu(x: jax.Array) -> jax.Array:
  """The exact GELU, by erf, which is faster than the erfc of `nn.gelu`.

  They differ only in rounding where the result is below 1e-6 of x.

  Reference:
    Hendrycks and Gimpel, Gaussian Error Linear Units, 2016, equation 1.
  """
  return 0.5 * x * (1 + jax.lax.erf(x * np.asarray(2**-0.5, x.dtype)))


def sincos_2d(dim: int, grid: tuple[int, int]) -> jax.Array:
  """Makes a table of positions in two dimensions.

  The first half of the dimensions encodes the column and the second the row,
  each by sines, then cosines, of frequencies from 1 down to almost 1 / 10000.

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


def _resize_positions(table, grid, how):
  """Resizes a table `[h, w, D]`; see `ViT.position_resize`.

  DINO's code asks for sides longer by a tenth of a patch and gets whole
  patches, so that entries are slightly denser than those of a resized image.
  """
  more = 0.1 if how == "dino" else 0.0
  box = [old * new / (new + more) for old, new in zip(table.shape, grid)]
  return resampling.resized_crop(
      table,
      (0.0, 0.0, *box),
      grid,
      method="bicubic",
      antialias=how == "antialias",
  )


def _by_distance(size: int, new: int) -> np.ndarray:
  """Weights that resize one side of a relative table, `[new, size]`, both odd.

  As in the code of BEiT and SimMIM: entries are placed at distances that grow
  by a constant factor, so that the largest is that of the new size and near
  patches keep their entries, with cubic splines between them. Smaller images
  get (almost) the entries of their distances.
  """
  half = size // 2
  if not half:
    return np.ones((new, 1), np.float32)
  low, high = 1.01, 1.5
  while high - low > 1e-6:
    factor = (low + high) / 2
    reach = (1 - factor**half) / (1 - factor)
    low, high = (low, factor) if reach > new // 2 else (factor, high)
  known = np.cumsum(factor ** np.arange(half))
  known = np.concatenate([-known[::-1], [0.0], known])
  wanted = np.clip(np.arange(new) - new // 2, known[0], known[-1])
  spline = scipy.interpolate.make_interp_spline(
      known, np.eye(size), k=min(3, size - 1)
  )
  return spline(wanted).astype(np.float32)


# The width is bound by position, so that a config's "width" of a ResNet cannot
# replace it; the rest can change: MoCo v3's ViT-S has 12 heads.
vit_micro = functools.partial(ViT, 96, depth=4, heads=3)  # Not published.
vit_tiny = functools.partial(ViT, 192, depth=12, heads=3)
vit_small = functools.partial(ViT, 384, depth=12, heads=6)
vit_base = functools.partial(ViT, 768, depth=12, heads=12)
vit_large = functools.partial(ViT, 1024, depth=24, heads=16)
vit_huge = functools.partial(ViT, 1280, depth=32, heads=16)
# DINOv2's, whose layers are gated: activation="swiglu".
vit_giant = functools.partial(ViT, 1536, depth=40, heads=24)
