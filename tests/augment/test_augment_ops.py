"""Deterministic image operations: values, gradients, jit, vmap, errors."""

import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jssl import augment

# Compiled as one piece: op by op, the suite would take minutes.
resized_crop = jax.jit(
    augment.resized_crop, static_argnames=("size", "method", "antialias")
)

METHODS = [
    (method, antialias)
    for method in ("bilinear", "bicubic", "keys_cubic")
    for antialias in (True, False)
]


def _photo(height=24, width=20, channels=3, seed=0):
  return (
      np.random.default_rng(seed)
      .uniform(size=(height, width, channels))
      .astype(np.float32)
  )


def _kernel(method, antialias, x):
  x = abs(x)
  if method == "bilinear":
    return max(0.0, 1 - x)
  a = -0.5 if antialias or method == "keys_cubic" else -0.75
  if x < 1:
    return (a + 2) * x**3 - (a + 3) * x**2 + 1
  return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def _slow_weights(start, length, in_size, out_size, method, antialias):
  """The definition, one weight at a time, in float64."""
  weights = np.zeros((out_size, in_size))
  scale = length / out_size
  for i in range(out_size):
    center = start + (i + 0.5) * scale
    if antialias or method == "keys_cubic":
      width = max(scale, 1) if antialias else 1
      for j in range(in_size):
        covered = min(j + 1, start + length) - max(j, start)
        weights[i, j] = min(max(covered, 0), 1) * _kernel(
            method, True, (j + 0.5 - center) / width
        )
      weights[i] /= weights[i].sum()
    else:
      nearest = int(np.floor(center - 0.5))
      first, last = int(np.floor(start)), int(np.ceil(start + length)) - 1
      for tap in range(nearest - 1, nearest + 3):
        weights[i, min(max(tap, first), last)] += _kernel(
            method, False, center - 0.5 - tap
        )
  return weights


def _golden_calls(reference):
  """Pairs of a key of the golden file and the call that it fixes."""
  image = reference["image"]
  box, size = reference["crop"], int(reference["size"])
  for method, antialias in METHODS:
    if method == "keys_cubic":
      continue  # Not PyTorch's.
    yield (
        f"resized_crop_{method}" + "_antialias" * antialias,
        resized_crop(image, box, size, method=method, antialias=antialias),
    )
  yield (
      "resized_crop_down_bilinear_antialias",
      resized_crop(image, (0, 0, *image.shape[:2]), 12),
  )
  for factor in (0.4, 1.6):
    yield f"brightness_{factor}", augment.adjust_brightness(image, factor)
    yield f"contrast_{factor}", augment.adjust_contrast(image, factor)
    yield f"saturation_{factor}", augment.adjust_saturation(image, factor)
  for delta in (-0.1, 0.2, 0.45):
    yield f"hue_{delta}", augment.adjust_hue(image, delta)
  for sigma in (0.3, 1.0, 2.0):
    yield (
        f"gaussian_blur_k9_sigma{sigma}",
        augment.gaussian_blur(image, sigma, kernel_size=9),
    )
  for turns in (1, 2, 3):
    yield f"rotate_ccw_{90 * turns}", augment.rotate90(image, turns)
  yield "grayscale", augment.to_grayscale(image)
  yield "solarize_0.5", augment.solarize(image, 0.5)
  yield "flip", augment.flip_left_right(image)


@pytest.mark.slow
def test_operations_equal_reference(golden):
  reference = golden("image_ops")
  checked = {"image", "crop", "size"}
  for name, value in _golden_calls(reference):
    np.testing.assert_allclose(value, reference[name], atol=1e-5, err_msg=name)
    checked.add(name)
  assert checked == set(reference)


@pytest.mark.parametrize("method, antialias", METHODS)
@pytest.mark.parametrize(
    "box",
    [(3.3, 2.7, 17.6, 14.1), (0.0, 5.5, 24.0, 3.2), (7.2, 8.4, 0.5, 1.3)],
    ids=["reduce", "mixed", "within_a_pixel"],
)
def test_resized_crop_of_a_fractional_box_equals_definition(
    method, antialias, box
):
  image = _photo()
  rows = _slow_weights(box[0], box[2], 24, 9, method, antialias)
  columns = _slow_weights(box[1], box[3], 20, 11, method, antialias)
  expected = np.einsum("ih,hwc,jw->ijc", rows, image, columns)
  actual = resized_crop(image, box, (9, 11), method=method, antialias=antialias)
  np.testing.assert_allclose(actual, expected, atol=2e-5)


