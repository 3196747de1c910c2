"""What is hidden from a net."""

import functools

import jax
import numpy as np
import pytest

from jssl import masking

KEY = jax.random.key(0)


@functools.cache
def _many(name, draws, /, *arguments, **settings):
  """Draws of many keys, as NumPy arrays; compiled once."""
  draw = lambda key: getattr(masking, name)(key, *arguments, **settings)
  keys = jax.random.split(KEY, draws)
  # Integers come out the same, and compiling takes a third of the time.
  options = {"xla_backend_optimization_level": 0}
  draw = jax.jit(jax.vmap(draw), compiler_options=options)
  return jax.tree.map(np.asarray, draw(keys))


def _distinct(rows):
  """Whether no row repeats a number."""
  return np.all(np.diff(np.sort(rows, axis=-1), axis=-1) > 0)


# Patches.


def test_mae_hides_147_of_196_patches():
  assert masking.hidden_count(196, 0.75) == 147
  assert masking.hidden_count(16, 0.75) == 12
  # 1.25 of 5 are left: MAE rounds what is left down.
  assert masking.hidden_count(5, 0.75) == 4


@pytest.mark.parametrize(
    "total,ratio,hidden",
    [(196, 0.0, 0), (196, 1.0, 196), (196, -0.5, -98), (3, 0.9, 3)],
)
def test_a_ratio_that_hides_none_or_all_is_refused(total, ratio, hidden):
  message = f"{ratio} hides {hidden} of {total} patches; .* larger images"
  with pytest.raises(ValueError, match=message):
    masking.hidden_count(total, ratio)


def test_a_split_is_a_partition():
  visible, hidden = _many("random_split", 2000, 16, 12)
  assert visible.shape == (2000, 4) and hidden.shape == (2000, 12)
  both = np.sort(np.concatenate([visible, hidden], axis=1), axis=1)
  np.testing.assert_array_equal(both, np.tile(np.arange(16), (2000, 1)))


def test_a_split_hides_each_patch_as_often_as_others():
  hidden = _many("random_split", 2000, 16, 12).hidden
  counts = np.bincount(hidden.ravel(), minlength=16)
  # Chi square of 15 degrees, of counts that vary by p (1 - p) each.
  chi = np.sum((counts - 1500) ** 2) / (2000 * 0.75 * 0.25) * 15 / 16
  assert 3.5 < chi < 38  # Each end: about 1 in 1000.
  # Pairs too: a window that is rolled would be even over single patches.
  shown = np.ones((2000, 16), bool)
  np.put_along_axis(shown, hidden, False, axis=1)
  together = shown.T.astype(int) @ shown
  pairs = together[~np.eye(16, dtype=bool)] / 2000
  np.testing.assert_allclose(pairs, 4 * 3 / (16 * 15), atol=0.025)  # 5 sigma.


def test_splits_differ_by_their_keys():
  splits = _many("random_split", 2000, 16, 12).visible
  assert len(np.unique(splits, axis=0)) > 1900
  again = masking.random_split(jax.random.split(KEY, 2000)[7], 16, 12)
  np.testing.assert_array_equal(again.visible, splits[7])


