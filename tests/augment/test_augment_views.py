"""Recipes, and the views of a batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import augment
from jssl.augment import recipes

RECIPES = {
    "moco_v1": functools.partial(augment.moco_v1, size=16),
    "moco_v2": functools.partial(augment.moco_v2, size=16),
    "digits": functools.partial(augment.digits, size=16),
}


SIZE = 400  # One size of batch, as each one compiles anew.


def _batch(channels=3):
  random = np.random.default_rng(0)
  return {
      "image": jnp.asarray(
          random.integers(0, 256, (SIZE, 20, 20, channels)), jnp.uint8
      ),
      "extent": jnp.asarray(random.integers(20, 90, (SIZE, 2))),
      "position": jnp.arange(SIZE),
  }


# Compiled once for the tests that follow.
@jax.jit
def make_all(key, batch):
  return augment.make_views(key, batch, tuple(RECIPES.values()))


KEY = jax.random.key(0)


def test_views_are_images_and_derive_from_the_key():
  batch = _batch()
  views = make_all(KEY, batch)
  for view in views:
    assert view.shape == (SIZE, 16, 16, 3) and view.dtype == jnp.float32
    assert np.all(view >= -1e-6) and np.all(view <= 1 + 1e-6)
  again = make_all(KEY, batch)
  other = make_all(jax.random.key(1), batch)
  for v, view in enumerate(views):
    np.testing.assert_array_equal(again[v], view)
    assert not np.allclose(other[v], view, atol=0.1)


def _halves(batch):
  for part in (slice(None, SIZE // 2), slice(SIZE // 2, None)):
    yield jax.tree.map(lambda x: x[part], batch)


def test_parts_of_a_batch_have_the_views_of_the_whole():
  batch = _batch()
  whole = make_all(KEY, batch)
  halves = zip(*[make_all(KEY, half) for half in _halves(batch)])
  for view, parts in zip(whole, halves):
    # Compiled for another size of batch, a program rounds elsewhere.
    np.testing.assert_allclose(np.concatenate(parts), view, atol=1e-4)


def test_parts_of_a_batch_draw_what_the_whole_draws_bit_for_bit():
  draw = lambda key, image, *, extent: jax.random.bits(key, (3,))
  make = jax.jit(lambda batch: augment.make_views(KEY, batch, (draw, draw)))
  batch = _batch()
  halves = zip(*[make(half) for half in _halves(batch)])
  for drawn, parts in zip(make(batch), halves):
    np.testing.assert_array_equal(np.concatenate(parts), drawn)


def test_a_view_depends_on_the_position():
  batch = _batch()
  views = make_all(KEY, batch)
  moved = make_all(KEY, batch | {"position": jnp.arange(SIZE) + SIZE})
  for view, other in zip(views, moved):
    assert not np.allclose(view, other, atol=0.1)


@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_stay_finite(level):
  batch = _batch()
  batch["image"] = jnp.full_like(batch["image"], level)
  assert all(np.all(np.isfinite(view)) for view in make_all(KEY, batch))


def test_recipes_take_a_single_channel():
  batch = _batch(channels=1)
  make = lambda batch: augment.make_views(KEY, batch, (RECIPES["moco_v2"],))
  (view,) = jax.jit(make)(batch)
  assert view.shape == (SIZE, 16, 16, 1)
  assert np.all(np.isfinite(view))


def test_images_and_views_draw_independently():
  draw = lambda key, image, *, extent: jax.random.uniform(key, (1, 1, 1))
  make = lambda batch: np.stack(augment.make_views(KEY, batch, (draw,) * 3))
  batch = {"image": jnp.zeros((6, 4, 4, 3))}
  views = make(batch)
  assert len(np.unique(views)) == 18
  np.testing.assert_array_equal(
      make(batch | {"position": jnp.arange(6)}), views
  )


def test_image_keys_depend_on_the_positions_alone():
  keys = augment.image_keys(KEY, {"image": jnp.zeros((4, 2, 2, 1))})
  expected = [jax.random.fold_in(KEY, i) for i in range(4)]
  np.testing.assert_array_equal(
      jax.random.key_data(keys), [jax.random.key_data(key) for key in expected]
  )
  # The second half of a batch, on a device of its own.
  half = {"image": jnp.zeros((2, 2, 2, 1)), "position": jnp.array([2, 3])}
  assert np.all(augment.image_keys(KEY, half) == keys[2:])
  # A view draws with keys of its own, so that a method's draws are others.
  draw = lambda key, image, *, extent: jax.random.key_data(key)
  (drawn,) = augment.make_views(KEY, half, (draw,))
  own = augment.image_keys(jax.random.fold_in(KEY, 0), half)
  np.testing.assert_array_equal(drawn, jax.random.key_data(own))


def test_image_keys_need_one_position_per_image():
  batch = {"image": jnp.zeros((4, 2, 2, 1)), "position": jnp.arange(3)}
  with pytest.raises(ValueError, match=r"each of the 4 images.* \(3,\)"):
    augment.image_keys(KEY, batch)


def test_recipes_get_the_extent_of_each_image():
  show = lambda key, image, *, extent: extent.reshape(1, 1, 2)
  batch = _batch()
  (views,) = augment.make_views(KEY, batch, (show,))
  np.testing.assert_array_equal(views[:, 0, 0], batch["extent"])


def _tiled(image):
  """The batch that holds one image everywhere, stretched nowhere."""
  extent = jnp.tile(jnp.array(image.shape[:2]), (SIZE, 1))
  return _batch() | {
      "image": jnp.tile(image, (SIZE, 1, 1, 1)),
      "extent": extent,
  }


def test_recipes_change_as_many_images_as_the_papers():
  # An even red, which crops, flips and blurs leave alone.
  color = jnp.uint8([150, 100, 100])
  views = make_all(KEY, _tiled(jnp.broadcast_to(color, (20, 20, 3))))
  for view, jittered in zip(views, (1.0, 0.8)):
    gray = np.ptp(np.asarray(view), axis=-1).max(axis=(1, 2)) < 1e-5
    assert 0.14 < gray.mean() < 0.26  # 0.2, sigma 0.02.
    same = np.abs(view - color / 255).max(axis=(1, 2, 3)) < 1e-3
    # Those that are neither jittered nor gray.
    assert abs(same.mean() - 0.8 * (1 - jittered)) < 0.06


def test_moco_v2_blurs_half_of_the_views_or_none():
  batch = _tiled(_batch()["image"][0])
  half = make_all(KEY, batch)[1]
  recipe = functools.partial(RECIPES["moco_v2"], blur_probability=0.0)
  # The keys of view 1: each view is the same as above but for the blur.
  keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
      jax.random.fold_in(KEY, 1), batch["position"]
  )
  none = jax.jit(jax.vmap(recipe, in_axes=(0, None)))(
      keys, augment.to_float(batch["image"][0])
  )
  change = np.abs(half - none).max(axis=(1, 2, 3))
  assert 0.45 < np.mean(change < 1e-2) < 0.7  # Some sigmas do next to nothing.
  blurred = change > 1e-2
  contrast = lambda views: views.std(axis=(1, 2)).mean()
  assert contrast(half[blurred]) < 0.95 * contrast(none[blurred])


def test_digits_keep_their_handedness_and_place():
  left = jnp.zeros((20, 20, 3), jnp.uint8).at[:, 3:8].set(200)
  view = make_all(KEY, _tiled(left))[2]
  halves = view.reshape(SIZE, 16, 2, 8, 3).mean(axis=(1, 3, 4))
  assert np.all(halves[:, 0] > halves[:, 1])


def test_evaluation_crops_the_central_square_of_the_true_picture():
  # Channels hold the true y and x of a 100 x 400 picture on a canvas of 64.
  y = (np.arange(64) + 0.5) * 100 / 64
  x = (np.arange(64) + 0.5) * 400 / 64
  image = jnp.asarray(np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1))
  for crop_fraction in (1.0, 0.875):
    evaluate = functools.partial(
        augment.evaluation, size=20, crop_fraction=crop_fraction
    )
    view = jax.jit(evaluate)(image, extent=jnp.array([100, 400]))
    spread = (np.arange(20) + 0.5) / 20 - 0.5
    expected = 100 * crop_fraction * spread
    np.testing.assert_allclose(
        view[4:-4, 10, 0], (50 + expected)[4:-4], atol=1.0
    )
    np.testing.assert_allclose(
        view[10, 4:-4, 1], (200 + expected)[4:-4], atol=1.0
    )


def test_evaluation_of_a_square_is_the_image():
  image = augment.to_float(_batch()["image"][0])
  np.testing.assert_allclose(augment.evaluation(image, 20), image, atol=1e-6)


@pytest.mark.parametrize(
    "size, expected", [(16, 13), (96, 13), (128, 13), (160, 17), (224, 23)]
)
def test_the_blur_kernel_is_a_tenth_and_covers_six_sigma(size, expected):
  assert recipes.blur_kernel_size(size) == expected


def test_to_float():
  levels = np.arange(256, dtype=np.uint8)
  np.testing.assert_allclose(augment.to_float(levels), levels / 255, rtol=1e-6)
  halves = augment.to_float(jnp.full((2, 2), 0.5, jnp.bfloat16))
  assert halves.dtype == jnp.float32
  np.testing.assert_array_equal(halves, 0.5)
  with pytest.raises(ValueError, match="int32"):
    augment.to_float(jnp.zeros((2, 2), jnp.int32))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image": jnp.zeros((20, 20, 3))}, r"\(20, 20, 3\)"),
        ({"position": jnp.arange(4)}, r"400 images, got the shape \(4,\)"),
        ({"extent": jnp.ones((SIZE,))}, r"400 images, got the shape \(400,\)"),
        ({"image": jnp.zeros((SIZE, 20, 20, 3), jnp.int32)}, "int32"),
    ],
)
def test_make_views_names_invalid_arrays(change, message):
  with pytest.raises(ValueError, match=message):
    augment.make_views(KEY, _batch() | change, (RECIPES["moco_v1"],))


def test_evaluation_refuses_a_fraction_out_of_range():
  with pytest.raises(ValueError, match="got 1.2"):
    augment.evaluation(jnp.zeros((8, 8, 1)), 8, crop_fraction=1.2)
