"""The Lab color space, and the colors that sRGB has in it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import augment

rgb_to_lab = jax.jit(augment.rgb_to_lab)
lab_to_rgb = jax.jit(augment.lab_to_rgb)

# By scikit-image 0.26, `skimage.color.rgb2lab`, in float64.
REFERENCE = {
    (0, 0, 0): (0.0, 0.0, 0.0),
    (1, 1, 1): (100.0, -0.0025, 0.0047),
    (0.5, 0.5, 0.5): (53.3890, -0.0015, 0.0028),
    (1, 0, 0): (53.2406, 80.0923, 67.2028),
    (0, 1, 0): (87.7351, -86.1830, 83.1797),
    (0, 0, 1): (32.2957, 79.1856, -107.8573),
    (1, 1, 0): (97.1395, -21.5547, 94.4781),
    # Below the thresholds of both curves, between them, and above.
    (0.02, 0.03, 0.01): (1.8478, -1.3761, 1.6953),
    (0.04, 0.04, 0.041): (2.8017, 0.0357, -0.0973),
    (0.1, 0.08, 0.09): (7.1297, 3.0530, -0.8187),
    (0.64, 0.27, 0.04): (41.3275, 36.3785, 48.7506),
    (0.02, 0.81, 0.91): (76.2316, -33.0175, -24.4972),
    (0.61, 0.73, 0.54): (72.2486, -19.3619, 21.2377),
}
# By `skimage.color.lab2rgb`: colors that sRGB does not have.
OUTSIDE = {
    (50, 100, 0): (1.0, 0.0, 0.4828),
    (50, 0, -100): (0.0, 0.5180, 1.0),
    (90, -80, 100): (0.3621, 1.0, 0.0),
    (10, 0, 200): (0.1792, 0.0995, 0.0),
}


def _table(pairs):
  return (np.float32(list(x)) for x in (pairs.keys(), pairs.values()))


def _colors(count):
  random = np.random.default_rng(0)
  return random.uniform(size=(count, 3)).astype(np.float32)


@functools.cache
def _bins():
  return augment.color_bins(step=10)


def test_rgb_to_lab_agrees_with_the_reference():
  rgb, expected = _table(REFERENCE)
  lab = rgb_to_lab(rgb)
  assert lab.dtype == jnp.float32
  np.testing.assert_allclose(lab, expected, atol=1e-3)
  np.testing.assert_allclose(lab_to_rgb(expected), rgb, atol=1e-5)


def test_lab_to_rgb_inverts_rgb_to_lab():
  grid = np.linspace(0, 1, 11, dtype=np.float32)
  grid = np.stack(np.meshgrid(grid, grid, grid), axis=-1)
  np.testing.assert_allclose(lab_to_rgb(rgb_to_lab(grid)), grid, atol=1e-4)
  colors = _colors(2000)
  colors[::2] *= 0.1  # Where the curves are lines.
  np.testing.assert_allclose(lab_to_rgb(rgb_to_lab(colors)), colors, atol=1e-4)


def test_gray_has_no_color():
  gray = np.linspace(0, 1, 101, dtype=np.float32)[:, None].repeat(3, axis=1)
  lab = np.asarray(rgb_to_lab(gray))
  np.testing.assert_allclose(lab[:, 1:], 0, atol=0.01)
  assert np.all(np.diff(lab[:, 0]) > 0)


def test_colors_outside_of_rgb_are_clipped():
  lab, expected = _table(OUTSIDE)
  np.testing.assert_allclose(lab_to_rgb(lab), expected, atol=1e-3)
  random = np.random.default_rng(0)
  anything = random.uniform((-20, -200, -200), (120, 200, 200), (2000, 3))
  rgb = lab_to_rgb(anything)
  assert np.all(rgb >= 0) and np.all(rgb <= 1)


@pytest.mark.parametrize("level", [0.0, 0.04045, 0.5, 1.0])
def test_gradients_are_finite_and_not_zero(level):
  rgb = jnp.full(3, level)
  forward = jax.jit(jax.jacobian(augment.rgb_to_lab))(rgb)
  assert np.all(np.isfinite(forward)) and np.all(np.abs(forward[0]) > 1)
  back = jax.jit(jax.jacobian(augment.lab_to_rgb))(rgb_to_lab(rgb))
  assert np.all(np.isfinite(back))
  if level == 0.5:
    np.testing.assert_allclose(back @ forward, np.eye(3), atol=1e-4)


def test_bins_cover_srgb():
  bins = _bins()
  assert bins.shape == (261, 2) and bins.dtype == np.float32
  np.testing.assert_array_equal(bins % 10, 0)
  # No duplicates, in order of a, then b.
  np.testing.assert_array_equal(np.unique(bins, axis=0), bins)
  assert [0, 0] in bins.tolist()


def test_every_color_is_in_a_bin():
  ab = np.asarray(rgb_to_lab(_colors(20000)))[:, 1:]
  found = set(map(tuple, np.round(ab / 10) * 10))
  bins = set(map(tuple, _bins()))
  assert found <= bins
  # The rest are the outermost, which few random colors meet.
  assert len(found) > 0.85 * len(bins)


def test_larger_bins_are_fewer():
  bins = augment.color_bins(step=50)
  np.testing.assert_array_equal(bins % 50, 0)
  assert [0, 0] in bins.tolist() and 9 < len(bins) < 20


@pytest.mark.parametrize("shape", [(4, 4, 1), (2, 8, 8, 4)])
def test_images_without_color_are_refused(shape):
  with pytest.raises(ValueError) as error:
    augment.rgb_to_lab(jnp.zeros(shape))
  assert str(shape) in str(error.value)
  assert "gray images have no color to predict" in str(error.value)
