"""Random operations: their distributions, probabilities, orders and errors."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import augment
from jssl.augment import random_crop, random_ops

QUANTILES = np.linspace(0.05, 0.95, 10)


def _keys(number, seed=0):
  return jax.random.split(jax.random.key(seed), number)


def _photo(height=16, width=16, channels=3, seed=0):
  return (
      np.random.default_rng(seed)
      .uniform(size=(height, width, channels))
      .astype(np.float32)
  )


@functools.cache
def _sampler(scale, ratio):
  sample = functools.partial(
      random_crop.sample_crop_box, scale=scale, ratio=ratio
  )
  return jax.jit(jax.vmap(sample, in_axes=(0, None)))


def _boxes(extent, scale, ratio):
  """Boxes of 6000 keys, always the same."""
  return np.asarray(_sampler(scale, ratio)(_keys(6000), jnp.asarray(extent)))


def _slow_box(random, height, width, scale, ratio):
  """torchvision's loop, for the distribution."""
  for _ in range(10):
    area = height * width * random.uniform(*scale)
    aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
    w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if 0 < w <= width and 0 < h <= height:
      return (
          random.integers(0, height - h + 1),
          random.integers(0, width - w + 1),
          h,
          w,
      )
  if width / height < ratio[0]:
    w, h = width, round(width / ratio[0])
  elif width / height > ratio[1]:
    w, h = round(height * ratio[1]), height
  else:
    w, h = width, height
  return (height - h) // 2, (width - w) // 2, h, w


def test_crop_area_is_uniform_and_ratio_log_uniform():
  # Ranges that always fit, so that no try is refused.
  boxes = _boxes((300, 400), scale=(0.1, 0.35), ratio=(0.5, 2.0))
  area = boxes[:, 2] * boxes[:, 3] / (300 * 400)
  log_ratio = np.log(boxes[:, 3] / boxes[:, 2]) / math.log(2)
  np.testing.assert_allclose(
      np.quantile(area, QUANTILES), 0.1 + 0.25 * QUANTILES, atol=0.01
  )
  np.testing.assert_allclose(
      np.quantile(log_ratio, QUANTILES), 2 * QUANTILES - 1, atol=0.05
  )
  for axis in (0, 1):
    room = (300, 400)[axis] - boxes[:, 2 + axis]
    np.testing.assert_allclose(
        np.quantile(boxes[:, axis] / room, QUANTILES), QUANTILES, atol=0.03
    )


def test_crop_reaches_every_place_equally():
  boxes = _boxes((4, 4), scale=(0.25, 0.25), ratio=(1.0, 1.0))
  np.testing.assert_array_equal(boxes[:, 2:], 2)
  for axis in (0, 1):
    places, counts = np.unique(boxes[:, axis], return_counts=True)
    np.testing.assert_array_equal(places, [0, 1, 2])
    np.testing.assert_allclose(counts / 6000, 1 / 3, atol=0.03)


@pytest.mark.parametrize("extent", [(32, 32), (90, 240)])
def test_crop_boxes_are_distributed_as_those_of_the_loop(extent):
  ranges = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}
  boxes = _boxes(extent, **ranges)
  random = np.random.default_rng(0)
  expected = np.array(
      [_slow_box(random, *extent, **ranges) for _ in range(6000)]
  )
  np.testing.assert_array_equal(boxes, np.round(boxes))
  assert np.all(boxes[:, :2] >= 0) and np.all(boxes[:, 2:] >= 1)
  assert np.all(boxes[:, :2] + boxes[:, 2:] <= extent)
  for column in range(4):
    np.testing.assert_allclose(
        np.quantile(boxes[:, column], QUANTILES),
        np.quantile(expected[:, column], QUANTILES),
        atol=max(1.0, 0.025 * max(extent)),
    )
  area = lambda x: np.mean(x[:, 2] * x[:, 3]) / np.prod(extent)
  assert abs(area(boxes) - area(expected)) < 0.012


