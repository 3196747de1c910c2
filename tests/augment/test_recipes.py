"""The recipes of the papers: what they do, how strongly and how often."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import augment
from jssl.augment import random_ops, recipes

SIZE = 16
COUNT = 500  # Standard deviation of a share of a fifth: 0.018.
KEY = jax.random.key(0)


def _image():
  image = np.random.default_rng(0).uniform(size=(20, 20, 3))
  return jnp.asarray(image, jnp.float32)


@pytest.fixture
def calls(monkeypatch):
  """Replaces the operations; lists (name, key data, settings) of each call."""
  made = []

  def replace(module, name):
    def operation(key, image, *size, **settings):
      if size:
        settings["size"] = size[0]
      made.append((name, tuple(jax.random.key_data(key).tolist()), settings))
      return image

    monkeypatch.setattr(module, name, operation)

  replace(recipes, "random_resized_crop")
  for name in dir(random_ops):
    if name.startswith("random_"):
      replace(random_ops, name)
  return made


def _settings(calls):
  return {name: settings for name, _, settings in calls}


CROP, JITTER, GRAY, BLUR, SOLARIZE, FLIP = ORDER = (
    "random_resized_crop",
    "random_color_jitter",
    "random_grayscale",
    "random_gaussian_blur",
    "random_solarize",
    "random_flip",
)


def _jitter(brightness, contrast, saturation, hue):
  return dict(
      brightness=brightness,
      contrast=contrast,
      saturation=saturation,
      hue=hue,
      probability=0.8,
  )


# Recipe, area of the crop, jitter, probabilities of blur and of solarize.
PAPERS = {
    "moco_v2": (augment.moco_v2, 0.2, (0.4, 0.4, 0.4, 0.1), 0.5, 0.0),
    "simclr": (augment.simclr, 0.08, (0.8, 0.8, 0.8, 0.2), 0.5, 0.0),
    "byol": (augment.byol, 0.08, (0.4, 0.4, 0.2, 0.1), 1.0, 0.0),
    "byol's second": (
        functools.partial(
            augment.byol, blur_probability=0.1, solarize_probability=0.2
        ),
        0.08,
        (0.4, 0.4, 0.2, 0.1),
        0.1,
        0.2,
    ),
}


@pytest.mark.parametrize("name", PAPERS)
def test_operations_are_those_of_the_paper(name, calls):
  recipe, area, jitter, blur, solarize = PAPERS[name]
  extent = jnp.array([30, 40])
  recipe(KEY, _image(), SIZE, extent=extent)
  assert tuple(name for name, _, _ in calls) == ORDER
  # Each has a key of its own.
  assert len({key for _, key, _ in calls}) == len(ORDER)
  settings = _settings(calls)
  assert settings[CROP].pop("extent") is extent
  assert settings[CROP] == dict(size=SIZE, scale=(area, 1.0), method="bilinear")
  assert settings[JITTER].pop("operations") == "torchvision"
  assert settings[JITTER] == pytest.approx(_jitter(*jitter))
  assert settings[GRAY] == dict(probability=0.2)
  assert settings[BLUR] == dict(
      kernel_size=13, probability=blur, padding="edge"
  )
  assert settings[SOLARIZE] == dict(probability=solarize)
  assert settings[FLIP] == {}


def test_settings_of_a_recipe_reach_their_operation(calls):
  augment.simclr(
      KEY, _image(), 224, strength=0.5, scale=(0.3, 0.9), blur_probability=0.0
  )
  settings = _settings(calls)
  # The paper's for CIFAR.
  assert settings[JITTER].pop("operations") == "torchvision"
  assert settings[JITTER] == pytest.approx(_jitter(0.4, 0.4, 0.4, 0.1))
  assert settings[CROP]["scale"] == (0.3, 0.9)
  assert settings[BLUR]["kernel_size"] == 23
  assert settings[BLUR]["probability"] == 0.0


RESIZED = {
    "moco_v1": augment.moco_v1,
    "moco_v2": augment.moco_v2,
    "simclr": augment.simclr,
    "byol": augment.byol,
    "crop_and_flip": augment.crop_and_flip,
}


@pytest.mark.parametrize("name", RESIZED)
def test_every_recipe_resizes_crops_by_its_method(name, calls):
  for method in ("bilinear", "bicubic"):
    calls.clear()
    RESIZED[name](KEY, _image(), SIZE, method=method)
    settings = _settings(calls)[CROP]
    assert settings["method"] == method
    assert settings.get("antialias", True)


@pytest.mark.parametrize("name", ["simclr", "byol"])
@pytest.mark.parametrize("recipe", [augment.simclr, augment.byol])
def test_operations_are_those_of_the_official_code(recipe, name, calls):
  recipe(KEY, _image(), SIZE, method="bicubic", operations=name)
  settings = _settings(calls)
  assert settings[CROP]["method"] == "keys_cubic"
  assert settings[CROP]["antialias"] is False
  assert settings[JITTER]["operations"] == name
  assert settings[BLUR]["padding"] == "zero"


@pytest.mark.parametrize("name", RESIZED)
def test_bicubic_views_stay_within_the_range(name):
  # The kernel overshoots at each edge of a checkerboard.
  board = jnp.indices((20, 20)).sum(axis=0) // 3 % 2
  image = jnp.broadcast_to(board[..., None], (20, 20, 3)).astype(jnp.float32)
  keys = jax.random.split(KEY, 20)
  crop = functools.partial(
      augment.random_resized_crop, size=40, method="bicubic"
  )
  crops = jax.jit(jax.vmap(crop, in_axes=(0, None)))(keys, image)
  assert crops.max() > 1.05 and crops.min() < -0.05
  recipe = functools.partial(RESIZED[name], size=40, method="bicubic")
  views = jax.jit(jax.vmap(recipe, in_axes=(0, None)))(keys, image)
  assert views.max() <= 1 + 1e-6 and views.min() >= -1e-6
  assert np.ptp(views) > 0.9


@pytest.mark.parametrize("size", [16, 32, 96, 224])
def test_no_blur_is_truncated(size):
  # Its variance is that of the Gaussian up to the largest sigma, 2.
  width = max(size, 33)
  dot = jnp.zeros((width, width, 1)).at[width // 2, width // 2].set(1.0)
  blurred = augment.gaussian_blur(
      dot, 2.0, kernel_size=recipes.blur_kernel_size(size), padding="edge"
  )
  profile = np.asarray(blurred.sum(axis=(1, 2)), np.float64)
  variance = np.sum(profile * (np.arange(width) - width // 2) ** 2)
  assert 0.96 * 4 < variance < 1.01 * 4


def test_cifar_views_are_windows_of_the_padded_picture():
  image = np.asarray(_image())
  recipe = functools.partial(augment.pad_crop_and_flip, size=20)
  views = jax.jit(jax.vmap(recipe, in_axes=(0, None)))(
      jax.random.split(KEY, 400), image
  )
  padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
  windows = np.stack(
      [padded[y : y + 20, x : x + 20] for y in range(9) for x in range(9)]
  )
  windows = np.concatenate([windows, windows[:, :, ::-1]])
  distance = np.stack(
      [np.abs(windows - view).max(axis=(1, 2, 3)) for view in views]
  )
  assert np.all(distance.min(axis=1) < 1e-4)
  chosen = distance.argmin(axis=1)
  assert 0.4 < np.mean(chosen >= 81) < 0.6
  assert len(np.unique(chosen)) > 140  # Of 162.


def test_cifar_views_of_another_size_are_of_the_central_square():
  y, x = np.indices((30, 40))
  image = jnp.asarray(np.stack([y, x], axis=-1), jnp.float32)
  recipe = functools.partial(augment.pad_crop_and_flip, size=15, padding=0)
  canvas = jnp.full((50, 50, 2), 7.0).at[:30, :40].set(image)
  for view in (
      recipe(KEY, image),
      recipe(KEY, canvas, extent=jnp.array([30, 40])),
  ):
    assert view.shape == (15, 15, 2)
    np.testing.assert_allclose(view[7, 7], [14.5, 19.5], atol=0.1)
    np.testing.assert_allclose(np.ptp(view[..., 0]), 28, atol=0.5)


def test_flips_can_be_turned_off():
  ramp = jnp.broadcast_to(jnp.linspace(0, 1, 20)[None, :, None], (20, 20, 1))
  share = {}
  for probability in (0.0, 0.5):
    recipe = functools.partial(
        augment.crop_and_flip, size=8, flip_probability=probability
    )
    views = jax.jit(jax.vmap(recipe, in_axes=(0, None)))(
        jax.random.split(KEY, 200), ramp
    )
    share[probability] = np.mean(views[:, 0, 0, 0] > views[:, 0, -1, 0])
  assert share[0.0] == 0 and 0.4 < share[0.5] < 0.6


def test_digits_move_and_zoom_by_default_as_before(calls):
  augment.digits(KEY, _image(), SIZE)
  assert [name for name, _, _ in calls] == ["random_affine", JITTER]
  assert _settings(calls)["random_affine"] == dict(
      size=SIZE,
      degrees=15.0,
      translate=0.1,
      scale=(0.8, 1.2),
      shear=10.0,
      extent=None,
  )
  augment.digits(KEY, _image(), 10, scale=(1.2, 1.8))
  assert calls[2][2] | dict(size=10, scale=(1.2, 1.8)) == calls[2][2]
  augment.digits(KEY, _image(), SIZE, shear=0.0)
  assert calls[4][2] == calls[0][2] | dict(shear=0.0)


def test_mae_only_crops_and_flips(calls):
  extent = jnp.array([30, 40])
  augment.crop_and_flip(KEY, _image(), SIZE, extent=extent)
  assert [name for name, _, _ in calls] == [CROP, FLIP]
  assert calls[0][1] != calls[1][1]  # Each has a key of its own.
  settings = _settings(calls)
  assert settings[CROP].pop("extent") is extent
  assert settings == {
      CROP: dict(size=SIZE, scale=(0.2, 1.0), method="bilinear"),
      FLIP: dict(probability=0.5),
  }
  augment.crop_and_flip(KEY, _image(), 8, scale=(0.67, 1.0))
  assert calls[2][2] == dict(
      size=8, scale=(0.67, 1.0), extent=None, method="bilinear"
  )


def _by_hand(key, image, *, blur, jitter=(0.4, 0.4, 0.4, 0.1), scale=0.2):
  """Crop, jitter, grayscale, perhaps blur, flip."""
  keys = jax.random.split(key, 5)
  image = augment.random_resized_crop(keys[0], image, SIZE, scale=(scale, 1.0))
  names = ("brightness", "contrast", "saturation", "hue")
  image = augment.random_color_jitter(
      keys[1], image, **dict(zip(names, jitter)), probability=0.8
  )
  image = augment.random_grayscale(keys[2], image, probability=0.2)
  if blur:
    image = augment.random_gaussian_blur(
        keys[3], image, kernel_size=13, probability=0.5, padding="edge"
    )
  return augment.random_flip(keys[4], image)


@functools.cache
def _views():
  """Views of one image with the same keys, by several recipes."""
  byol = functools.partial(augment.byol, size=SIZE)
  made = {
      "moco_v2": functools.partial(augment.moco_v2, size=SIZE),
      "moco_v2 by hand": functools.partial(_by_hand, blur=True),
      "blurred": byol,
      "plain": functools.partial(byol, blur_probability=0.0),
      "plain by hand": functools.partial(
          _by_hand, blur=False, jitter=(0.4, 0.4, 0.2, 0.1), scale=0.08
      ),
      "solarized": functools.partial(
          byol, blur_probability=0.0, solarize_probability=0.2
      ),
      "second": functools.partial(
          byol, blur_probability=0.1, solarize_probability=0.2
      ),
  }

  # In one program, which makes what they share once.
  @jax.jit
  @functools.partial(jax.vmap, in_axes=(0, None))
  def make(key, image):
    return {name: recipe(key, image) for name, recipe in made.items()}

  views = make(jax.random.split(KEY, COUNT), _image())
  return jax.tree.map(np.asarray, views)


def _differ(one, other):
  return np.abs(_views()[one] - _views()[other]).max(axis=(1, 2, 3)) > 1e-2


def test_moco_v2_draws_the_same_views_as_ever():
  views = _views()
  np.testing.assert_allclose(
      views["moco_v2"], views["moco_v2 by hand"], atol=1e-5
  )


def test_probabilities_of_zero_leave_operations_out():
  views = _views()
  np.testing.assert_allclose(views["plain"], views["plain by hand"], atol=1e-5)


def test_the_first_view_is_always_blurred():
  # Sigmas below 0.3, a tenth of them, change next to nothing.
  assert 0.85 < _differ("blurred", "plain").mean() <= 1.0
  rough = lambda x: np.abs(np.diff(x, axis=1)).mean(axis=(1, 2, 3))
  smoother = rough(_views()["blurred"]) < rough(_views()["plain"])
  assert smoother[_differ("blurred", "plain")].mean() > 0.95


def test_the_second_view_is_solarized_in_a_fifth_of_the_images():
  plain, solarized = _views()["plain"], _views()["solarized"]
  changed = _differ("plain", "solarized")
  assert 0.14 < changed.mean() < 0.26
  inverted = np.where(plain >= 0.5, 1 - plain, plain)
  np.testing.assert_allclose(solarized[changed], inverted[changed], atol=1e-4)
  # And blurred in a tenth.
  assert 0.05 < _differ("second", "solarized").mean() < 0.14


def test_a_fifth_of_the_views_is_gray():
  for name in ("plain", "moco_v2"):
    gray = np.ptp(_views()[name], axis=-1).max(axis=(1, 2)) < 1e-4
    assert 0.14 < gray.mean() < 0.26


def test_multi_crop_draws_views_independently():
  draw = lambda key, image, *, extent: jnp.concatenate(
      [jax.random.uniform(key, (1, 1, 1)), extent.reshape(1, 1, 2)], axis=-1
  )
  views = augment.multi_crop(
      KEY, _image(), draw, 5, extent=jnp.array([30.0, 40.0])
  )
  assert views.shape == (5, 1, 1, 3)
  keys = jax.random.split(KEY, 5)
  expected = [jax.random.uniform(key) for key in keys]
  np.testing.assert_allclose(views[:, 0, 0, 0], expected, rtol=1e-6)
  assert len(np.unique(expected)) == 5
  np.testing.assert_array_equal(views[:, 0, 0, 1:], [[30.0, 40.0]] * 5)


@functools.cache
def _areas(scale):
  """Area of a gray square in many views, relative to its own."""
  square = jnp.zeros((20, 20, 1)).at[7:13, 7:13].set(0.5)
  recipe = functools.partial(augment.digits, size=40, scale=scale)
  views = jax.jit(jax.vmap(recipe, in_axes=(0, None)))(
      jax.random.split(KEY, 100), square
  )
  # The jitter moves the two levels; pixels of edges count in part.
  low = views.min(axis=(1, 2, 3), keepdims=True)
  high = views.max(axis=(1, 2, 3), keepdims=True)
  return np.sum((views - low) / (high - low), axis=(1, 2, 3)) / 4 / 36


@pytest.mark.parametrize("scale", [(0.7, 0.7), (1.2, 1.8)])
def test_scale_is_the_size_of_a_digit(scale):
  areas = _areas(scale)
  low, high = (x**2 for x in scale)
  assert np.all(areas > 0.9 * low) and np.all(areas < 1.1 * high)
  if low < high:
    middle = (areas > 1.1 * low) & (areas < 0.9 * high)
    assert 0.5 < middle.mean() < 0.95


def test_keep_size_takes_the_size_of_the_image():
  show = lambda key, image, size, *, extent=None: (key, size, extent)
  kept = augment.keep_size(show)
  assert kept(KEY, jnp.zeros((12, 12, 1))) == (KEY, 12, None)
  assert kept(KEY, jnp.zeros((9, 9, 1)), extent=3) == (KEY, 9, 3)


def test_configs_find_every_recipe_by_its_name():
  for name, recipe in recipes.RECIPES.items():
    assert recipe is getattr(augment, name)
