"""Masks: patches, blocks of patches, and regions of pixels.

Each function masks one image, key first, for `jax.vmap` over the keys of a
batch. Where a net runs on a part of the patches, their number is static: blocks
are padded to the largest, with a mask of the valid patches.
"""

import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Patches(NamedTuple):
  """Patches of one image, of a number that is unknown when compiling.

  Attributes:
    indices: int32 `[N]`, counted along the rows; 0 where not valid.
    valid: bool `[N]`, which of them are not padding.
  """

  indices: jax.Array
  valid: jax.Array


class Split(NamedTuple):
  """Visible and hidden patches, as indices counted along the rows.

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
    ratio: Fraction that is hidden, in (0, 1).

  Returns:
    The number, rounded up as in the code of MAE and SimMIM: a Python integer,
    since shapes depend on it.

  Raises:
    ValueError: If the ratio is not in (0, 1), or hides none or all.

  Example:
    >>> from jssl import masking
    >>> masking.hidden_count(14 * 14, 0.75), masking.hidden_count(7 * 7, 0.6)
    (147, 30)
  """
  # 100 * 0.07 is a little more than 7 and must not become 8.
  hidden = math.ceil(round(total * ratio, 6))
  if not 0 < ratio < 1 or not 0 < hidden < total:
    raise ValueError(
        f"A mask ratio of {ratio} hides {hidden} of {total} patches; expected a"
        " ratio in (0, 1) that hides some, but not all. Smaller patches or"
        " larger images give more of them."
    )
  return hidden


def random_split(key: jax.Array, total: int, hidden: int) -> Split:
  """Hides a number of patches, drawn uniformly.

  Args:
    key: A PRNG key.
    total: Number of patches.
    hidden: Number of hidden patches, M; see `hidden_count`.

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
  """Hides a fraction of the squares of `unit` x `unit` patches.

  Args:
    key: A PRNG key.
    grid: Height and width in patches.
    ratio: Fraction that is hidden, in (0, 1).
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


def block_shape(
    key: jax.Array,
    grid: tuple[int, int],
    *,
    scale: tuple[float, float],
    aspect: tuple[float, float] = (1.0, 1.0),
) -> jax.Array:
  """Draws the height and width of a block of patches.

  As in the authors' code, one number is drawn, and scale and aspect both grow
  with it: the largest blocks are the tallest. A block is smaller than the grid
  by at least one patch in each direction.

  Args:
    key: A PRNG key.
    grid: Height and width in patches.
    scale: Range of the fraction of the patches in the block.
    aspect: Range of its height over its width.

  Returns:
    Rows and columns, int32 `[2]`.

  Raises:
    ValueError: If a range is invalid, or a block may have no patch.

  Reference:
    Assran et al., Self-Supervised Learning from Images with a Joint-Embedding
    Predictive Architecture, 2023, its authors' code.

  Example:
    >>> import jax
    >>> from jssl import masking
    >>> masking.block_shape(
    ...     jax.random.key(0), (14, 14), scale=(0.15, 0.2), aspect=(0.75, 1.5)
    ... )
    Array([7, 5], dtype=int32)
  """
  ends, shapes = _shapes(grid, tuple(scale), tuple(aspect))
  drawn = jax.random.uniform(key)
  return jnp.asarray(shapes)[jnp.sum(drawn >= ends[:-1])]