@pytest.mark.parametrize(
    "extent, ratio, expected",
    [
        ((10, 200), (3 / 4, 4 / 3), (0, 93, 10, 13)),
        ((200, 10), (3 / 4, 4 / 3), (93, 0, 13, 10)),
        ((100, 100), (2.0, 2.0), (25, 0, 50, 100)),
    ],
)
def test_crop_falls_back_to_the_largest_central_box(extent, ratio, expected):
  boxes = _boxes(extent, scale=(1.0, 1.0), ratio=ratio)
  np.testing.assert_array_equal(boxes, [expected] * 6000)


def _ramp(height, width, extent):
  """An image whose two channels are its own y and x in true pixels."""
  y = (np.arange(height) + 0.5) * extent[0] / height
  x = (np.arange(width) + 0.5) * extent[1] / width
  return np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).astype(np.float32)


def test_crop_of_a_stretched_picture_has_the_true_geometry():
  extent, size = (100, 400), 24
  image = _ramp(64, 64, extent)
  crop = lambda key: augment.random_resized_crop(
      key,
      image,
      size,
      scale=(0.1, 0.2),
      extent=jnp.asarray(extent),
      antialias=False,
  )
  crops = np.asarray(jax.jit(jax.vmap(crop))(_keys(200)))
  # True sides of each box, from the slope in the middle of its crop.
  height = (crops[:, 16, 12, 0] - crops[:, 8, 12, 0]) * size / 8
  width = (crops[:, 12, 16, 1] - crops[:, 12, 8, 1]) * size / 8
  ratio, area = width / height, width * height / (100 * 400)
  assert 0.74 < ratio.min() < 0.79 and 1.27 < ratio.max() < 1.35
  assert 0.098 < area.min() < 0.11 and 0.19 < area.max() < 0.202
  # Whole true pixels: 100 rows on a canvas of 64 are no whole canvas pixels.
  np.testing.assert_allclose(height, np.round(height), atol=1e-2)


def test_crop_of_a_picture_on_a_canvas_is_that_of_the_picture():
  picture = _photo(15, 26)
  canvas = np.full((30, 30, 3), 9.0, np.float32)
  canvas[:15, :26] = picture
  crop = jax.jit(
      jax.vmap(
          functools.partial(augment.random_resized_crop, size=8),
          in_axes=(0, None),
      )
  )
  held = functools.partial(
      augment.random_resized_crop, size=8, extent=jnp.array([15, 26])
  )
  np.testing.assert_allclose(
      jax.jit(jax.vmap(held, in_axes=(0, None)))(_keys(50), canvas),
      crop(_keys(50), picture),
      atol=1e-5,
  )


def test_window_of_a_padded_image_is_drawn_from_all_places():
  image = _photo(6, 5)
  padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
  cut = functools.partial(augment.random_pad_and_crop, size=(6, 5), padding=2)
  views = jax.jit(jax.vmap(cut, in_axes=(0, None)))(_keys(2000), image)
  places = np.stack(
      [padded[y : y + 6, x : x + 5] for y in range(5) for x in range(5)]
  )
  distance = np.abs(np.asarray(views)[:, None] - places).max(axis=(2, 3, 4))
  assert np.all(distance.min(axis=1) < 1e-5)
  counts = np.bincount(distance.argmin(axis=1), minlength=25)
  assert 45 < counts.min() and counts.max() < 120  # 80 expected, sigma 9.


def test_window_without_padding_is_inside():
  image = _photo(9, 7)
  cut = jax.jit(augment.random_pad_and_crop, static_argnames="size")
  whole = cut(jax.random.key(0), image, size=(9, 7))
  np.testing.assert_allclose(whole, image, atol=1e-6)
  with pytest.raises(ValueError, match="10 x 7 does not fit .* 9 x 7"):
    augment.random_pad_and_crop(jax.random.key(0), image, (10, 7))


