"""The views that methods share: recipes, and how often they are drawn."""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jssl import augment

# A function (key, image, *, extent) -> view of the image.
Recipe = Callable[..., jax.Array]

# Default recipes, at the size of the images.
CROP_AND_FLIP = augment.keep_size(augment.crop_and_flip)
MOCO_V1 = augment.keep_size(augment.moco_v1)
MOCO_V2 = augment.keep_size(augment.moco_v2)
SIMCLR = augment.keep_size(augment.simclr)
# The two views of BYOL, which later methods adopted.
FIRST_VIEW = augment.keep_size(augment.byol)
SECOND_VIEW = augment.keep_size(
    functools.partial(
        augment.byol, blur_probability=0.1, solarize_probability=0.2
    )
)


class Crops(NamedTuple):
  """The views of multi-crop.

  Attributes:
    global_crops: `[2, B, H, W, C]`.
    local_crops: `[n, B, h, w, C]`, or None.
  """

  global_crops: jax.Array
  local_crops: jax.Array | None

  def by_size(self) -> tuple[jax.Array, ...]:
    """Returns the views of each size, as a `Branch` takes them."""
    return tuple(x for x in self if x is not None)


def one(
    key: jax.Array, batch: dict[str, jax.Array], recipe: Recipe
) -> jax.Array:
  """Makes one view of each image, `[B, H, W, C]`.

  Args:
    key: A PRNG key.
    batch: See `Method.views`.
    recipe: The recipe.
  """
  (images,) = augment.make_views(key, batch, (recipe,))
  return images


def two(
    key: jax.Array,
    batch: dict[str, jax.Array],
    recipe: Recipe,
    second_recipe: Recipe | None = None,
) -> jax.Array:
  """Makes two views of each image, `[2, B, H, W, C]`.

  Args:
    key: A PRNG key.
    batch: See `Method.views`.
    recipe: Recipe of the first view.
    second_recipe: Recipe of the second view, None for the same.
  """
  if second_recipe is None:
    return _several(key, batch, recipe, 2)
  return jnp.stack(augment.make_views(key, batch, (recipe, second_recipe)))


def multi_crop(
    recipe: Recipe,
    second_recipe: Recipe | None,
    local_recipe: Recipe | None,
    local_views: int,
) -> Callable[[jax.Array, dict[str, jax.Array]], Crops]:
  """Makes the `Method.views` of two global and some local crops per image.

  Args:
    recipe: Recipe of the first global crop.
    second_recipe: Recipe of the second global crop, None for the same.
    local_recipe: Recipe of the local crops.
    local_views: Number of local crops.

  Raises:
    ValueError: If local crops lack a recipe, or their number is negative.
  """
  if local_views < 0 or (local_views > 0 and local_recipe is None):
    raise ValueError(
        f"local_views is {local_views} with local_augment {local_recipe};"
        " expected 0, or a positive number of local views and their recipe."
    )

  def views(key, batch):
    global_key, local_key = jax.random.split(key)
    local_crops = None
    if local_views:
      local_crops = _several(local_key, batch, local_recipe, local_views)
    return Crops(two(global_key, batch, recipe, second_recipe), local_crops)

  return views


def _several(key, batch, recipe, count):
  """Makes views of each image by one recipe, `[count, B, H, W, C]`."""
  each = functools.partial(augment.multi_crop, recipe=recipe, count=count)
  return jnp.swapaxes(one(key, batch, each), 0, 1)
