"""Jigsaw and relative position."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import augment, optim
from jssl.methods import _one_net, _tiles, METHODS
from jssl.methods._permutations import load
from jssl.step import init_state, make_step
import siamese_case
import tiny

SIDE, CELL, TILE = 30, 10, 8
ORDERS = 4
BATCH = 32
STEPS = 150
# The cells that each label shows.
CELLS = {
    "jigsaw": load(ORDERS),
    "relative_position": np.array([[4, i] for i in range(9) if i != 4]),
}

PUZZLES = {"jigsaw": 3, "relative_position": 8}

each_method = pytest.mark.parametrize("name", CELLS)


class _Corner(nn.Module):
  """The first pixel of each image, and the image."""

  def __call__(self, images, *, train=False):
    del train
    return {"stage_1": images, "pooled": images[:, 0, 0, :1]}


def _identity(x, *, train):
  del train
  return x


def _method(name, net=tiny.Net(grid=2), **arguments):
  if name == "jigsaw":
    arguments = dict(permutations=ORDERS, puzzles=3) | arguments
  small = dict(augment=tiny.plain, dim=16, hidden_dim=64, dropout=0.0)
  return METHODS[name](net, **small | arguments)


@functools.cache
def _views(name, **arguments):
  """The views of a method, compiled."""
  return jax.jit(_method(name, **arguments).views)


def _per_cell(values):
  """Spreads `[..., 9, C]` over the cells of images."""
  grid = values.reshape(*values.shape[:-2], 3, 3, values.shape[-1])
  return np.float32(np.repeat(np.repeat(grid, CELL, axis=-3), CELL, axis=-2))


def _numbered(count):
  """Images whose green, between red and blue, is a number of each cell."""
  green = np.arange(9 * count).reshape(count, 9, 1) / (9 * count)
  return _per_cell(np.concatenate([0 * green, green, 0 * green + 1], axis=-1))


def _numbers(tiles):
  """Reads the numbers of tiles `[B, N, h, w, C]`: the image's, the cell's."""
  red, green, blue = np.moveaxis(np.asarray(tiles, np.float64), -1, 0)
  numbers = 9 * len(tiles) * (green - red) / (blue - red)
  assert np.all(np.ptp(numbers, axis=(2, 3)) < 0.2)  # Of one cell.
  return np.divmod(np.round(numbers[:, :, 0, 0]).astype(int), 9)


def _noise(count, seed=0):
  random = np.random.default_rng(seed)
  return np.float32(random.uniform(0, 1, (count, SIDE, SIDE, 3)))


def _bowl(count, seed=0):
  """Images that get darker outwards: each tile's slope reveals its cell."""
  axis = np.square(np.linspace(-1, 1, SIDE))
  light = 0.9 - 0.3 * (axis[:, None] + axis)
  return np.float32(light[..., None] + 0.1 * (_noise(count, seed) - 0.5))


def _enlarged(key, image, *, extent=None):
  """A crop, as the configs for CIFAR-10 enlarge it."""
  return augment.crop_and_flip(key, image, 48, extent=extent, scale=(0.6, 1.0))


ENLARGED = dict(augment=_enlarged, tile_size=12, channel_shift=1)


@functools.cache
def _trainer(name, enlarged=False):
  method = _method(name, **ENLARGED if enlarged else {})
  optimizer = optim.sgd(0.05)
  start = init_state(
      method, optimizer, jax.random.key(0), {"image": _noise(BATCH)}
  )
  return start, jax.jit(make_step(method, optimizer))