def test_crop_of_the_true_shape_needs_no_extent():
  image = _photo(20, 30)
  crop = jax.jit(augment.random_resized_crop, static_argnames="size")
  key = jax.random.key(3)
  np.testing.assert_allclose(
      crop(key, image, size=8),
      crop(key, image, size=8, extent=jnp.array([20, 30])),
      atol=1e-6,
  )


STRENGTHS = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}


# Brightness, contrast and saturation of each library; hue is the same.
OPERATIONS = {
    "torchvision": (
        augment.adjust_brightness,
        augment.adjust_contrast,
        augment.adjust_saturation,
    ),
    "simclr": (
        augment.adjust_brightness,
        functools.partial(augment.adjust_contrast, per_channel=True),
        functools.partial(augment.adjust_saturation, hsv=True),
    ),
    "byol": (
        lambda x, factor: augment.shift_brightness(x, factor - 1),
        functools.partial(augment.adjust_contrast, per_channel=True),
        functools.partial(augment.adjust_saturation, hsv=True),
    ),
}


@pytest.mark.parametrize("operations", OPERATIONS)
def test_jitter_applies_all_four_in_any_order(operations):
  image = _photo(6, 6)
  keys = _keys(150)
  jitter = lambda key: augment.random_color_jitter(
      key, image, **STRENGTHS, operations=operations
  )
  brightness, contrast, saturation = OPERATIONS[operations]
  jittered = jax.jit(jax.vmap(jitter))(keys)
  draw = lambda key: random_ops._draw_jitter(
      jax.random.split(key)[1], (0.8, 0.8, 0.8), 0.2
  )
  _, factors, turns = jax.jit(jax.vmap(draw))(keys)

  def in_order(order, factors, turn):
    steps = (
        lambda x: brightness(x, factors[0]),
        lambda x: contrast(x, factors[1]),
        lambda x: saturation(x, factors[2]),
        lambda x: augment.adjust_hue(x, turn),
    )
    apply = lambda x, step: (jax.lax.switch(step, steps, x), None)
    return jax.lax.scan(apply, image, order)[0]

  in_orders = jax.vmap(in_order, in_axes=(0, None, None))
  orders = jnp.array(list(itertools.permutations(range(4))))
  expected = jax.jit(jax.vmap(in_orders, in_axes=(None, 0, 0)))(
      orders, factors, turns
  )
  distance = np.abs(expected - jittered[:, None])
  matches = distance.max(axis=(2, 3, 4)) < 1e-4
  assert np.all(matches.any(axis=1))
  # Where nothing was clipped several orders agree; the others tell the order.
  assert np.all(matches[matches.sum(axis=1) <= 4].any(axis=0))


def test_jitter_draws_factors_and_orders_uniformly():
  draw = lambda key: random_ops._draw_jitter(key, (0.4, 2.0, 0.0), 0.3)
  times, factors, turn = jax.jit(jax.vmap(draw))(_keys(6000))
  codes = np.argsort(times, axis=1) @ [64, 16, 4, 1]
  _, counts = np.unique(codes, return_counts=True)
  assert len(counts) == 24
  assert 180 < counts.min() and counts.max() < 325  # 250 expected, sigma 15.
  for values, low, high in (
      (factors[:, 0], 0.6, 1.4),
      (factors[:, 1], 0.0, 3.0),
      (turn, -0.3, 0.3),
  ):
    np.testing.assert_allclose(
        np.quantile(values, QUANTILES),
        low + (high - low) * QUANTILES,
        atol=0.03 * (high - low),
    )
  np.testing.assert_array_equal(factors[:, 2], 1.0)


@pytest.mark.parametrize("operations", OPERATIONS)
def test_jitter_of_no_strength_is_the_identity(operations):
  image = _photo()
  settings = dict.fromkeys(STRENGTHS, 0.0) | {"operations": operations}
  jitter = jax.jit(functools.partial(augment.random_color_jitter, **settings))
  same = jitter(jax.random.key(0), image)
  np.testing.assert_allclose(same, image, atol=1e-6)


