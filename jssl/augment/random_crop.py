"""Random crops, in the true geometry of the picture."""

import math

import jax
import jax.numpy as jnp

from jssl.augment import checks, resampling

_TRIES = 10  # As in torchvision.


def random_resized_crop(
    key: jax.Array,
    image: jax.Array,
    size: int | tuple[int, int],
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    extent: jax.Array | None = None,
    method: str = "bilinear",
    antialias: bool = True,
) -> jax.Array:
  """Crops a box of random area and shape, and resizes it to `size`.

  The box is drawn as in Szegedy et al. (2015), https://arxiv.org/abs/1409.4842,
  by torchvision's rules, in the true geometry of the picture: if it was
  shrunk to fit a canvas, the crop still has its true proportions and counts its
  area in true pixels.

  Args:
    key: A PRNG key.
    image: float [H, W, C].
    size: Static height and width of the result; an int means a square.
    scale: Smallest and largest area of the box, relative to the picture's.
    ratio: Lowest and highest width / height of the box, drawn log-uniformly.
    extent: The true (height, width) of a picture on a canvas, [2], may be
      traced (see `make_views`). None for the image's own.
    method: See `resized_crop`.
    antialias: See `resized_crop`.

  Returns:
    float32 [h, w, C].

  Raises:
    ValueError: As `resized_crop`, or if `scale` or `ratio` is out of order or
      out of range.

  Example:
    >>> import jax
    >>> from jssl import augment
    >>> image = jax.random.uniform(jax.random.key(0), (32, 32, 3))
    >>> keys = jax.random.split(jax.random.key(1), 2)
    >>> one, two = (augment.random_resized_crop(key, image, 24) for key in keys)
    >>> one.shape, bool((one == two).all())
    ((24, 24, 3), False)
  """
  checks.check_image(image)
  canvas = jnp.asarray(image.shape[:2], jnp.float32)
  extent = canvas if extent is None else jnp.asarray(extent, jnp.float32)
  box = sample_crop_box(key, extent, scale=scale, ratio=ratio)
  box *= jnp.tile(resampling.size_on_canvas(canvas, extent) / extent, 2)
  return resampling.resized_crop(
      image, box, size, method=method, antialias=antialias
  )


def random_pad_and_crop(
    key: jax.Array,
    image: jax.Array,
    size: int | tuple[int, int],
    *,
    padding: int = 0,
) -> jax.Array:
  """Crops a window at a random place, after padding with black.

  Args:
    key: A PRNG key.
    image: float [H, W, C].
    size: Static height and width of the window; an int means a square.
    padding: Black pixels added at each edge first.

  Returns:
    float32 [h, w, C].

  Raises:
    ValueError: If `padding` is negative, or the window does not fit.

  Example:
    >>> import jax
    >>> from jssl import augment
    >>> image = jax.random.uniform(jax.random.key(0), (32, 32, 3))
    >>> key = jax.random.key(1)
    >>> augment.random_pad_and_crop(key, image, 32, padding=4).shape
    (32, 32, 3)
  """
  checks.check_image(image)
  checks.check_limit("padding", padding)
  sides = checks.height_and_width(size)
  room = [n + 2 * padding - m for n, m in zip(image.shape, sides)]
  if min(room) < 0:
    raise ValueError(
        f"a window of {sides[0]} x {sides[1]} does not fit an image of"
        f" {image.shape[0]} x {image.shape[1]} with a padding of {padding};"
        " lower the size, or pad more."
    )
  corner = jax.random.randint(key, (2,), 0, jnp.array(room) + 1) - padding

  def pick(start: jax.Array, in_size: int, out_size: int) -> jax.Array:
    # One 1 per row, or none in the padding: [out_size, in_size].
    source = start + jnp.arange(out_size)[:, None]
    return (source == jnp.arange(in_size)).astype(jnp.float32)

  # Under vmap, two small products are faster than a gather.
  return jnp.einsum(
      "ih,hwc,jw->ijc",
      pick(corner[0], image.shape[0], sides[0]),
      image,
      pick(corner[1], image.shape[1], sides[1]),
      precision=resampling.PRECISION,
  )


def sample_crop_box(
    key: jax.Array,
    extent: jax.Array,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> jax.Array:
  """Draws the box of a random resized crop by torchvision's rules.

  Of ten boxes with a uniform area and a log-uniform ratio, rounded to whole
  pixels, the first that fits is placed uniformly; if none fits, it is the
  largest central box within `ratio`. All ten are drawn at once: under vmap a
  loop cannot stop early.

  Args:
    key: A PRNG key.
    extent: Height and width of the picture in pixels, [2].
    scale: Smallest and largest area, relative to the picture's.
    ratio: Lowest and highest width / height.

  Returns:
    (top, left, height, width) in whole pixels, float32 [4].

  Raises:
    ValueError: If `scale` or `ratio` is out of order or out of range.
  """
  checks.check_range("scale", scale, highest=1.0)
  checks.check_range("ratio", ratio)
  extent = jnp.asarray(extent, jnp.float32)
  # One draw for all: each call of the generator is slow to compile.
  draws = jax.random.uniform(key, (2, _TRIES + 1))
  areas, ratios, places = draws[0, :-1], draws[1, :-1], draws[:, -1]
  area = jnp.prod(extent) * (scale[0] + areas * (scale[1] - scale[0]))
  log_ratio = math.log(ratio[0]) + ratios * math.log(ratio[1] / ratio[0])
  # The square root of width / height, the factor of each side.
  stretch = jnp.exp(log_ratio / 2)
  tries = jnp.sqrt(area)[:, None] * jnp.stack([1 / stretch, stretch], axis=1)
  tries = jnp.round(tries)
  fits = jnp.all((tries > 0) & (tries <= extent), axis=1)
  found = jnp.any(fits)
  fallback = jnp.minimum(
      extent, jnp.round(jnp.stack([extent[1] / ratio[0], extent[0] * ratio[1]]))
  )
  sides = jnp.where(found, tries[jnp.argmax(fits)], fallback)
  room = extent - sides
  place = jnp.floor(places * (room + 1))
  corner = jnp.where(found, jnp.minimum(place, room), jnp.floor(room / 2))
  return jnp.concatenate([corner, sides])
