"""What methods share that ask how the tiles of an image lie."""

from collections.abc import Callable
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl import augment as augmentation
from jssl.method import Method
from jssl.methods import branch as branches
from jssl.methods import crops
from jssl.methods import pretext
from jssl.nets import BatchNorm
from jssl.nets import MLP


class TileNet(nn.Module):
  """One net for every tile, then a classifier of all tiles together.

  Attributes:
    net: A backbone of `jssl.nets`.
    projector: From the features of one tile.
    classifier: From the projections of all tiles.
  """

  net: nn.Module
  projector: nn.Module
  classifier: nn.Module

  def __call__(self, tiles: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps tiles `[B, N, h, w, C]` to logits `[B, K]`."""
    batch, count = tiles.shape[:2]
    x = tiles.reshape(batch * count, *tiles.shape[2:])
    x = self.projector(self.net(x, train=train)["pooled"], train=train)
    x = nn.relu(x).reshape(batch, -1)
    return self.classifier(x, train=train)


def make(
    net: nn.Module,
    choose: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
    *,
    classes: int,
    augment: crops.Recipe,
    tile_size: int | None,
    channel_shift: int,
    grayscale_probability: float,
    dim: int,
    hidden_dim: int,
    axis_name: str | None = None,
) -> Method:
  """Makes a method that classifies some of the 3 x 3 tiles of each image.

  Tiles lie apart and at random places in their cells, and each has the same
  mean and deviation. Features are of whole images, standardised alike.

  Args:
    net: A backbone of `jssl.nets`, for images of the size of a tile too.
    choose: `(key, tiles [9, h, w, C]) -> (tiles [N, h, w, C], label)`.
    classes: Number of labels.
    augment: The recipe of the image, `(key, image, *, extent) -> view`.
    tile_size: See `augment.cut_tiles`.
    channel_shift: See `augment.cut_tiles`.
    grayscale_probability: How often all tiles of an image lose their colors.
    dim: Width of a tile's projection.
    hidden_dim: Width of the classifier's hidden layer.
    axis_name: Axis that the batch is split over, or None.
  """
  head: Any = functools.partial(
      MLP,
      norm=functools.partial(BatchNorm, axis_name=axis_name),
      dtype=branches.dtype_of(net),
  )
  module = TileNet(net, head((dim,)), head((hidden_dim, classes)))

  def one(key, image):
    gray_key, cut_key, choice_key = jax.random.split(key, 3)
    tiles = augmentation.cut_tiles(
        cut_key, image, size=tile_size, channel_shift=channel_shift
    )
    # After the shift, which would give gray tiles colored fringes.
    fade = functools.partial(
        augmentation.random_grayscale, probability=grayscale_probability
    )
    tiles = jax.vmap(fade, in_axes=(None, 0))(gray_key, tiles)
    return choose(choice_key, augmentation.standardize(tiles))

  def views(key, batch):
    image_key, tile_key = jax.random.split(key)
    (images,) = augmentation.make_views(image_key, batch, (augment,))
    keys = augmentation.image_keys(tile_key, batch)
    return pretext.Task(*jax.vmap(one)(keys, images))

  def criterion(logits, task):
    return pretext.classify(logits, task.target)

  return pretext.make(
      module,
      views,
      criterion,
      prepare=augmentation.standardize,
      axis_name=axis_name,
  )
