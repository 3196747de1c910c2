"""The views of a batch that the methods of several views share."""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jssl import augment as augmentation

# From (key, image, *, extent) to a view of the image.
Recipe = Callable[..., jax.Array]

# The two views of BYOL, which others took over, at the size of the images.
FIRST_VIEW = augmentation.keep_size(augmentation.byol)
SECOND_VIEW = augmentation.keep_size(
    functools.partial(
        augmentation.byol, blur_probability=0.1, solarize_probability=0.2
    )
)


class Crops(NamedTuple):
  """The views of multi-crop.

  Attributes:
    large: `[2, B, H, W, C]`.
    small: `[n, B, h, w, C]`, or None.
  """

  large: jax.Array
  small: jax.Array | None

  def by_size(self) -> tuple[jax.Array, ...]:
    """Returns the views of each size, as `branch.embed` takes them."""
    if self.small is None:
      return (self.large,)
    return self.large, self.small


def check_local_views(count: int, recipe: Recipe | None) -> None:
  """Raises ValueError unless there is a recipe for the small views."""
  if count < 0 or (count > 0 and recipe is None):
    raise ValueError(
        f"local_views is {count} with local_augment {recipe}; expected 0, or a"
        " positive number of small views and their recipe."
    )


def multi(
    key: jax.Array,
    batch: dict[str, jax.Array],
    large: tuple[Recipe, Recipe | None],
    small: Recipe | None,
    count: int,
) -> Crops:
  """Makes two large views and `count` small ones of each image."""
  large_key, small_key = jax.random.split(key)
  return Crops(
      two_views(large_key, batch, *large),
      _several(small_key, batch, small, count) if small and count else None,
  )


def two_views(
    key: jax.Array,
    batch: dict[str, jax.Array],
    augment: Recipe,
    second_augment: Recipe | None = None,
) -> jax.Array:
  """Makes two views of each image, `[2, B, H, W, C]`.

  Args:
    key: A PRNG key.
    batch: See `Method.views`.
    augment: Recipe of the first view.
    second_augment: Recipe of the second, None for the same.
  """
  if second_augment is not None:
    recipes = (augment, second_augment)
    return jnp.stack(augmentation.make_views(key, batch, recipes))
  return _several(key, batch, augment, 2)


def _several(
    key: jax.Array, batch: dict[str, jax.Array], augment: Recipe, count: int
) -> jax.Array:
  """Makes views of each image by one recipe, `[count, B, H, W, C]`."""
  recipe = functools.partial(
      augmentation.multi_crop, recipe=augment, count=count
  )
  (views,) = augmentation.make_views(key, batch, (recipe,))
  return jnp.swapaxes(views, 0, 1)