@pytest.mark.parametrize("method, antialias", METHODS)
def test_resized_crop_uses_no_pixel_outside_its_box(method, antialias):
  image = _photo()
  outside = np.full_like(image, 1e6)
  outside[4:15, 6:18] = image[4:15, 6:18]
  crop = functools.partial(
      resized_crop,
      box=(4, 6, 11, 12),
      size=7,
      method=method,
      antialias=antialias,
  )
  np.testing.assert_array_equal(crop(outside), crop(image))


@pytest.mark.parametrize("antialias, atol", [(True, 0.05), (False, 1e-4)])
def test_resized_crop_keeps_place_and_scale_of_a_ramp(antialias, atol):
  ramp = np.broadcast_to(np.arange(40.0)[:, None, None] + 0.5, (40, 40, 1))
  top, height = 5.3, 31.4
  crop = resized_crop(
      jnp.asarray(ramp), (top, 2.0, height, 9.0), (16, 3), antialias=antialias
  )
  expected = top + (np.arange(16) + 0.5) * height / 16
  np.testing.assert_allclose(crop[3:-3, 1, 0], expected[3:-3], atol=atol)


def test_resized_crop_of_the_whole_image_is_the_image():
  image = _photo()
  for method, antialias in METHODS:
    crop = resized_crop(
        image, (0, 0, 24, 20), (24, 20), method=method, antialias=antialias
    )
    np.testing.assert_allclose(crop, image, atol=1e-6)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [(11, 9), (37, 40)])
def test_keys_cubic_agrees_with_jax_and_tensorflow(antialias, size):
  image = _photo()
  actual = resized_crop(
      image, (0, 0, 24, 20), size, method="keys_cubic", antialias=antialias
  )
  expected = jax.image.resize(
      image, (*size, 3), method="cubic", antialias=antialias
  )
  np.testing.assert_allclose(actual, expected, atol=1e-5)


def _in_hsv(image, change):
  """Changes (hue, saturation, value) of each pixel, by Python's colorsys."""
  changed = [
      colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*map(float, pixel))))
      for pixel in image.reshape(-1, 3)
  ]
  return np.reshape(changed, image.shape)


# TensorFlow's definitions in https://www.tensorflow.org/api_docs/python/tf/image
@pytest.mark.parametrize("factor", [0.0, 0.2, 1.0, 1.8])
def test_saturation_of_hsv_is_multiplied_and_clipped(factor):
  image = _photo()
  image[:4] = image[:4, :, :1]  # Gray pixels stay gray.
  image[4] = 0.0
  image[5] = [1.0, 0.0, 0.3]
  expected = _in_hsv(image, lambda h, s, v: (h, min(s * factor, 1.0), v))
  actual = augment.adjust_saturation(image, factor, hsv=True)
  np.testing.assert_allclose(actual, expected, atol=1e-6)
  if factor == 1.8:  # Torchvision's is another.
    assert np.abs(augment.adjust_saturation(image, factor) - actual).max() > 0.1


@pytest.mark.parametrize("delta", [-0.2, 0.05, 0.5])
def test_hue_is_that_of_hsv(delta):
  image = _photo()
  expected = _in_hsv(image, lambda h, s, v: ((h + delta) % 1.0, s, v))
  np.testing.assert_allclose(
      augment.adjust_hue(image, delta), expected, atol=1e-5
  )


@pytest.mark.parametrize("factor", [0.0, 0.2, 1.8])
def test_contrast_per_channel_keeps_the_mean_of_each(factor):
  image = 0.2 + 0.6 * _photo() * np.float32([1.0, 0.5, 0.1])
  expected = np.empty_like(image)
  for c in range(3):
    mean = image[..., c].mean()
    expected[..., c] = np.clip((image[..., c] - mean) * factor + mean, 0, 1)
  actual = augment.adjust_contrast(image, factor, per_channel=True)
  np.testing.assert_allclose(actual, expected, atol=1e-6)
  assert np.abs(augment.adjust_contrast(image, factor) - actual).max() > 0.1


@pytest.mark.parametrize("delta", [-1.0, -0.3, 0.0, 0.4])
def test_brightness_is_shifted_and_clipped(delta):
  image = _photo()
  np.testing.assert_allclose(
      augment.shift_brightness(image, delta),
      np.clip(image.astype(np.float64) + delta, 0, 1),
      atol=1e-6,
  )


