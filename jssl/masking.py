"""What is hidden from a net: patches, blocks of them, and regions of pixels.

Each function is of one image, key first, for `jax.vmap` over the keys of a
batch. Where a net runs on a part of the patches, their number is static.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Split(NamedTuple):
  """Patches in two parts, as indices counted along the rows.

  Attributes:
    visible: int32 `[V]`.
    hidden: int32 `[M]`.
  """

  visible: jax.Array
  hidden: jax.Array


def hidden_count(total: int, ratio: float) -> int:
  """Returns how many patches a ratio hides.

  Args:
    total: Number of patches.
    ratio: Share that is hidden, in (0, 1).

  Returns:
    The number, rounded: a plain integer, since shapes depend on it.

  Raises:
    ValueError: If the ratio is not in (0, 1), or hides none or all.

  Example:
    >>> from jssl import masking
    >>> masking.hidden_count(14 * 14, 0.75)
    147
  """
  hidden = round(total * ratio)
  if not 0 < ratio < 1 or not 0 < hidden < total:
    raise ValueError(
        f"A mask ratio of {ratio} hides {hidden} of {total} patches; expected a"
        " ratio in (0, 1) that hides some and leaves some. Smaller patches or"
        " larger images make more of them."
    )
  return hidden


def random_split(key: jax.Array, total: int, hidden: int) -> Split:
  """Hides so many patches, each as likely as any other.

  Args:
    key: A PRNG key.
    total: Number of patches.
    hidden: How many of them to hide, M; see `hidden_count`.

  Returns:
    The `total - hidden` visible patches and the hidden ones, in random order.

  Reference:
    He et al., Masked Autoencoders Are Scalable Vision Learners, 2022.

  Example:
    >>> import jax
    >>> from jssl import masking
    >>> split = masking.random_split(jax.random.key(0), 16, 12)
    >>> split.visible.shape, split.hidden.shape
    ((4,), (12,))
    >>> set(split.visible.tolist()) & set(split.hidden.tolist())
    set()
  """
  order = jax.random.permutation(key, total)
  return Split(order[hidden:], order[:hidden])


def random_mask(
    key: jax.Array, grid: tuple[int, int], *, ratio: float, unit: int = 1
) -> jax.Array:
  """Hides a share of the squares of `unit` x `unit` patches.

  Args:
    key: A PRNG key.
    grid: Height and width in patches.
    ratio: Share that is hidden, in (0, 1).
    unit: Side of a square, a divisor of the grid.

  Returns:
    bool `[height, width]`, true where hidden.

  Raises:
    ValueError: If the unit does not divide the grid, or the ratio hides none
      or all.

  Reference:
    Xie et al., SimMIM, 2022, section 3.2.

  Example:
    >>> import jax
    >>> from jssl import masking
    >>> mask = masking.random_mask(jax.random.key(0), (8, 8), ratio=0.5, unit=2)
    >>> mask.shape, int(mask.sum())
    ((8, 8), 32)
    >>> bool((mask[::2] == mask[1::2]).all())  # Squares of two patches a side.
    True
  """
  height, width = grid
  if unit < 1 or height % unit or width % unit:
    raise ValueError(
        f"A mask unit of {unit} x {unit} patches does not divide {height} x"
        f" {width} patches; choose a divisor."
    )
  rows, columns = height // unit, width // unit
  count = hidden_count(rows * columns, ratio)
  mask = jax.random.permutation(key, jnp.arange(rows * columns) < count)
  mask = mask.reshape(rows, columns)
  return jnp.repeat(jnp.repeat(mask, unit, axis=0), unit, axis=1)


def random_block(
    key: jax.Array,
    grid: tuple[int, int],
    count: int,
    *,
    aspect: tuple[float, float] = (0.75, 1.5),
) -> jax.Array:
  """Draws a rectangle of patches; its last or first row may be shorter.

  Args:
    key: A PRNG key.
    grid: Height and width in patches.
    count: Number of patches of the block.
    aspect: Range of its height over its width; the logarithm is drawn.

  Returns:
    Indices of the patches, int32 `[count]`.

  Raises:
    ValueError: If the grid has fewer patches, or the count is not positive.

  Reference:
    Assran et al., Self-Supervised Learning from Images with a Joint-Embedding
    Predictive Architecture, 2023. There one shape is drawn for a batch.

  Example:
    >>> import jax
    >>> from jssl import masking
    >>> block = masking.random_block(
    ...     jax.random.key(0), (4, 4), 4, aspect=(1.0, 1.0)
    ... )
    >>> rows, columns = block // 4, block % 4
    >>> int(rows.max() - rows.min()), int(columns.max() - columns.min())
    (1, 1)
  """
  height, width = grid
  if not 0 < count <= height * width:
    raise ValueError(
        f"A block of {count} patches does not fit {height} x {width} patches."
    )
  aspect_key, top_key, left_key, turn_key = jax.random.split(key, 4)
  low, high = map(math.log, aspect)
  ratio = jnp.exp(jax.random.uniform(aspect_key, minval=low, maxval=high))
  rows = jnp.round(jnp.sqrt(count * ratio)).astype(jnp.int32)
  rows = jnp.clip(rows, -(-count // width), min(height, count))
  columns = -(-count // rows)
  rows = -(-count // columns)  # Those that are used.
  top = jax.random.randint(top_key, (), 0, height - rows + 1)
  left = jax.random.randint(left_key, (), 0, width - columns + 1)
  place = jnp.arange(count)
  # Turned upside down half of the time, so that each corner is reached.
  last = rows * columns - 1
  place = jnp.where(jax.random.bernoulli(turn_key), last - place, place)
  return (top + place // columns) * width + left + place % columns


def context_and_targets(
    key: jax.Array,
    grid: tuple[int, int],
    *,
    targets: int = 4,
    target_scale: float = 0.15,
    context_scale: tuple[float, float] = (0.85, 1.0),
) -> tuple[jax.Array, jax.Array]:
  """Draws target blocks, and patches of a context block that avoid them.

  Of the context's patches outside the targets so many are taken, at random, as
  there are in the worst case: all images then have the same number.

  Args:
    key: A PRNG key.
    grid: Height and width in patches.
    targets: Number of target blocks, which may overlap.
    target_scale: Their share of the patches.
    context_scale: Range of the context block's share.

  Returns:
    Context, int32 `[N]`, and targets, int32 `[targets, M]`.

  Raises:
    ValueError: If targets may leave no context, or `context_scale` is not a
      range in (0, 1].

  Reference:
    Assran et al., Self-Supervised Learning from Images with a Joint-Embedding
    Predictive Architecture, 2023, section 3; target scales there are drawn
    from 0.15 to 0.2, and what exceeds the smallest of a batch is cut off.

  Example:
    >>> import jax
    >>> from jssl import masking
    >>> context, targets = masking.context_and_targets(
    ...     jax.random.key(0), (14, 14)
    ... )
    >>> context.shape, targets.shape
    ((50,), (4, 29))
    >>> bool(jax.numpy.isin(context, targets).any())  # They never overlap.
    False
  """
  if not 0 < context_scale[0] <= context_scale[1] <= 1:
    raise ValueError(
        f"context_scale is {context_scale}; expected (low, high) with 0 < low"
        " <= high <= 1."
    )
  height, width = grid
  total = height * width
  size = max(1, round(target_scale * total))
  count = int(context_scale[0] * total) - targets * size
  if count < 1:
    raise ValueError(
        f"{targets} targets of {size} patches may cover the context: of"
        f" {height} x {width} patches it has {int(context_scale[0] * total)}."
        " Make targets fewer or smaller."
    )
  target_key, scale_key, top_key, left_key, order_key = jax.random.split(key, 5)
  blocks = jax.vmap(lambda key: random_block(key, grid, size))(
      jax.random.split(target_key, targets)
  )
  low, high = context_scale
  side = jnp.sqrt(jax.random.uniform(scale_key, minval=low, maxval=high))
  free = jnp.ones(grid, bool)
  for axis, (length, axis_key) in enumerate(
      zip(grid, (top_key, left_key), strict=True)
  ):
    extent = jnp.ceil(side * length).astype(jnp.int32)
    start = jax.random.randint(axis_key, (), 0, length - extent + 1)
    place = jnp.arange(length)
    inside = (place >= start) & (place < start + extent)
    free &= jnp.expand_dims(inside, 1 - axis)
  free = free.reshape(-1).at[blocks.reshape(-1)].set(False)
  order = jax.random.uniform(order_key, (total,)) + free
  return jax.lax.top_k(order, count)[1], blocks


def center(size: int, *, share: float = 0.25) -> jax.Array:
  """Hides the central square.

  Args:
    size: Side of the image.
    share: Share of the pixels that is hidden, in (0, 1).

  Returns:
    bool `[size, size]`, true where hidden.

  Raises:
    ValueError: If the square has no pixel, or all.

  Reference:
    Pathak et al., Context Encoders, 2016, section 3.3 (central region).

  Example:
    >>> from jssl import masking
    >>> masking.center(4, share=0.25).astype(int).tolist()
    [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
  """
  side = round(math.sqrt(share) * size)
  if not 0 < side < size:
    raise ValueError(
        f"A hole of {share} of an image of {size} x {size} has a side of"
        f" {side} pixels; expected at least 1, and less than {size}."
    )
  place = jnp.arange(size)
  start = (size - side) // 2
  inside = (place >= start) & (place < start + side)
  return inside[:, None] & inside[None, :]


def random_squares(
    key: jax.Array, size: int, *, share: float = 0.25, count: int = 4
) -> jax.Array:
  """Hides squares that may overlap, a share of the pixels at most.

  Args:
    key: A PRNG key.
    size: Side of the image.
    share: Share of the pixels that is hidden at most, in (0, 1).
    count: Number of squares; a side is drawn between half of the largest that
      the share allows and the largest.

  Returns:
    bool `[size, size]`, true where hidden.

  Raises:
    ValueError: If a square would have no pixel.

  Reference:
    Pathak et al., Context Encoders, 2016, section 3.3 (random block).

  Example:
    >>> import jax
    >>> from jssl import masking
    >>> mask = masking.random_squares(jax.random.key(0), 32, share=0.25)
    >>> mask.shape, bool(0 < mask.mean() <= 0.25)
    ((32, 32), True)
  """
  high = int(math.sqrt(share / count) * size)
  low = max(1, high // 2)
  if high < 1:
    raise ValueError(
        f"{count} holes in {share} of an image of {size} x {size} are smaller"
        " than a pixel; use fewer, or larger images."
    )

  def one(key):
    side_key, place_key = jax.random.split(key)
    side = jax.random.randint(side_key, (), low, high + 1)
    start = jax.random.randint(place_key, (2, 1), 0, size - side + 1)
    inside = (jnp.arange(size) >= start) & (jnp.arange(size) < start + side)
    return inside[0][:, None] & inside[1][None, :]

  return jnp.any(jax.vmap(one)(jax.random.split(key, count)), axis=0)


def random_region(
    key: jax.Array, size: int, *, share: float = 0.25, cells: int = 4
) -> jax.Array:
  """Hides a region of random outline, a share of the pixels exactly.

  Where smooth noise is highest; the paper takes outlines of segmented objects
  of another data set.

  Args:
    key: A PRNG key.
    size: Side of the image.
    share: Share of the pixels that is hidden.
    cells: Bumps of the noise along a side.

  Returns:
    bool `[size, size]`, true where hidden.

  Raises:
    ValueError: If the region has no pixel, or all.

  Reference:
    Pathak et al., Context Encoders, 2016, section 3.3 (random region).

  Example:
    >>> import jax
    >>> from jssl import masking
    >>> mask = masking.random_region(jax.random.key(0), 32, share=0.25)
    >>> mask.shape, float(mask.mean())
    ((32, 32), 0.25)
  """
  count = round(share * size * size)
  if not 0 < count < size * size:
    raise ValueError(
        f"A region of {share} of an image of {size} x {size} has {count}"
        " pixels; expected some, and not all."
    )
  noise = jax.random.normal(key, (cells, cells))
  smooth = jax.image.resize(noise, (size, size), "cubic").reshape(-1)
  hidden = jnp.zeros(size * size, bool)
  hidden = hidden.at[jax.lax.top_k(smooth, count)[1]].set(True)
  return hidden.reshape(size, size)
