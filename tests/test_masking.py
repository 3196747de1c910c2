"""Masks of patches and pixels."""

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
  # Integers are the same, and compiling takes a third of the time.
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
  # 1.25 of 5 and 1.5 of 6 remain: MAE rounds down the visible ones.
  assert masking.hidden_count(5, 0.75) == 4
  assert masking.hidden_count(6, 0.75) == 5


def test_simmim_hides_30_of_49_squares():
  assert masking.hidden_count(49, 0.6) == 30
  mask = masking.random_mask(KEY, (14, 14), ratio=0.6, unit=2)
  assert int(mask.sum()) == 4 * 30


def test_rounding_of_floats_hides_no_more():
  assert 100 * 0.07 > 7 and 10 * (1 - 0.9) < 1
  assert masking.hidden_count(100, 0.07) == 7
  assert masking.hidden_count(10, 0.9) == 9


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
  # Pairs too: a rolled window would be uniform over single patches.
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
  # All are equally likely: 0.5, sigma 0.03.
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


def _law(grid, scale, aspect, draws=100_000):
  """How often the authors' code draws each shape, by many numbers in [0, 1]."""
  height, width = grid
  u = (np.arange(draws) + 0.5) / draws
  count = np.floor(height * width * (scale[0] + u * (scale[1] - scale[0])))
  ratio = aspect[0] + u * (aspect[1] - aspect[0])
  rows = np.minimum(np.round(np.sqrt(count * ratio)), height - 1)
  columns = np.minimum(np.round(np.sqrt(count / ratio)), width - 1)
  shapes, counts = np.unique([rows, columns], axis=1, return_counts=True)
  return {tuple(map(int, x)): n / draws for x, n in zip(shapes.T, counts)}


@pytest.mark.parametrize(
    "grid,scale,aspect",
    [
        ((14, 14), (0.15, 0.2), (0.75, 1.5)),  # I-JEPA's targets,
        ((14, 14), (0.85, 1.0), (1.0, 1.0)),  # and its context,
        ((16, 16), (0.15, 0.2), (0.75, 1.5)),  # of patches of 14 too.
        ((8, 12), (0.1, 0.5), (0.3, 3.0)),
        ((12, 8), (0.5, 1.0), (1.0, 1.0)),
        ((14, 14), (0.15, 0.15), (0.75, 1.5)),
        ((14, 14), (0.15, 0.2), (2.0, 2.0)),
    ],
)
def test_shapes_of_blocks_are_as_frequent_as_in_the_authors_code(
    grid, scale, aspect
):
  draws = 20_000
  shapes = _many("block_shape", draws, grid, scale=scale, aspect=aspect)
  law = _law(grid, scale, aspect)
  found = {k: np.mean(np.all(shapes == k, axis=1)) for k in law}
  assert sum(found.values()) == pytest.approx(1)  # And no others.
  for shape, expected in law.items():
    sigma = np.sqrt(expected * (1 - expected) / draws)
    assert found[shape] == pytest.approx(expected, abs=4.5 * sigma + 1e-4)


def test_the_paper_has_targets_from_5_x_6_to_8_x_5():
  law = _law((14, 14), (0.15, 0.2), (0.75, 1.5))
  assert sorted(law) == [(5, 6), (6, 5), (6, 6), (7, 5), (8, 5)]
  assert _law((14, 14), (0.85, 1.0), (1.0, 1.0)) == {(13, 13): 1.0}


@pytest.mark.parametrize(
    "scale,aspect,message",
    [
        ((0.0, 0.2), (1.0, 1.0), r"scale of a block is \(0.0, 0.2\)"),
        ((0.3, 0.2), (1.0, 1.0), r"is \(0.3, 0.2\)"),
        ((0.2, 1.1), (1.0, 1.0), r"is \(0.2, 1.1\)"),
        ((0.2, 0.3), (0.0, 1.0), r"aspect \(0.0, 1.0\)"),
        ((0.01, 0.2), (1.0, 1.0), "0 x 0 of 8 x 8 patches; .* Raise the scale"),
    ],
)
def test_ranges_that_give_no_block_are_refused(scale, aspect, message):
  with pytest.raises(ValueError, match=message):
    masking.block_shape(KEY, (8, 8), scale=scale, aspect=aspect)
  with pytest.raises(ValueError, match="0 x 0 of 1 x 1 patches"):
    masking.block_shape(KEY, (1, 1), scale=(0.5, 1.0))


