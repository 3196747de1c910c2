"""The views that methods share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.augment import recipes
from jssl.methods import _views
import tiny

KEY = jax.random.key(3)
BATCH = 6


def _batch():
  extent = np.arange(2 * BATCH).reshape(BATCH, 2) + 8
  return {
      "image": tiny.images(BATCH),
      "extent": jnp.asarray(extent),
      "position": jnp.arange(BATCH),
  }


def _draw(key, image, *, extent=None):
  """A view that is a draw and nothing else."""
  del image, extent
  return jax.random.uniform(key, (1, 1, 1))


def _draw_small(key, image, *, extent=None):
  return 2.0 + _draw(key, image)


def _image(key, image, *, extent=None):
  del key, extent
  return image


def _negative(key, image, *, extent=None):
  del key, extent
  return -image


def _extent(key, image, *, extent=None):
  del key, image
  return extent.reshape(1, 1, 2)


def test_two_views_by_one_recipe_are_two_draws_of_it():
  views = _views.two(KEY, _batch(), _draw)
  assert views.shape == (2, BATCH, 1, 1, 1)
  assert len(np.unique(views)) == 2 * BATCH


def test_two_views_by_two_recipes_are_each_by_its_own():
  images = _batch()["image"] / 255.0
  first, second = _views.two(KEY, _batch(), _image, _negative)
  np.testing.assert_allclose(first, images, rtol=1e-6)
  np.testing.assert_allclose(second, -images, rtol=1e-6)
  # Two recipes draw for themselves, even if they are one function.
  assert len(np.unique(_views.two(KEY, _batch(), _draw, _draw))) == 12


def test_multi_crop_makes_global_and_local_views():
  views = _views.multi_crop(_draw, None, _draw_small, 3)
  global_crops, local_crops = views(KEY, _batch())
  assert global_crops.shape == (2, BATCH, 1, 1, 1)
  assert local_crops.shape == (3, BATCH, 1, 1, 1)
  assert np.all(global_crops < 1) and np.all(local_crops >= 2)
  # No draw is made twice, within the views or between global and local.
  assert (
      len(
          np.unique(
              np.round(np.concatenate([global_crops, local_crops - 2]), 5)
          )
      )
      == 30
  )
  views = _views.multi_crop(_image, _negative, None, 0)
  global_crops, local_crops = views(KEY, _batch())
  assert local_crops is None
  np.testing.assert_array_equal(global_crops[0], -global_crops[1])


@pytest.mark.parametrize(
    "make",
    [
        lambda batch: _views.two(KEY, batch, _draw),
        lambda batch: _views.two(KEY, batch, _draw, _draw_small),
        functools.partial(_views.multi_crop(_draw, None, _draw_small, 3), KEY),
        functools.partial(
            _views.multi_crop(_draw, _draw_small, _draw_small, 1), KEY
        ),
    ],
)
def test_draws_depend_on_the_place_in_the_global_batch_alone(make):
  parts = [jax.tree.map(lambda x: x[i::2], _batch()) for i in range(2)]
  parts = [jax.tree.leaves(make(part)) for part in parts]
  for whole, even, odd in zip(jax.tree.leaves(make(_batch())), *parts):
    np.testing.assert_array_equal(whole[:, ::2], even)
    np.testing.assert_array_equal(whole[:, 1::2], odd)
  # Without positions, a batch is the whole one.
  whole = {"image": _batch()["image"]}
  jax.tree.map(np.testing.assert_array_equal, make(whole), make(_batch()))


def test_every_recipe_gets_the_extent():
  expected = _batch()["extent"]
  views = _views.multi_crop(_extent, None, _extent, 2)(KEY, _batch())
  for view in (*views.global_crops, *views.local_crops):
    np.testing.assert_array_equal(view[:, 0, 0], expected)
  for view in _views.two(KEY, _batch(), _extent, _extent):
    np.testing.assert_array_equal(view[:, 0, 0], expected)


@pytest.mark.parametrize("count, recipe", [(2, None), (-1, _draw), (-1, None)])
def test_local_views_without_a_recipe_are_refused(count, recipe):
  with pytest.raises(ValueError, match=f"local_views is {count} .*recipe"):
    _views.multi_crop(_draw, None, recipe, count)
  _views.multi_crop(_draw, None, None, 0)
  _views.multi_crop(_draw, None, _draw, 2)


def test_the_default_views_are_those_of_byol_at_the_images_size(monkeypatch):
  seen = []

  def crop(key, image, size, scale, extent, method, operations):
    del key
    seen.append((size, scale, extent, method, operations))
    return image

  def distort(keys, image, size, jitter, blur, solarize, *, operations):
    del keys
    seen.append((size, jitter, blur, solarize, operations))
    return image

  monkeypatch.setattr(recipes, "_crop", crop)
  monkeypatch.setattr(recipes, "_distort", distort)
  image = jnp.zeros((12, 12, 3))
  _views.FIRST_VIEW(KEY, image)
  _views.SECOND_VIEW(KEY, image, extent=5)
  jitter = (0.4, 0.4, 0.2, 0.1)
  assert seen == [
      (12, (0.08, 1.0), None, "bilinear", "torchvision"),
      (12, jitter, 1.0, 0.0, "torchvision"),
      (12, (0.08, 1.0), 5, "bilinear", "torchvision"),
      (12, jitter, 0.1, 0.2, "torchvision"),
  ]