def _accuracy(name, draw, enlarged=False):
  """Of the second half of a training that sees no image twice."""
  state, step = _trainer(name, enlarged)
  accuracies = []
  for i in range(STEPS):
    state, row = step(state, {"image": draw(BATCH, seed=i)})
    accuracies.append(float(row["accuracy"]))
  return np.mean(accuracies[STEPS // 2 :])


@each_method
def test_tiles_are_those_of_their_cells(name):
  count = 60
  views = _views(name, grayscale_probability=0.0)
  task = views(jax.random.key(0), {"image": _numbered(count)})
  assert task.inputs.tiles.shape == (count, 9, TILE, TILE, 3)
  image, cell = _numbers(task.inputs.tiles)
  np.testing.assert_array_equal(cell, np.tile(np.arange(9), (count, 1)))
  own = np.broadcast_to(np.arange(count)[:, None], image.shape)
  np.testing.assert_array_equal(image, own)


@each_method
def test_puzzles_show_the_tiles_that_the_label_says(name):
  count = 100
  task = _views(name)(jax.random.key(0), {"image": _noise(count)})
  cells = CELLS[name]
  assert task.target.shape == (count, PUZZLES[name])
  np.testing.assert_array_equal(task.inputs.shown, cells[task.target])
  # Each label as often as the others, up to four deviations.
  counts = np.bincount(np.ravel(task.target), minlength=len(cells))
  assert len(counts) == len(cells)
  total, chance = task.target.size, 1 / len(cells)
  bound = 4 * np.sqrt(total * chance * (1 - chance))
  assert np.all(np.abs(counts - total * chance) < bound)


def test_a_jigsaw_draws_other_orders_for_each_image_and_step():
  images = {"image": _noise(100)}
  first = _views("jigsaw")(jax.random.key(0), images).target
  second = _views("jigsaw")(jax.random.key(1), images).target
  for one, other in ((first, second), (first[1:], first[:-1])):
    assert abs(np.mean(one == other) - 1 / ORDERS) < 0.1
  # The puzzles of an image are drawn apart from each other, too.
  assert abs(np.mean(first[:, 1:] == first[:, :-1]) - 1 / ORDERS) < 0.1


@each_method
def test_logits_are_of_the_tiles_that_a_puzzle_shows(name):
  # A net of one number a tile, and a classifier that sees it as it is.
  module = _tiles.TileNet(_Corner(), _identity, _identity)
  tiles = np.arange(2 * 9).reshape(2, 9, 1, 1, 1) + np.zeros((1, 1, 4, 4, 3))
  shown = np.stack([CELLS[name][:2], CELLS[name][1:3]])
  logits = module.apply({}, _tiles.Puzzles(np.float32(tiles), shown))
  expected = np.stack([shown[0], 9 + shown[1]]).reshape(4, -1)
  np.testing.assert_array_equal(logits, expected)


@each_method
@pytest.mark.parametrize("enlarged", [False, True])
def test_noise_does_not_tell_where_tiles_were(name, enlarged):
  chance, images = 1 / len(CELLS[name]), BATCH * (STEPS - STEPS // 2)
  # Binomial; four of its deviations.
  bound = 4 * np.sqrt(chance * (1 - chance) / images)
  assert bound < 0.04
  accuracy = _accuracy(name, _noise, enlarged)
  assert abs(accuracy - chance) < bound


@each_method
@pytest.mark.parametrize("enlarged", [False, True])
def test_a_pattern_across_the_image_reveals_where_tiles_were(name, enlarged):
  accuracy = _accuracy(name, _bowl, enlarged)
  assert accuracy > 0.8


@each_method
def test_tiles_do_not_show_brightness_and_contrast_of_their_cell(name):
  random = np.random.default_rng(1)
  contrast = random.uniform(0.3, 0.6, (4, 9, 1))
  brightness = random.uniform(0.0, 0.4, (4, 9, 1))
  images = _noise(4)
  changed = _per_cell(contrast) * images + _per_cell(brightness)
  views = _views(name, grayscale_probability=0.0)
  expected = views(jax.random.key(0), {"image": images})
  actual = views(jax.random.key(0), {"image": changed})
  # The least variance that is stretched takes a little off.
  np.testing.assert_allclose(
      actual.inputs.tiles, expected.inputs.tiles, atol=0.01
  )
  np.testing.assert_array_equal(actual.target, expected.target)
  assert np.std(expected.inputs.tiles) > 0.2


@each_method
def test_features_do_not_show_brightness_and_contrast(name):
  state, _ = _trainer(name)
  encode = functools.partial(
      jax.jit(_method(name).encode), state.params, state.carried
  )
  images = np.round(_noise(4))  # The least variance matters little.
  expected = encode(images)["pooled"]
  actual = encode(0.4 * images + 0.5)["pooled"]
  np.testing.assert_allclose(actual, expected, atol=1e-3)
  # Alike, not gone: other images have others.
  assert np.max(np.abs(expected[0] - expected[1])) > 0.01
  # Each is standardised by itself.
  dark = encode(images * np.float32([1, 0.2, 0.1, 0.2])[:, None, None, None])
  np.testing.assert_allclose(dark["pooled"][0], expected[0], atol=1e-5)


@each_method
@pytest.mark.parametrize("side", [3 * TILE, SIDE, 12])
def test_features_are_those_of_nine_tiles_that_cover_the_image(name, side):
  method = _method(name, _Corner(), tile_size=TILE)
  images = _noise(2)[:, :side, :side]
  features = method.encode({"net": {}}, _one_net.Statistics({}), images)
  assert features["stage_1"].shape == (2, 3 * TILE, 3 * TILE, 3)
  assert features["pooled"].shape == (2, 1)
  # Each tile has the mean and deviation of all.
  tiles = features["stage_1"].reshape(2, 3, TILE, 3, TILE, 3)
  np.testing.assert_allclose(tiles.mean(axis=(2, 4, 5)), 0.5, atol=1e-3)
  corners = tiles[:, :, 0, :, 0, 0].mean(axis=(1, 2))
  np.testing.assert_allclose(features["pooled"][:, 0], corners, atol=1e-5)
  if side != 3 * TILE:
    return
  # Without resizing, the pixels of each are those of its cell.
  cells = images.reshape(2, 3, TILE, 3, TILE, 3)
  for i, j in np.ndindex(3, 3):
    np.testing.assert_allclose(
        tiles[:, i, :, j],
        augment.standardize(cells[:, i, :, j]),
        atol=1e-5,
    )


@each_method
@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_all_tiles_of_an_image_lose_their_colors_or_none(name, probability):
  views = _views(name, grayscale_probability=probability, channel_shift=2)
  task = views(jax.random.key(0), {"image": _noise(64)})
  colors = np.ptp(np.asarray(task.inputs.tiles), axis=-1).max(axis=(2, 3))
  gray = colors < 1e-5
  np.testing.assert_array_equal(gray, np.repeat(gray[:, :1], gray.shape[1], 1))
  # Four deviations; none where all are gray.
  bound = 4 * np.sqrt(probability * (1 - probability) / 64)
  assert abs(np.mean(gray) - probability) <= bound


@each_method
def test_heads_see_one_tile_each_then_all(name):
  method = _method(name, siamese_case.Pixels())
  task = jax.eval_shape(method.views, jax.random.key(0), {"image": _noise(1)})
  labels, count = CELLS[name].shape
  assert siamese_case.shapes(method, task) == {
      "projector": {
          "layer_1": siamese_case.linear(TILE * TILE * 3, 16) | {"bias": (16,)}
      },
      "classifier": {
          "layer_1": siamese_case.linear(16 * count, 64),
          "norm_1": siamese_case.norm(64),
          "layer_2": siamese_case.linear(64, labels) | {"bias": (labels,)},
      },
  }


@each_method
@pytest.mark.parametrize(
    "side,arguments,message",
    [
        (12, dict(tile_size=8), "8 x 8 does not fit .* image of 12 x 12"),
        (2, {}, "0 x 0 does not fit .* image of 2 x 2"),
    ],
)
def test_images_too_small_for_the_tiles_are_refused(
    name, side, arguments, message
):
  batch = {"image": np.zeros((2, side, side, 3), np.uint8)}
  with pytest.raises(ValueError, match=message):
    _method(name, **arguments).views(jax.random.key(0), batch)


@each_method
def test_defaults_are_those_of_revisiting_self_supervised(name):
  defaults = METHODS[name].__kwdefaults__
  assert (defaults["grayscale_probability"], defaults["dropout"]) == (0.66, 0.5)


@each_method
def test_the_classifier_drops_activations_in_training_alone(name):
  def logits(dropout, train, seed=0):
    method = _method(
        name, siamese_case.Pixels(), dropout=dropout, augment=tiny.plain
    )
    task = method.views(jax.random.key(0), {"image": _noise(4)})
    params, carried = method.init(jax.random.key(1), task)
    if not train:
      pooled = method.encode(params, carried, _noise(4))["pooled"]
      return np.asarray(pooled)
    keys = siamese_case.KEYS._replace(local=jax.random.key(seed))
    return float(method.loss(params, carried, task, keys, 0)[0])

  assert logits(0.0, True, 1) == logits(0.0, True, 2)
  assert logits(0.5, True, 1) != logits(0.5, True, 2)
  np.testing.assert_array_equal(logits(0.5, False), logits(0.0, False))


@each_method
def test_dropping_all_activations_is_refused(name):
  with pytest.raises(ValueError, match="dropout is 1.0; expected a rate in"):
    _method(name, dropout=1.0)


@pytest.mark.parametrize("count", [1, 1001])
def test_a_puzzle_needs_as_many_orders_as_there_are(count):
  with pytest.raises(ValueError, match=f"permutations is {count}; expected 2"):
    _method("jigsaw", permutations=count)


def test_a_drawn_puzzle_shows_its_tiles_in_the_order_that_it_asks_about():
  tiles = jnp.ones((1, 9, 2, 2, 1)) * jnp.arange(9)[None, :, None, None, None]
  order = np.roll(np.arange(9), 4)
  puzzles = _tiles.Puzzles(tiles / 8, jnp.asarray(order)[None, None])
  drawn = _method("jigsaw").draw(_one_net.Task(puzzles, None))
  (board,) = drawn["puzzles"]
  assert board.shape == (12, 12, 1)  # A gap of a pixel around each tile.
  np.testing.assert_allclose(board[1::4, 1::4, 0].ravel(), order / 8, atol=1e-6)