@pytest.mark.parametrize("to_edges", [True, False])
@pytest.mark.parametrize("grid,shape", [((14, 14), (8, 5)), ((4, 9), (3, 2))])
def test_blocks_are_rectangles_anywhere(grid, shape, to_edges):
  blocks = _many("random_block", 3000, grid, shape, limit=45, to_edges=to_edges)
  size = shape[0] * shape[1]
  assert blocks.indices.shape == blocks.valid.shape == (3000, 45)
  assert np.all(blocks.valid == (np.arange(45) < size))
  index = blocks.indices[:, :size]
  assert _distinct(index) and not np.any(blocks.indices[:, size:])
  inside = _places(index, grid)
  rows, columns = _heights_and_widths(inside)
  assert set(rows) == {shape[0]} and set(columns) == {shape[1]}
  # All positions are equally likely, the last ones included.
  top, left = index[:, 0] // grid[1], index[:, 0] % grid[1]
  for start, length, side in zip((top, left), grid, shape):
    counts = np.bincount(start, minlength=length)
    places = length - side + to_edges
    assert not np.any(counts[places:])
    sigma = np.sqrt(3000 / places)
    np.testing.assert_allclose(
        counts[:places], 3000 / places, atol=4.5 * sigma + 1
    )


def _context_and_targets(draws, grid, *, steps=40, **settings):
  """Draws of images in some steps: `[steps, images, ...]`."""

  def draw(keys):
    one = lambda key: masking.context_and_targets(
        key, grid, shape_key=keys[0], **settings
    )
    return jax.vmap(one)(keys[1:])

  keys = jax.random.split(KEY, (steps, 1 + draws // steps))
  return jax.tree.map(np.asarray, jax.jit(jax.vmap(draw))(keys))


def _merged(patches):
  """Steps and images in one dimension."""
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), patches)


def _cover(patches, grid):
  """Whether each patch is a valid one: `[..., height, width]`."""
  total = grid[0] * grid[1]
  hits = (patches.indices[..., None] == np.arange(total)) & patches.valid[
      ..., None
  ]
  return np.any(hits, axis=-2).reshape(*patches.valid.shape[:-1], *grid)


# Grid, settings, largest context and target.
GRIDS = [
    ((14, 14), {}, 50, 40),
    ((14, 14), {"to_edges": False, "context_limit": 0.4}, 78, 40),
    ((8, 8), {"min_keep": 4, "targets": 2, "context_limit": 0.5}, 32, 12),
]


@pytest.mark.parametrize("grid,settings,count,size", GRIDS)
def test_context_avoids_the_targets(grid, settings, count, size):
  context, targets = map(_merged, _context_and_targets(600, grid, **settings))
  number = settings.get("targets", 4)
  assert context.indices.shape == context.valid.shape == (600, count)
  assert targets.indices.shape == targets.valid.shape == (600, number, size)
  total = grid[0] * grid[1]
  assert context.indices.min() >= 0 and context.indices.max() < total
  seen = _cover(context, grid)
  np.testing.assert_array_equal(seen.sum((1, 2)), context.valid.sum(1))
  hidden = np.any(_cover(targets, grid), axis=1)
  assert not np.any(seen & hidden)
  assert np.all(context.valid.sum(1) > settings.get("min_keep", 10))
  # Where they are all taken, it is all that the targets leave of a square.
  few = context.valid.sum(1) < count
  assert np.any(few) and not np.all(few)
  for one, block in zip(seen[few], hidden[few]):
    rows, columns = (np.flatnonzero(one.any(axis)) for axis in (1, 0))
    square = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    np.testing.assert_array_equal(one[square], ~block[square])