# The same edges in SciPy's words.
EDGES = {"reflect": "mirror", "edge": "nearest", "zero": "constant"}


@pytest.mark.parametrize("padding", EDGES)
@pytest.mark.parametrize("kernel_size, sigma", [(1, 1.0), (7, 0.8), (15, 2.0)])
def test_blur_is_a_correlation_with_a_gaussian(padding, kernel_size, sigma):
  image = _photo(16, 21)
  taps = np.exp(
      -0.5 * ((np.arange(kernel_size) - kernel_size // 2) / sigma) ** 2
  )
  expected = image.astype(np.float64)
  for axis in (0, 1):
    expected = ndimage.correlate1d(
        expected, taps / taps.sum(), axis, mode=EDGES[padding]
    )
  actual = augment.gaussian_blur(
      image, sigma, kernel_size=kernel_size, padding=padding
  )
  np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_affine_identity_and_quarter_turn():
  image = _photo(17, 17)
  identity = jnp.array([[1.0, 0, 0], [0, 1, 0]])
  turn = jnp.array([[0.0, -1, 0], [1, 0, 0]])
  np.testing.assert_allclose(
      augment.affine(image, identity, 17), image, atol=1e-5
  )
  np.testing.assert_allclose(
      augment.affine(image, turn, 17), augment.rotate90(image, 1), atol=1e-5
  )


def test_affine_samples_into_the_output_size():
  image = _photo(8, 8)
  identity = jnp.array([[1.0, 0, 0], [0, 1, 0]])
  resized = resized_crop(image, (0, 0, 8, 8), 16, antialias=False)
  np.testing.assert_allclose(
      augment.affine(image, identity, 16)[1:-1, 1:-1],
      resized[1:-1, 1:-1],
      atol=1e-5,
  )


def test_affine_moves_content_and_fills():
  image = _photo(8, 8)
  shift = jnp.array([[1.0, 0, 0.5], [0, 1, 0]])  # Two of eight pixels.
  moved = augment.affine(image, shift, 8, fill=0.25)
  np.testing.assert_allclose(moved[:, :6], image[:, 2:], atol=1e-5)
  np.testing.assert_allclose(moved[:, 6:], 0.25, atol=1e-5)


# One traced argument each; the image comes first.
CALLS = {
    "resized_crop": (
        lambda image, x: augment.resized_crop(image, (x, 1, 9 + x, 8), 7),
        2.5,
    ),
    "resized_crop_bicubic": (
        lambda image, x: augment.resized_crop(
            image, (x, 1, 9 + x, 8), 7, method="bicubic", antialias=False
        ),
        2.5,
    ),
    "resized_crop_keys_cubic": (
        lambda image, x: augment.resized_crop(
            image, (x, 1, 9 + x, 8), 7, method="keys_cubic", antialias=False
        ),
        2.5,
    ),
    "shift_brightness": (augment.shift_brightness, 0.2),
    "adjust_contrast_per_channel": (
        functools.partial(augment.adjust_contrast, per_channel=True),
        0.6,
    ),
    "adjust_saturation_hsv": (
        functools.partial(augment.adjust_saturation, hsv=True),
        1.5,
    ),
    "adjust_brightness": (augment.adjust_brightness, 1.3),
    "adjust_contrast": (augment.adjust_contrast, 0.6),
    "adjust_saturation": (augment.adjust_saturation, 1.5),
    "adjust_hue": (augment.adjust_hue, 0.3),
    "gaussian_blur": (
        lambda image, x: augment.gaussian_blur(image, x, kernel_size=5),
        1.2,
    ),
    "gaussian_blur_edge": (
        lambda image, x: augment.gaussian_blur(
            image, x, kernel_size=5, padding="edge"
        ),
        1.2,
    ),
    "solarize": (augment.solarize, 0.4),
    "rotate90": (lambda image, x: augment.rotate90(image, jnp.int32(x)), 3.0),
    "affine": (
        lambda image, x: augment.affine(
            image, jnp.array([[1.0, x, 0.1], [-x, 1, 0]]), 9
        ),
        0.3,
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_jit_and_vmap_equal_plain(name):
  operation, argument = CALLS[name]
  images = np.stack([_photo(20, 20, seed=s) for s in range(3)])
  arguments = np.float32(argument) * np.float32([1.0, 0.5, 0.9])
  mapped = jax.jit(jax.vmap(operation))(images, arguments)
  np.testing.assert_allclose(
      mapped[0], operation(images[0], arguments[0]), atol=1e-5
  )
  compiled = jax.jit(operation)
  for view, image, argument in zip(mapped, images, arguments):
    np.testing.assert_allclose(view, compiled(image, argument), atol=1e-5)


@pytest.mark.parametrize("name", [n for n in CALLS if n != "rotate90"])
def test_gradients_are_finite(name):
  operation, argument = CALLS[name]
  image = _photo(20, 20)
  image[:5] = image[:5, :, :1]  # Gray pixels have no hue.
  image[5:7] = 0.0
  image[7:9] = 1.0
  loss = lambda x, a: jnp.sum(operation(x, a) ** 2)
  gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(image, argument)
  assert all(np.all(np.isfinite(g)) for g in gradients)
  assert np.any(gradients[0] != 0)


def test_resized_crop_gradient_of_the_box():
  image = jnp.asarray(_photo())
  loss = jax.jit(
      lambda top: jnp.sum(
          augment.resized_crop(image, (top, 1.3, 9.2, 8.1), 5) ** 2
      )
  )
  step = 1e-2
  numeric = (loss(3.4 + step) - loss(3.4 - step)) / (2 * step)
  np.testing.assert_allclose(jax.grad(loss)(3.4), numeric, rtol=2e-2)


def test_a_full_turn_of_the_hue_and_gray_change_nothing():
  image = _photo()
  there = augment.adjust_hue(image, 0.5)
  np.testing.assert_allclose(augment.adjust_hue(there, 0.5), image, atol=1e-5)
  gray = np.repeat(image[..., :1], 3, axis=-1)
  np.testing.assert_array_equal(augment.adjust_hue(gray, 0.3), gray)


def test_single_channel_has_no_color_to_change():
  image = _photo(channels=1)
  for same in (
      augment.adjust_saturation(image, 0.2),
      augment.adjust_saturation(image, 0.2, hsv=True),
      augment.adjust_hue(image, 0.2),
      augment.to_grayscale(image),
  ):
    np.testing.assert_array_equal(same, image)
  np.testing.assert_allclose(
      augment.adjust_brightness(image, 0.5), image / 2, atol=1e-6
  )
  np.testing.assert_allclose(
      augment.adjust_contrast(image, 0.5),
      (image + image.mean()) / 2,
      atol=1e-6,
  )


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_black_and_white_stay_finite(level):
  image = jnp.full((20, 20, 3), level)
  for operation, argument in CALLS.values():
    assert np.all(np.isfinite(jax.jit(operation)(image, argument)))


def test_traced_turns_equal_static_turns():
  image = _photo(20, 20)
  rotate = jax.jit(augment.rotate90)
  for turns in range(-4, 5):
    np.testing.assert_array_equal(
        rotate(image, turns), augment.rotate90(image, turns)
    )


IMAGE = _photo()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: augment.gaussian_blur(IMAGE, 1.0, kernel_size=4), "got 4;"),
        (lambda: augment.gaussian_blur(IMAGE, 1.0, kernel_size=41), "at most"),
        (
            lambda: augment.gaussian_blur(
                IMAGE, 1.0, kernel_size=3, padding="same"
            ),
            "\"zero\", got 'same'",
        ),
        (
            lambda: augment.resized_crop(IMAGE, (0, 0, 9, 9), 8, method="box"),
            "'box'",
        ),
        (lambda: augment.resized_crop(IMAGE, (0, 0, 9, 9), 0), "got 0"),
        (lambda: augment.resized_crop(IMAGE[None], (0, 0, 9, 9), 8), "vmap"),
        (lambda: augment.adjust_brightness(np.uint8(IMAGE), 1.0), "to_float"),
        (lambda: augment.adjust_hue(IMAGE[..., :2], 0.1), "1 or 3 channels"),
        (lambda: augment.rotate90(IMAGE, jnp.int32(1)), "24 x 20"),
        (lambda: augment.affine(IMAGE, jnp.eye(3), 8), r"\(3, 3\)"),
    ],
)
def test_errors_name_the_value_and_the_remedy(call, message):
  with pytest.raises(ValueError, match=message):
    call()