def random_block(
    key: jax.Array,
    grid: tuple[int, int],
    shape: jax.Array,
    *,
    limit: int,
    to_edges: bool = True,
) -> Patches:
  """Draws the position of a block in the grid.

  Args:
    key: A PRNG key.
    grid: Height and width in patches.
    shape: Rows and columns of the block, int `[2]`, less than the grid's.
    limit: Largest number of patches in a block, N.
    to_edges: Whether blocks may reach the last row and column. In the authors'
      code they never do, since its random integers exclude their end.

  Returns:
    The N patches of the block, row after row, padded with invalid ones.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jssl import masking
    >>> shape = jnp.array([2, 3])
    >>> block = masking.random_block(jax.random.key(0), (4, 4), shape, limit=8)
    >>> (block.indices // 4).tolist(), (block.indices % 4).tolist()
    ([1, 1, 1, 2, 2, 2, 0, 0], [0, 1, 2, 0, 1, 2, 0, 0])
    >>> int(block.valid.sum())
    6
  """
  rows, columns = shape = jnp.asarray(shape)
  top, left = _place(key, grid, shape, to_edges)
  place = jnp.arange(limit)
  index = (top + place // columns) * grid[1] + left + place % columns
  valid = place < rows * columns
  return Patches(jnp.where(valid, index, 0), valid)


def context_and_targets(
    key: jax.Array,
    grid: tuple[int, int],
    *,
    shape_key: jax.Array,
    targets: int = 4,
    target_scale: tuple[float, float] = (0.15, 0.2),
    target_aspect: tuple[float, float] = (0.75, 1.5),
    context_scale: tuple[float, float] = (0.85, 1.0),
    context_limit: float = 0.26,
    min_keep: int = 10,
    to_edges: bool = True,
) -> tuple[Patches, Patches]:
  """Draws target blocks, and a context block without their patches.

  Args:
    key: A PRNG key, of the image.
    grid: Height and width in patches.
    shape_key: A PRNG key that all images of a step share: all targets have one
      shape, and so have all context blocks.
    targets: Number of target blocks K, which may overlap.
    target_scale: Range of their fraction of the patches.
    target_aspect: Range of their height over their width; see `block_shape`.
    context_scale: Range of the fraction of the context block, a square.
    context_limit: Largest fraction of the patches in a context, in (0, 1]. Of a
      larger context the first patches are kept, row after row. The authors'
      code cuts all contexts of a GPU's batch to the smallest: for 128 images of
      14 x 14 patches on average from 0.42 to 0.26.
    min_keep: A context has more patches than this number. Where targets leave
      fewer, it may overlap the last target, then the last two, and so on.
    to_edges: See `random_block`.

  Returns:
    The context, `[N]`, and the targets, `[K, M]`.

  Raises:
    ValueError: If a range or fraction is invalid, or the context block may have
      no more than `min_keep` patches.

  Reference:
    Assran et al., Self-Supervised Learning from Images with a Joint-Embedding
    Predictive Architecture, 2023, section 3, and its authors' code.

  Example:
    >>> import jax
    >>> from jssl import masking
    >>> context, blocks = masking.context_and_targets(
    ...     jax.random.key(0), (14, 14), shape_key=jax.random.key(1)
    ... )
    >>> context.indices.shape, blocks.indices.shape
    ((50,), (4, 40))
    >>> blocks.valid.sum(axis=-1).tolist()  # Each is of 7 x 5 patches.
    [35, 35, 35, 35]
    >>> hidden = blocks.indices[blocks.valid]
    >>> bool(jax.numpy.isin(context.indices[context.valid], hidden).any())
    False
  """
  total = grid[0] * grid[1]
  limit = int(context_limit * total)
  if not 0 < context_limit <= 1 or limit < 1:
    raise ValueError(
        f"context_limit is {context_limit}, {limit} of {total} patches;"
        " expected a share in (0, 1] of one patch or more."
    )
  smallest = _areas(grid, context_scale, (1.0, 1.0)).min()
  if not 0 <= min_keep < smallest:
    raise ValueError(
        f"A context block has {smallest} of {grid[0]} x {grid[1]} patches at"
        f" least, and min_keep is {min_keep}; expected 0 or more, and fewer"
        " than these. Lower min_keep, raise context_scale or use smaller"
        " patches."
    )
  target_key, context_key = jax.random.split(shape_key)
  shape = block_shape(
      target_key, grid, scale=target_scale, aspect=target_aspect
  )
  size = int(_areas(grid, target_scale, target_aspect).max())
  context_shape = block_shape(context_key, grid, scale=context_scale)
  blocks_key, place_key = jax.random.split(key)
  blocks = jax.vmap(
      lambda key: random_block(key, grid, shape, limit=size, to_edges=to_edges)
  )(jax.random.split(blocks_key, targets))
  start = _place(place_key, grid, context_shape, to_edges)
  place = jnp.indices(grid).reshape(2, total) - start[:, None]
  inside = jnp.all((place >= 0) & (place < context_shape[:, None]), axis=0)
  # What remains after 0, 1, ..., K targets; the last that is enough is used.
  remaining = [inside]
  for index, valid in zip(*blocks, strict=True):
    hidden = jnp.zeros(total, bool).at[index].max(valid)
    remaining.append(remaining[-1] & ~hidden)
  left = jnp.stack(remaining)
  enough = jnp.sum(left, axis=1) > min_keep
  free = left[jnp.sum(enough) - 1]
  (index,) = jnp.nonzero(free, size=limit, fill_value=0)
  valid = jnp.arange(limit) < jnp.sum(free)
  return Patches(index.astype(jnp.int32), valid), blocks


def _place(key, grid, shape, to_edges):
  """Draws the top and left of a block, int32 `[2]`."""
  return jax.random.randint(
      key, (2,), 0, jnp.asarray(grid) - shape + bool(to_edges)
  )


def _areas(grid, scale, aspect):
  """Numbers of patches that a block may have, int `[N]`."""
  return np.prod(_shapes(grid, tuple(scale), tuple(aspect))[1], axis=1)


@functools.cache
def _shapes(grid, scale, aspect):
  """Returns all shapes of a block, as the drawn number grows from 0 to 1.

  Returns:
    The number at which each ends, float `[N]`, and its rows and columns, int32
    `[N, 2]`.
  """
  (low, high), (wide, tall) = scale, aspect
  if not (0 < low <= high <= 1 and 0 < wide <= tall):
    raise ValueError(
        f"The scale of a block is {scale} and its aspect {aspect}; expected"
        " ranges (low, high), of scales in (0, 1] and of aspects above 0."
    )
  height, width = grid
  total = height * width
  count = lambda x: math.floor(total * (low + x * (high - low)) + 1e-9)
  # Where the number of patches changes, then where a side's rounding does.
  changes = {0.0, 1.0}
  if high > low:
    steps = range(count(0), count(1) + 1)
    changes |= {(x / total - low) / (high - low) for x in steps}
  if tall > wide:
    for patches in range(max(1, count(0)), count(1) + 1):
      for side in np.arange(0.5, max(grid)):
        for ratio in (side**2 / patches, patches / side**2):
          changes.add((ratio - wide) / (tall - wide))
  ends, shapes = [], []
  changes = sorted(x for x in changes if 0 <= x <= 1)
  for start, end in itertools.pairwise(changes):
    if end - start < 1e-9:
      continue
    middle = (start + end) / 2
    patches, ratio = count(middle), wide + middle * (tall - wide)
    shape = (
        min(round(math.sqrt(patches * ratio)), height - 1),
        min(round(math.sqrt(patches / ratio)), width - 1),
    )
    if min(shape) < 1:
      raise ValueError(
          f"A block of scale {scale} and aspect {aspect} may have {shape[0]} x"
          f" {shape[1]} of {height} x {width} patches; expected one at least,"
          " and a grid of two rows and columns. Raise the scale or use smaller"
          " patches."
      )
    if shapes and shapes[-1] == shape:
      ends[-1] = end
    else:
      ends.append(end)
      shapes.append(shape)
  return np.asarray(ends), np.asarray(shapes, np.int32)


def center(size: int, *, share: float = 0.25) -> jax.Array:
  """Hides the central square.

  Args:
    size: Side of the image.
    share: Fraction of the pixels that is hidden, in (0, 1).

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
  """Hides squares that may overlap, a fraction of the pixels at most.

  Args:
    key: A PRNG key.
    size: Side of the image.
    share: Largest fraction of the pixels that is hidden, in (0, 1).
    count: Number of squares; each side is drawn between half the largest side
      that the fraction allows and the largest.

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
  """Hides a region of random outline, an exact fraction of the pixels.

  It is where smooth noise is highest; the paper uses outlines of segmented
  objects of another data set.

  Args:
    key: A PRNG key.
    size: Side of the image.
    share: Fraction of the pixels that is hidden.
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
