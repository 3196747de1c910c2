"""Tiles of an image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import augment

KEY = jax.random.key(0)


def _coordinates(height, width, channels=3):
  """An image whose pixels tell where they are: 100 * row + column."""
  rows, columns = np.indices((height, width))
  place = (100 * rows + columns).astype(np.float32)
  return np.repeat(place[..., None], channels, axis=-1)


@functools.cache
def _corners(height, width, *, draws=400, channels=3, **settings):
  """Where the tiles of many keys begin: `[draws, grid, grid, C, 2]`.

  Checks on the way that a tile is a piece of the image.
  """
  image = _coordinates(height, width, channels)
  cut = lambda key: augment.cut_tiles(key, image, **settings)
  tiles = jax.jit(jax.vmap(cut))(jax.random.split(KEY, draws))
  tiles = np.asarray(tiles).astype(int)
  draws, count, size, _, channels = tiles.shape
  piece = tiles - tiles[:, :, :1, :1]
  expected = _coordinates(size, size, channels).astype(int)
  np.testing.assert_array_equal(piece, np.broadcast_to(expected, piece.shape))
  grid = round(count**0.5)
  corners = np.stack(np.divmod(tiles[:, :, 0, 0], 100), axis=-1)
  return corners.reshape(draws, grid, grid, channels, 2)


def _offsets(corners, cell):
  """Places of tiles in their own cells."""
  cells = np.stack(np.indices(corners.shape[1:3]), axis=-1)
  return corners - cells[None, :, :, None] * np.array(cell)


# Of an image of 15 x 21, cells of 5 x 7 and tiles of 3 x 3.
GRID = dict(grid=3, size=3)


def test_tiles_are_of_their_own_cells_and_reach_every_place():
  offsets = _offsets(_corners(15, 21, **GRID), (5, 7))
  for row in range(3):
    for column in range(3):
      places = offsets[:, row, column].reshape(-1, 2)
      found = np.unique(places, axis=0)
      expected = np.stack(np.indices((3, 5)), axis=-1).reshape(-1, 2)
      np.testing.assert_array_equal(found, expected)


def test_tiles_are_placed_independently():
  offsets = _offsets(_corners(15, 21, **GRID), (5, 7))[..., 0, :]
  flat = offsets.reshape(400, 9, 2)
  for i in range(1, 9):
    # By chance one in 15, sigma 0.012.
    assert np.mean(np.all(flat[:, 0] == flat[:, i], axis=-1)) < 0.13


def test_without_a_shift_channels_are_aligned():
  corners = _corners(15, 21, **GRID)
  np.testing.assert_array_equal(corners, corners[..., :1, :].repeat(3, axis=-2))


def test_channels_shift_only_within_the_cell():
  offsets = _offsets(_corners(16, 20, grid=2, size=3, channel_shift=1), (8, 10))
  assert offsets.min() == 0
  np.testing.assert_array_equal(offsets.max(axis=(0, 1, 2, 3)), [5, 7])
  # One channel goes up and another down, or left and right.
  apart = np.ptp(offsets, axis=-2)
  assert set(np.unique(apart)) == {0, 1, 2}
  # Each channel is as likely to move as the others, and rows as columns.
  first = offsets[..., 0, :] - offsets[..., 1, :]
  moved = np.mean(first != 0, axis=(0, 1, 2))
  assert np.all(moved > 0.5) and np.all(moved < 0.8)


def test_a_gray_image_has_tiles():
  tiles = augment.cut_tiles(KEY, jnp.ones((12, 12, 1)), grid=2, channel_shift=2)
  assert tiles.shape == (4, 5, 5, 1)
  np.testing.assert_array_equal(tiles, 1.0)


@pytest.mark.parametrize(
    "height,width,size", [(225, 225, 64), (230, 225, 64), (225, 96, 27)]
)
def test_a_tile_is_64_of_75_pixels_of_its_cell(height, width, size):
  image = jax.ShapeDtypeStruct((height, width, 3), jnp.float32)
  tiles = jax.eval_shape(augment.cut_tiles, KEY, image)
  assert tiles.shape == (9, size, size, 3)


def test_a_tile_may_fill_its_cell():
  image = _coordinates(8, 8)
  tiles = augment.cut_tiles(KEY, image, grid=2, size=4, channel_shift=2)
  expected = image.reshape(2, 4, 2, 4, 3).swapaxes(1, 2).reshape(4, 4, 4, 3)
  np.testing.assert_array_equal(tiles, expected)


@pytest.mark.parametrize("size", [0, 6])
def test_a_tile_that_does_not_fit_is_refused(size):
  message = f"{size} x {size} does not fit a cell of 5 x 7, .* 15 x 21"
  with pytest.raises(ValueError, match=message):
    augment.cut_tiles(KEY, _coordinates(15, 21), size=size)


def test_an_image_smaller_than_its_grid_is_refused():
  with pytest.raises(ValueError, match="0 x 0 .* 3 x 3 in an image of 2 x 9"):
    augment.cut_tiles(KEY, jnp.zeros((2, 9, 3)))


def test_a_shift_below_zero_is_refused():
  with pytest.raises(ValueError, match="channel_shift .* got -1"):
    augment.cut_tiles(KEY, _coordinates(15, 21), channel_shift=-1)


@pytest.mark.parametrize("mean,std", [(0.5, 0.25), (0.0, 1.0)])
def test_standardized_images_have_the_mean_and_deviation(mean, std):
  random = np.random.default_rng(0)
  # Bright and dark ones, of much and of little contrast.
  images = np.float32([[[[0.2]]], [[[0.7]]], [[[0.5]]]])
  images = images + np.float32([[[[0.1]]], [[[0.3]]], [[[0.5]]]]) * (
      random.uniform(-1, 1, (3, 8, 8, 3)).astype(np.float32)
  )
  actual = jax.jit(augment.standardize)(images, mean=mean, std=std)
  assert actual.dtype == jnp.float32
  np.testing.assert_allclose(np.mean(actual, axis=(1, 2, 3)), mean, atol=1e-5)
  np.testing.assert_allclose(np.std(actual, axis=(1, 2, 3)), std, rtol=0.02)
  np.testing.assert_allclose(
      augment.standardize(images[0], mean=mean, std=std), actual[0], atol=1e-5
  )


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_an_even_image_stays_even(level):
  image = jnp.full((8, 8, 3), level)
  np.testing.assert_allclose(augment.standardize(image), 0.5, atol=1e-4)
  loss = lambda x: jnp.sum(jnp.square(augment.standardize(x)))
  gradient = jax.jit(jax.grad(loss))(image)
  # No more than the epsilon lets through.
  assert np.all(np.abs(gradient) < 100)


def test_noise_below_a_gray_level_is_not_stretched():
  noise = np.random.default_rng(0).normal(0.5, 1e-4, (16, 16, 3))
  assert np.std(augment.standardize(noise)) < 0.01
