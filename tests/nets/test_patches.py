"""Images as sequences of patches, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.nets.patches import grid_of, patchify, standardize, unpatchify


def _images(height=8, width=8, channels=3):
  random = np.random.default_rng(0)
  return random.uniform(size=(2, height, width, channels)).astype(np.float32)


def test_patches_are_in_the_order_of_the_reference(golden):
  data = golden("mae")
  size = int(data["patch"])
  patches = patchify(data["images"], size)
  np.testing.assert_array_equal(patches, data["patches"])
  np.testing.assert_array_equal(
      unpatchify(data["patches"], data["images"].shape[1:]),
      data["images"],
  )


@pytest.mark.parametrize("shape", [(8, 12, 3), (12, 4, 1), (4, 4, 2)])
def test_unpatchify_inverts_patchify(shape):
  images = _images(*shape)
  patches = jax.jit(patchify, static_argnums=1)(images, 4)
  count = shape[0] * shape[1] // 16
  assert patches.shape == (2, count, 16 * shape[2])
  np.testing.assert_array_equal(unpatchify(patches, shape), images)


def test_patches_go_row_after_row():
  images = _images(8, 12, 3)
  patches = patchify(images, 4)
  for row in range(2):
    for column in range(3):
      patch = images[:, 4 * row :, 4 * column :][:, :4, :4]
      np.testing.assert_array_equal(
          patches[:, 3 * row + column], patch.reshape(2, -1)
      )


def test_patches_that_do_not_fit_the_images_are_refused():
  # Four images of 4 patches of 2 x 2 have the numbers of one of 8 x 8.
  patches = jnp.ones((4, 4, 2 * 2 * 3))
  with pytest.raises((TypeError, ValueError)):
    unpatchify(patches, (8, 8, 3))


def test_standardized_patches_have_mean_0_and_unbiased_variance_1():
  patches = 7 + 3 * np.random.default_rng(1).normal(size=(2, 4, 12))
  actual = standardize(jnp.asarray(patches, jnp.float32))
  np.testing.assert_allclose(np.mean(actual, axis=-1), 0, atol=1e-5)
  np.testing.assert_allclose(np.var(actual, axis=-1, ddof=1), 1, rtol=1e-4)
  # A constant patch has nothing to scale.
  even = standardize(jnp.full((1, 1, 12), 0.3))
  np.testing.assert_allclose(even, 0, atol=1e-3)


def test_standardize_adds_its_epsilon_to_the_variance():
  patch = jnp.array([[0.0, 1.0]])  # Variance 1 / 2.
  actual = standardize(patch, eps=0.5)
  np.testing.assert_allclose(actual, [[-0.5, 0.5]], rtol=1e-6)


def test_a_grid_is_rows_and_columns():
  assert grid_of(32, 48, 16) == (2, 3)


@pytest.mark.parametrize("height,width", [(16, 18), (18, 16)])
def test_images_that_patches_do_not_divide_are_refused(height, width):
  message = f"{height} x {width} .* 4 x 4; change"
  with pytest.raises(ValueError, match=message):
    grid_of(height, width, 4)
  with pytest.raises(ValueError, match=message):
    patchify(_images(height, width), 4)