@pytest.mark.parametrize("operations", OPERATIONS)
def test_jitter_gradient_is_finite(operations):
  image = _photo()
  image[:4] = image[:4, :, :1]
  image[4:6] = 0.0
  image[6:8] = 1.0
  loss = lambda x, key: jnp.sum(
      augment.random_color_jitter(key, x, **STRENGTHS, operations=operations)
      ** 2
  )
  gradients = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(
      image, _keys(50)
  )
  assert np.all(np.isfinite(gradients))
  assert np.all(np.any(gradients != 0, axis=(1, 2, 3)))


SOMETIMES = {
    "jitter": functools.partial(augment.random_color_jitter, **STRENGTHS),
    "grayscale": augment.random_grayscale,
    "blur": functools.partial(
        augment.random_gaussian_blur, kernel_size=3, sigma=(0.5, 2.0)
    ),
    "solarize": augment.random_solarize,
    "flip": augment.random_flip,
}


@pytest.mark.parametrize("name", SOMETIMES)
def test_operations_are_applied_with_their_probability(name):
  image = _photo()
  keys = _keys(400)
  for probability in (0.0, 0.3, 1.0):
    operation = functools.partial(SOMETIMES[name], probability=probability)
    apply = jax.jit(jax.vmap(operation, in_axes=(0, None)))
    results = np.asarray(apply(keys, image))
    np.testing.assert_array_equal(apply(keys, image), results)
    changed = np.any(np.abs(results - image) > 1e-4, axis=(1, 2, 3))
    # Standard deviation 0.023 at 0.3, and 0 at 0 and at 1.
    tolerance = 0.08 if probability == 0.3 else 0.006
    assert abs(changed.mean() - probability) <= tolerance


def test_blur_draws_its_own_sigma_for_each_image():
  point = np.zeros((9, 9, 1), np.float32)
  point[4, 4] = 1.0
  blur = lambda key: augment.random_gaussian_blur(
      key, point, kernel_size=9, sigma=(0.5, 2.0), probability=1.0
  )
  blurred = np.asarray(jax.jit(jax.vmap(blur))(_keys(2000)))
  # Two neighboring taps of a Gaussian tell its sigma.
  ratio = blurred[:, 4, 5, 0] / blurred[:, 4, 4, 0]
  sigma = np.sqrt(-0.5 / np.log(ratio))
  np.testing.assert_allclose(
      np.quantile(sigma, QUANTILES), 0.5 + 1.5 * QUANTILES, atol=0.08
  )


def test_affine_rotates_and_zooms_without_distortion():
  image = _ramp(40, 80, (40, 80))
  warp = lambda key: augment.random_affine(
      key,
      image,
      (40, 80),
      degrees=30.0,
      translate=0.1,
      scale=(0.8, 1.25),
      fill=-1e6,
  )
  warped = np.asarray(jax.jit(jax.vmap(warp))(_keys(300)))
  down = warped[:, 21, 40] - warped[:, 20, 40]  # (dy, dx) of one pixel down.
  right = warped[:, 20, 41] - warped[:, 20, 40]
  np.testing.assert_allclose(down[:, 0], right[:, 1], atol=1e-3)
  np.testing.assert_allclose(down[:, 1], -right[:, 0], atol=1e-3)
  zoom = 1 / np.hypot(right[:, 0], right[:, 1])
  assert 0.799 < zoom.min() < 0.83 and 1.2 < zoom.max() < 1.251
  angle = np.degrees(np.arctan2(right[:, 0], right[:, 1]))
  assert -30.1 < angle.min() < -28 and 28 < angle.max() < 30.1


