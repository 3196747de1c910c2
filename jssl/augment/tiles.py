"""Tiles of an image, cut so that their edges do not match."""

import jax
import jax.numpy as jnp

from jssl.augment import checks


def cut_tiles(
    key: jax.Array,
    image: jax.Array,
    *,
    grid: int = 3,
    size: int | None = None,
    channel_shift: int = 0,
) -> jax.Array:
  """Cuts one tile out of each cell of a grid, at a random place in the cell.

  Tiles are smaller than cells, so that lines do not continue from one tile to
  the next; random places vary the gap. Shifted channels hide the chromatic
  aberration of the lens, which would reveal the place in the picture.

  Args:
    key: A PRNG key.
    image: float [H, W, C].
    grid: Cells per side. Pixels left over by the division are ignored.
    size: Side of a tile; None for 64 / 75 of the cell, as in the paper.
    channel_shift: Largest shift of each channel of a tile, within its cell, in
      pixels; 2 in the paper.

  Returns:
    float [grid * grid, size, size, C], row after row.

  Raises:
    ValueError: If a tile does not fit into its cell, with both sizes.

  Reference:
    Noroozi and Favaro, Unsupervised Learning of Visual Representations by
    Solving Jigsaw Puzzles, 2016, sections 3.2 and 4.

  Example:
    >>> import jax
    >>> from jssl import augment
    >>> image = jax.random.uniform(jax.random.key(0), (32, 32, 3))
    >>> augment.cut_tiles(jax.random.key(1), image, grid=3, size=8).shape
    (9, 8, 8, 3)
  """
  checks.check_image(image)
  cell_height, cell_width = image.shape[0] // grid, image.shape[1] // grid
  cell, channels = min(cell_height, cell_width), image.shape[-1]
  if size is None:
    size = tile_size_of(*image.shape[:2], grid=grid)
  if not 1 <= size <= cell:
    raise ValueError(
        f"A tile of {size} x {size} does not fit a cell of {cell_height} x"
        f" {cell_width}, one of {grid} x {grid} in an image of"
        f" {image.shape[0]} x {image.shape[1]}; change the image size or the"
        " tile size."
    )
  checks.check_limit("channel_shift", channel_shift)
  room = jnp.array([cell_height, cell_width]) - size
  place_key, shift_key = jax.random.split(key)
  count = grid * grid
  place = jax.random.randint(place_key, (count, 1, 2), 0, room + 1)
  shift = jax.random.randint(
      shift_key, (count, channels, 2), -channel_shift, channel_shift + 1
  )
  cells = jnp.stack(jnp.divmod(jnp.arange(count), grid), axis=-1)
  corner = cells[:, None] * jnp.array([cell_height, cell_width])
  corner = corner + jnp.clip(place + shift, 0, room)  # [count, C, 2]

  def cut(plane, corner):
    return jax.lax.dynamic_slice(plane, corner, (size, size))

  planes = jnp.moveaxis(image, -1, 0)
  over_channels = jax.vmap(cut)
  tiles = jax.vmap(over_channels, in_axes=(None, 0))(planes, corner)
  return jnp.moveaxis(tiles, 1, -1)


def tile_size_of(height: int, width: int, *, grid: int = 3) -> int:
  """Returns the side of a tile: 64 / 75 of a cell, as in the jigsaw paper.

  Args:
    height: Height of the image, in pixels.
    width: Width of the image, in pixels.
    grid: Cells per side.

  Example:
    >>> from jssl import augment
    >>> augment.tile_size_of(225, 225, grid=3)
    64
  """
  return min(height // grid, width // grid) * 64 // 75


def standardize(
    image: jax.Array, *, mean: float = 0.5, std: float = 0.25
) -> jax.Array:
  """Gives an image, or each of many, the same mean and standard deviation.

  Brightness and contrast would reveal which tiles belong to one image, and the
  direction of the light.

  Args:
    image: float [..., H, W, C].
    mean: Mean of the result, over pixels and channels.
    std: Standard deviation of the result; 0 for an image of one color.

  Returns:
    float32 [..., H, W, C].

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import augment
    >>> even = augment.standardize(jnp.full((8, 8, 3), 0.9))
    >>> round(float(even.mean()), 3), round(float(even.std()), 3)
    (0.5, 0.0)
  """
  image = image.astype(jnp.float32)
  axes = (-3, -2, -1)
  centered = image - jnp.mean(image, axis=axes, keepdims=True)
  variance = jnp.mean(jnp.square(centered), axis=axes, keepdims=True)
  # The 1e-4 keeps noise of about a gray level from being amplified.
  return mean + std * centered * jax.lax.rsqrt(variance + 1e-4)