@pytest.mark.parametrize("unit", [1, 2])
def test_a_random_mask_hides_whole_squares_in_the_ratio(unit):
  masks = _many("random_mask", 300, (8, 12), ratio=0.5, unit=unit)
  assert masks.shape == (300, 8, 12) and masks.dtype == bool
  np.testing.assert_array_equal(masks.sum((1, 2)), 48)
  squares = masks.reshape(300, 8 // unit, unit, 12 // unit, unit)
  share = squares.mean((2, 4))
  assert set(np.unique(share)) == {0, 1}
  # Each as likely as the others: 0.5, sigma 0.03.
  np.testing.assert_allclose(share.mean(0), 0.5, atol=0.13)


def test_a_mask_whose_units_or_ratio_do_not_fit_is_refused():
  for grid in ((8, 9), (9, 8)):
    message = f"2 x 2 patches does not divide {grid[0]} x {grid[1]}"
    with pytest.raises(ValueError, match=message):
      masking.random_mask(KEY, grid, ratio=0.5, unit=2)
  with pytest.raises(ValueError, match="0 x 0"):
    masking.random_mask(KEY, (8, 8), ratio=0.5, unit=0)
  with pytest.raises(ValueError, match="1.0 hides 16 of 16"):
    masking.random_mask(KEY, (8, 8), ratio=1.0, unit=2)


# Blocks.


def _places(indices, grid):
  """Whether each patch is among those of a draw: `[N, height, width]`."""
  inside = np.zeros((len(indices), grid[0] * grid[1]), bool)
  np.put_along_axis(inside, indices, True, axis=1)
  return inside.reshape(-1, *grid)


def _heights_and_widths(blocks):
  """Of the smallest box around each block."""
  return np.stack([np.sum(np.any(blocks, axis), axis=1) for axis in (2, 1)])


@pytest.mark.parametrize(
    "grid,count", [((14, 14), 29), ((4, 9), 23), ((9, 4), 36)]
)
def test_a_block_is_a_rectangle_but_for_one_row(grid, count):
  blocks = _many("random_block", 500, grid, count)
  assert blocks.shape == (500, count)
  assert blocks.min() >= 0 and blocks.max() < grid[0] * grid[1]
  assert _distinct(blocks)
  for inside in _places(blocks, grid):
    rows = np.flatnonzero(inside.any(axis=1))
    columns = np.flatnonzero(inside.any(axis=0))
    assert rows[-1] - rows[0] + 1 == len(rows)
    assert columns[-1] - columns[0] + 1 == len(columns)
    inside = inside[np.ix_(rows, columns)]
    if not np.all(inside[0]):
      inside = inside[::-1, ::-1]  # Turned: the short row is the first.
    assert np.all(inside[:-1])
    # As short as it is, the last row begins with the others and has no gap.
    assert np.all(inside[-1, : inside[-1].sum()])


@pytest.mark.parametrize("aspect", [(0.25, 4.0), (3.0, 3.0)])
def test_blocks_have_the_aspects_that_are_asked_for(aspect):
  blocks = _many("random_block", 500, (30, 30), 100, aspect=aspect)
  rows, columns = _heights_and_widths(_places(blocks, (30, 30)))
  # Of whole rows and columns, half of one more or less.
  low, high = (np.sqrt(100 * x) for x in aspect)
  assert low - 0.5 <= rows.min() < low + 1 and high - 1 < rows.max() < high + 1
  np.testing.assert_array_equal(columns, -(-100 // rows))
  # Of ratios the logarithm is drawn, not the ratio: that would give 0.57.
  middle = np.mean(np.log(rows / columns))
  np.testing.assert_allclose(middle, np.mean(np.log(aspect)), atol=0.2)


@pytest.mark.parametrize(
    "grid,count",
    [
        ((8, 8), 9),
        ((14, 14), 29),  # I-JEPA's: no rectangle of its aspects has 29 patches.
    ],
)
def test_blocks_reach_every_corner(grid, count):
  reached = _places(_many("random_block", 500, grid, count), grid).any(axis=0)
  assert np.all(reached)


def test_blocks_differ_by_their_keys():
  blocks = _many("random_block", 500, (14, 14), 29)
  assert len(np.unique(blocks, axis=0)) > 150


@pytest.mark.parametrize("count", [0, 65])
def test_a_block_that_does_not_fit_is_refused(count):
  with pytest.raises(ValueError, match=f"{count} patches .* 8 x 8 patches"):
    masking.random_block(KEY, (8, 8), count)


# Grid, number of the context's patches and of each target's.
GRIDS = [((8, 8), 14, 10), ((14, 14), 50, 29)]


@pytest.mark.parametrize("grid,count,size", GRIDS)
def test_context_avoids_the_targets(grid, count, size):
  context, targets = _many("context_and_targets", 500, grid)
  assert context.shape == (500, count) and targets.shape == (500, 4, size)
  total = grid[0] * grid[1]
  assert context.min() >= 0 and context.max() < total
  assert _distinct(context) and _distinct(targets)
  seen = _places(context, grid)
  hidden = _places(targets.reshape(500, -1), grid)
  assert not np.any(seen & hidden)


def test_a_context_lies_in_a_block_of_the_grid():
  # Smaller than the grid, and with one small target to leave most of it.
  context, targets = _many(
      "context_and_targets",
      500,
      (10, 14),
      targets=1,
      target_scale=0.05,
      context_scale=(0.3, 0.4),
  )
  assert context.shape == (500, 42 - 7) and targets.shape == (500, 1, 7)
  seen = _places(context, (10, 14))
  rows, columns = _heights_and_widths(seen)
  # Shares of 0.3 to 0.4 are sides of 0.55 to 0.63, rounded up.
  assert rows.max() == 7 and columns.max() == 9
  assert rows.min() >= 5 and columns.min() >= 7
  assert np.all(seen.any(axis=0))  # It is anywhere.
  assert not np.any(seen & _places(targets[:, 0], (10, 14)))


def test_contexts_take_any_free_patch_of_their_block():
  context, targets = _many("context_and_targets", 500, (8, 8))
  seen = _places(context, (8, 8)).mean(axis=0)
  free = 1 - _places(targets.reshape(500, -1), (8, 8)).mean(axis=0)
  # With the whole grid in the block, free patches have the same chance, though
  # it is higher where targets leave fewer.
  assert np.all(seen > 0.3 * free) and np.all(seen < 0.8 * free)
  assert len(np.unique(np.sort(context, axis=1), axis=0)) > 490


def test_targets_are_drawn_each_for_itself():
  _, targets = _many("context_and_targets", 500, (14, 14))
  same = [np.all(targets[:, 0] == targets[:, i], axis=1) for i in (1, 2, 3)]
  assert np.mean(same) < 0.05


def test_targets_that_may_leave_no_context_are_refused():
  message = "6 targets of 10 patches .* 8 x 8 patches it has 54.* fewer"
  with pytest.raises(ValueError, match=message):
    masking.context_and_targets(KEY, (8, 8), targets=6)


# Regions of pixels.


def _boundary(masks):
  """Pairs of neighbours that a mask divides, of each mask."""
  across = masks[:, 1:] != masks[:, :-1]
  down = masks[:, :, 1:] != masks[:, :, :-1]
  return across.sum((1, 2)) + down.sum((1, 2))


@pytest.mark.parametrize("size,side,start", [(16, 8, 4), (10, 5, 2), (9, 4, 2)])
def test_the_center_is_a_square_in_the_middle(size, side, start):
  expected = np.zeros((size, size), bool)
  expected[start : start + side, start : start + side] = True
  np.testing.assert_array_equal(masking.center(size), expected)


def test_the_center_has_its_share():
  assert np.sum(masking.center(20, share=0.09)) == 36


@pytest.mark.parametrize("share,side", [(0.0001, 0), (1.0, 16)])
def test_a_center_of_nothing_or_all_is_refused(share, side):
  with pytest.raises(ValueError, match=f"16 x 16 has a side of {side} pixels"):
    masking.center(16, share=share)


@pytest.mark.parametrize("share,count", [(0.5, 1), (0.1, 9)])
def test_squares_hide_a_share_at_most(share, count):
  masks = _many("random_squares", 300, 16, share=share, count=count)
  hidden = masks.sum((1, 2))
  assert masks.shape == (300, 16, 16) and masks.dtype == bool
  high = int((share / count) ** 0.5 * 16)
  assert hidden.min() >= max(1, high // 2) ** 2
  assert hidden.max() <= share * 256
  assert np.all(masks.any(axis=0))  # They are anywhere.
  assert len(np.unique(hidden)) > 2 or high == 1


def test_a_single_hole_is_a_square():
  masks = _many("random_squares", 300, 16, share=0.5, count=1)
  rows, columns = _heights_and_widths(masks)
  np.testing.assert_array_equal(rows, columns)
  np.testing.assert_array_equal(masks.sum((1, 2)), rows**2)
  assert set(rows) == set(range(5, 12))


def test_squares_below_a_pixel_are_refused():
  with pytest.raises(ValueError, match="100 holes in 0.25 .* 16 x 16"):
    masking.random_squares(KEY, 16, count=100)


@pytest.mark.parametrize("share,cells,hidden", [(0.25, 4, 144), (0.6, 8, 346)])
def test_a_region_has_exactly_its_share(share, cells, hidden):
  masks = _many("random_region", 200, 24, share=share, cells=cells)
  assert masks.shape == (200, 24, 24) and masks.dtype == bool
  np.testing.assert_array_equal(masks.sum((1, 2)), hidden)
  assert np.all(masks.any(axis=0)) and not np.any(masks.all(axis=0))


def test_a_region_is_smooth():
  regions = _many("random_region", 200, 24, share=0.25, cells=4)
  random = np.random.default_rng(0)
  scattered = random.permuted(regions.reshape(200, -1), axis=1)
  scattered = _boundary(scattered.reshape(regions.shape))
  smooth = _boundary(regions)
  assert smooth.max() < 0.5 * scattered.min()
  # But not a square each time, nor made of the bumps' cells.
  assert smooth.max() > 1.5 * smooth.min()
  in_cells = regions.reshape(200, 4, 6, 4, 6).mean((2, 4))
  assert np.all(np.any((in_cells > 0.1) & (in_cells < 0.9), axis=(1, 2)))
  # More bumps make a longer outline.
  finer = _many("random_region", 200, 24, share=0.6, cells=8)
  assert _boundary(finer).mean() > 1.3 * smooth.mean()


@pytest.mark.parametrize("share,count", [(0.001, 0), (1.0, 256)])
def test_a_region_of_nothing_or_all_is_refused(share, count):
  with pytest.raises(ValueError, match=f"16 x 16 has {count} pixels"):
    masking.random_region(KEY, 16, share=share)