def test_affine_translates_and_shears():
  image = _ramp(40, 40, (40, 40))
  keys = _keys(300)
  move = lambda key: augment.random_affine(
      key, image, 40, translate=0.25, fill=-1e6
  )
  shift = np.asarray(jax.jit(jax.vmap(move))(keys))[:, 20, 20] - 20.5
  assert np.all(shift.min(axis=0) < -9) and np.all(shift.max(axis=0) > 9)
  assert np.abs(shift).max() <= 10.01
  slant = lambda key: augment.random_affine(
      key, image, 40, shear=20.0, fill=-1e6
  )
  sheared = np.asarray(jax.jit(jax.vmap(slant))(keys))
  down = sheared[:, 21, 20] - sheared[:, 20, 20]
  right = sheared[:, 20, 21] - sheared[:, 20, 20]
  np.testing.assert_allclose(right, [[0, 1]] * 300, atol=1e-3)
  degrees = np.degrees(np.arctan2(down[:, 1], down[:, 0]))
  assert -20.1 < degrees.min() < -18 and 18 < degrees.max() < 20.1


def test_affine_of_a_picture_on_a_canvas_is_that_of_the_picture():
  picture = _photo(9, 14)
  canvas = np.full((20, 20, 3), 9.0, np.float32)
  canvas[:9, :14] = picture
  warp = functools.partial(
      augment.random_affine,
      size=(18, 28),
      degrees=20.0,
      translate=0.1,
      scale=(0.8, 1.2),
      shear=10.0,
      fill=0.5,
  )
  alone = jax.jit(jax.vmap(warp, in_axes=(0, None)))(_keys(20), picture)
  on_canvas = functools.partial(warp, extent=jnp.array([9, 14]))
  held = jax.jit(jax.vmap(on_canvas, in_axes=(0, None)))(_keys(20), canvas)
  np.testing.assert_allclose(held, alone, atol=1e-4)


def test_affine_without_settings_is_the_identity():
  image = _photo(9, 14)
  warp = jax.jit(augment.random_affine, static_argnames="size")
  same = warp(jax.random.key(0), image, size=(9, 14))
  np.testing.assert_allclose(same, image, atol=1e-5)


KEY = jax.random.key(0)
IMAGE = _photo()


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: augment.random_flip(KEY, IMAGE, probability=1.5),
            "probability .* got 1.5",
        ),
        (
            lambda: augment.random_grayscale(KEY, IMAGE, probability=-0.1),
            "got -0.1",
        ),
        (
            lambda: augment.random_resized_crop(
                KEY, IMAGE, 8, scale=(1.0, 0.2)
            ),
            r"scale .* got \(1.0, 0.2\)",
        ),
        (
            lambda: augment.random_resized_crop(
                KEY, IMAGE, 8, scale=(0.5, 1.2)
            ),
            "<= 1.0",
        ),
        (
            lambda: augment.random_resized_crop(
                KEY, IMAGE, 8, ratio=(4 / 3, 3 / 4)
            ),
            "ratio must be",
        ),
        (
            lambda: augment.random_color_jitter(
                KEY, IMAGE, **{**STRENGTHS, "hue": 0.6}
            ),
            r"hue must be within \[0, 0.5\], got 0.6",
        ),
        (
            lambda: augment.random_color_jitter(
                KEY, IMAGE, **{**STRENGTHS, "contrast": -1}
            ),
            "contrast must be .* got -1",
        ),
        (
            lambda: augment.random_gaussian_blur(
                KEY, IMAGE, kernel_size=3, sigma=(0.0, 1.0)
            ),
            "sigma must be",
        ),
        (
            lambda: augment.random_solarize(KEY, IMAGE, threshold=128),
            "threshold must be .* got 128",
        ),
        (
            lambda: augment.random_color_jitter(
                KEY, IMAGE, **STRENGTHS, operations="tensorflow"
            ),
            "torchvision, simclr, byol, got 'tensorflow'",
        ),
        (
            lambda: augment.random_pad_and_crop(KEY, IMAGE, 8, padding=-1),
            "padding must be .* got -1",
        ),
        (
            lambda: augment.random_affine(KEY, IMAGE, 8, degrees=-3.0),
            "degrees must be .* got -3",
        ),
    ],
)
def test_settings_out_of_range_are_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
