"""Methods that ask how the tiles of an image are arranged."""

from collections.abc import Callable
import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl.augment import (
    cut_tiles,
    image_keys,
    random_grayscale,
    standardize,
    tile_size_of,
)
from jssl.method import Method
from jssl.methods import _branch, _one_net, _views
from jssl.nets import BatchNorm, MLP
from jssl.nets.patches import patchify

_GAP = 0.08  # Between drawn tiles, as a fraction of their side.


class Puzzles(NamedTuple):
  """The inputs of the net.

  Attributes:
    tiles: The 3 x 3 tiles of each image, `[B, 9, h, w, C]`.
    shown: Indices of the tiles that each puzzle shows, in order, int
      `[B, M, N]`.
  """

  tiles: jax.Array
  shown: jax.Array


class TileNet(nn.Module):
  """One net for every tile, then a classifier of the tiles of a puzzle.

  Attributes:
    net: A backbone of `jssl.nets`.
    projector: Projector of the features of one tile.
    classifier: Classifier of the joined projections of a puzzle's tiles.
  """

  net: nn.Module
  projector: nn.Module
  classifier: nn.Module

  def __call__(self, puzzles: Puzzles, *, train: bool = False) -> jax.Array:
    """Maps puzzles to logits `[B * M, K]`."""
    tiles, shown = puzzles
    x = tiles.reshape(-1, *tiles.shape[2:])
    x = self.projector(self.net(x, train=train)["pooled"], train=train)
    x = nn.relu(x).reshape(*tiles.shape[:2], -1)  # [B, 9, D]
    # The net encodes each tile once, however many puzzles show it.
    x = jax.vmap(lambda x, i: x[i])(x, shown)  # [B, M, N, D]
    return self.classifier(x.reshape(-1, x.shape[2] * x.shape[3]), train=train)


def make(
    net: nn.Module,
    choose: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    *,
    classes: int,
    augment: _views.Recipe,
    tile_size: int | None,
    channel_shift: int,
    grayscale_probability: float,
    dim: int,
    hidden_dim: int,
    dropout: float,
    axis_name: str | None = None,
) -> Method:
  """Makes a method that classifies some of the 3 x 3 tiles of each image.

  Against shortcuts, tiles have gaps, random places in their cells, shifted
  color channels and the same mean and deviation. Features are those of nine
  tiles that cover the image, as in Kolesnikov et al. (2019): maps are joined,
  vectors averaged.

  Args:
    net: A backbone of `jssl.nets`, for images of the size of a tile.
    choose: `key -> (shown, label)`: the tiles that each puzzle of an image
      shows, int `[M, N]` in [0, 9), and the label of each, int `[M]`.
    classes: Number of labels.
    augment: The recipe of the image, `(key, image, *, extent) -> view`.
    tile_size: See `augment.cut_tiles`.
    channel_shift: See `augment.cut_tiles`.
    grayscale_probability: Probability that all tiles of an image are gray.
    dim: Width of a tile's projection.
    hidden_dim: Width of the classifier's hidden layer.
    dropout: Dropout rate of that layer, in [0, 1).
    axis_name: Axis that the batch is split over, or None.

  Returns:
    The method.

  Raises:
    ValueError: If the dropout rate is out of range.

  Reference:
    Kolesnikov, Zhai and Beyer, Revisiting Self-Supervised Visual Representation
    Learning, 2019, section 3.2.
  """
  if not 0 <= dropout < 1:
    raise ValueError(
        f"dropout is {dropout}; expected a rate in [0, 1), where 0 drops none."
    )
  head: Any = functools.partial(
      MLP,
      norm=functools.partial(BatchNorm, axis_name=axis_name),
      dtype=_branch.dtype_of(net),
  )
  module = TileNet(
      net, head((dim,)), head((hidden_dim, classes), dropout=dropout)
  )

  def one(key, image):
    gray_key, cut_key, choice_key = jax.random.split(key, 3)
    tiles = cut_tiles(
        cut_key, image, size=tile_size, channel_shift=channel_shift
    )
    # After the shift, which would give gray tiles colored edges.
    fade = functools.partial(
        random_grayscale, probability=grayscale_probability
    )
    tiles = jax.vmap(fade, in_axes=(None, 0))(gray_key, tiles)
    shown, label = choose(choice_key)
    return _one_net.Task(Puzzles(standardize(tiles), shown), label)

  def views(key, batch):
    image_key, tile_key = jax.random.split(key)
    images = _views.one(image_key, batch, augment)
    keys = image_keys(tile_key, batch)
    return jax.vmap(one)(keys, images)

  def criterion(logits, task):
    return _one_net.classify(logits, task.target.reshape(-1))

  method = _one_net.make(module, views, criterion, axis_name=axis_name)

  def encode(params, carried, images):
    tiles = standardize(_cover(images, tile_size))
    features = method.encode(params, carried, tiles)
    return {name: _join(x) for name, x in features.items()}

  return method._replace(encode=encode, draw=_draw)


def _draw(task):
  """The tiles in their places and two of the puzzles; see `Method.draw`."""
  tiles, shown = task.inputs
  # Standardized: black and white are two deviations from the mean.
  tiles = jnp.clip(tiles[0], 0.0, 1.0)
  return {
      "tiles in place": _board(tiles)[None],
      "puzzles": jnp.stack([_board(tiles[order]) for order in shown[0, :2]]),
  }


def _board(tiles):
  """Lays tiles `[N, h, w, C]` out on a square, or in a row, with gray gaps."""
  gap = max(1, round(_GAP * tiles.shape[1]))
  gaps = ((0, 0), (gap, gap), (gap, gap), (0, 0))
  tiles = jnp.pad(tiles, gaps, constant_values=0.5)
  count, height, width, channels = tiles.shape
  columns = math.isqrt(count)
  if columns**2 != count:
    columns = count
  board = tiles.reshape(-1, columns, height, width, channels).swapaxes(1, 2)
  return board.reshape(-1, columns * width, channels)


def _cover(images, size):
  """Cuts `[B, H, W, C]` into nine tiles without gaps: `[B * 9, s, s, C]`."""
  size = size or tile_size_of(*images.shape[1:3])
  shape = (images.shape[0], 3 * size, 3 * size, images.shape[-1])
  images = jax.image.resize(images, shape, "linear")
  tiles = patchify(images, size)
  return tiles.reshape(-1, size, size, shape[-1])


def _join(features):
  """Joins maps of nine tiles `[B * 9, h, w, C]`, averages `[B * 9, D]`."""
  x = features.reshape(-1, 9, *features.shape[1:])
  if x.ndim == 3:
    return jnp.mean(x, axis=1)
  height, width, channels = x.shape[2:]
  x = x.reshape(-1, 3, 3, height, width, channels).swapaxes(2, 3)
  return x.reshape(-1, 3 * height, 3 * width, channels)
