"""The views of a batch: each image with keys of its own."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from jssl.augment import checks


def make_views(
    key: jax.Array,
    batch: Mapping[str, jax.Array],
    recipes: Sequence[Callable[..., jax.Array]],
) -> tuple[jax.Array, ...]:
  """Makes one view of each image with each recipe.

  The key of an image's view is `fold_in(fold_in(key, view), position)`: the
  index of the recipe and the image's position in the global batch. So a batch
  that is split over devices draws the same random numbers as on one device;
  pixels agree up to the rounding of the compiled programs. (This needs threefry
  keys, JAX's default: "rbg" ones depend on the size of a vmap.)

  Args:
    key: A PRNG key, the same on every device.
    batch: "image" [B, H, W, C], uint8 or float in [0, 1]; optionally "extent"
      [B, 2], the true (height, width) of pictures that are in the top left
      corner of a canvas, sides longer than the canvas shrunk to it; optionally
      "position" int [B] in the global batch, arange(B) if missing.
    recipes: Functions (key, image, *, extent) -> view of one float32 image.

  Returns:
    A tuple of float32 [B, h, w, C], one for each recipe.

  Raises:
    ValueError: If an array of `batch` has another shape or dtype, or floats
      are outside [0, 1] (only checked outside `jax.jit`).

  Example:
    >>> import functools
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jssl import augment
    >>> image = jnp.arange(192, dtype=jnp.uint8).reshape(8, 8, 3)
    >>> batch = {"image": jnp.stack([image] * 4)}
    >>> recipes = [functools.partial(augment.random_resized_crop, size=6)] * 2
    >>> one, two = augment.make_views(jax.random.key(0), batch, recipes)
    >>> one.shape, two.shape
    ((4, 6, 6, 3), (4, 6, 6, 3))
    >>> bool((one == two).all()), bool((one[0] == one[1]).all())
    (False, False)
  """
  images, extent = batch["image"], batch.get("extent")
  if images.ndim != 4:
    raise ValueError(
        f"make_views expects images [B, H, W, C], got {images.shape}; add the"
        " missing axis."
    )
  checks.check_values(images)
  size = len(images)
  if extent is not None and extent.shape != (size, 2):
    raise ValueError(
        f"make_views expects an extent (height, width) for each of the {size}"
        f" images, got the shape {extent.shape}."
    )

  def make_view(index: int, recipe: Callable[..., jax.Array]) -> jax.Array:
    keys = image_keys(jax.random.fold_in(key, index), batch)
    one = lambda key, image, extent: recipe(key, to_float(image), extent=extent)
    return jax.vmap(one)(keys, images, extent)

  return tuple(make_view(v, recipe) for v, recipe in enumerate(recipes))


def image_keys(key: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
  """Returns a PRNG key `[B]` per image, from its place in the global batch.

  Args:
    key: A PRNG key, the same on every device.
    batch: As in `make_views`.

  Raises:
    ValueError: If there is not one position per image.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jssl import augment
    >>> whole = {"image": jnp.zeros((4, 8, 8, 3)), "position": jnp.arange(4)}
    >>> half = {"image": jnp.zeros((2, 8, 8, 3)), "position": jnp.arange(2, 4)}
    >>> keys = [augment.image_keys(jax.random.key(0), x) for x in (whole, half)]
    >>> bool((keys[0][2:] == keys[1]).all())
    True
  """
  size = len(batch["image"])
  position = batch.get("position")
  if position is None:
    position = jnp.arange(size)
  if position.shape != (size,):
    raise ValueError(
        f"expected a position for each of the {size} images, got the shape"
        f" {position.shape}."
    )
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, position)


def to_float(images: jax.Array) -> jax.Array:
  """Returns images of any shape as float32 in [0, 1].

  Args:
    images: uint8, which is divided by 255, or a float type in [0, 1].

  Returns:
    float32, of the same shape.

  Raises:
    ValueError: If the dtype is another, or floats are outside [0, 1] (only
      checked outside `jax.jit`).

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import augment
    >>> x = augment.to_float(jnp.array([[[0, 51, 255]]], jnp.uint8))
    >>> [round(value, 3) for value in x[0, 0].tolist()]
    [0.0, 0.2, 1.0]
  """
  if images.dtype == jnp.uint8:
    return images.astype(jnp.float32) / 255.0
  if jnp.issubdtype(images.dtype, jnp.floating):
    checks.check_values(images)
    return images.astype(jnp.float32)
  raise ValueError(
      f"expected images in uint8 or a float type, got {images.dtype}; scale"
      " them to [0, 1] first."
  )