def test_images_of_a_step_share_their_shapes_and_steps_do_not():
  _, targets = _context_and_targets(400, (14, 14))
  sizes = targets.valid.sum(-1)  # [steps, images, targets]
  assert np.all(sizes == sizes[:, :1, :1])
  assert {30, 35, 36} <= set(sizes[:, 0, 0]) <= {30, 35, 36, 40}
  # Their places are their own.
  first = targets.indices[..., 0].reshape(40, -1)
  assert np.all([len(np.unique(x)) > 15 for x in first])


@pytest.mark.slow
def test_contexts_are_as_large_as_in_the_authors_code():
  # What four targets leave of 13 x 13 patches in the authors' code, of which
  # the blocks of a step share their shape.
  random = np.random.default_rng(0)
  law = _law((14, 14), (0.15, 0.2), (0.75, 1.5))
  expected = []
  for shape, share in law.items():
    for _ in range(round(4000 * share)):
      free = np.zeros((14, 14), bool)
      free[:13, :13] = True
      for _ in range(4):
        top, left = (random.integers(0, 14 - side) for side in shape)
        free[top : top + shape[0], left : left + shape[1]] = False
      expected.append(free.sum())
  context, _ = _context_and_targets(
      4000, (14, 14), steps=2000, to_edges=False, context_limit=1.0
  )
  actual = context.valid.sum(-1)
  for share in (0.05, 0.25, 0.5, 0.75, 0.95):
    quantiles = np.quantile(actual, share), np.quantile(expected, share)
    assert abs(quantiles[0] - quantiles[1]) <= 2, (share, quantiles)
  assert np.mean(actual) == pytest.approx(np.mean(expected), abs=1.2)
  # Limited, as is the authors' by the smallest of a batch, to the first rows.
  limited, _ = _context_and_targets(4000, (14, 14), steps=2000, to_edges=False)
  np.testing.assert_array_equal(limited.valid.sum(-1), np.minimum(actual, 50))
  np.testing.assert_array_equal(limited.indices, context.indices[..., :50])
  assert np.mean(actual >= 50) > 0.9


def test_a_context_that_targets_would_cover_overlaps_the_last_ones():
  settings = dict(
      targets=3,
      target_scale=(0.5, 0.5),
      target_aspect=(1.0, 1.0),
      context_scale=(1.0, 1.0),
      context_limit=1.0,
      min_keep=5,
  )
  context, targets = map(_merged, _context_and_targets(500, (6, 6), **settings))
  seen, hidden = _cover(context, (6, 6)), _cover(targets, (6, 6))
  assert np.all(seen.sum((1, 2)) > 5)
  overlaps = np.any(seen[:, None] & hidden, axis=(2, 3))
  any_overlap = np.any(overlaps, axis=1)
  assert np.any(any_overlap) and not np.all(any_overlap)
  # The first that it overlaps would leave too little, those before do not.
  first = np.argmax(overlaps, axis=1)
  assert set(first[any_overlap]) == {1, 2}
  left = seen & ~hidden[np.arange(len(seen)), first]
  assert np.all(left[any_overlap].sum((1, 2)) <= 5)


def test_settings_that_leave_no_context_are_refused():
  draw = functools.partial(
      masking.context_and_targets, KEY, (4, 4), shape_key=KEY
  )
  with pytest.raises(
      ValueError, match="has 9 of 4 x 4 .* min_keep is 10;.*Low"
  ):
    draw()
  with pytest.raises(ValueError, match="min_keep is -1"):
    draw(min_keep=-1)
  for limit in (0.0, 1.5, 0.01):
    with pytest.raises(ValueError, match=f"context_limit is {limit}"):
      draw(min_keep=1, context_limit=limit)


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
  # But not always a square, nor made of the bumps' cells.
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
