"""Deterministic operations on one image, float [H, W, C] in [0, 1].

Map them over a batch with `jax.vmap`: all arguments except sizes and modes may
be traced, so each image may have its own. Values agree with torchvision's
operations on float tensors; color operations also have TensorFlow's variant,
which SimCLR and BYOL use.
"""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp

from jssl.augment import checks
from jssl.augment.resampling import PRECISION

# Channels that differ by less are gray: their hue would be rounding noise.
_GRAY = 1e-6


def adjust_brightness(image: jax.Array, factor: float | jax.Array) -> jax.Array:
  """Multiplies by `factor` and clips: 0 gives black, 1 the image itself.

  Args:
    image: float [H, W, C] in [0, 1].
    factor: Scalar, at least 0.

  Returns:
    float [H, W, C] in [0, 1].

  Raises:
    ValueError: If `image` is not one float image.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import augment
    >>> augment.adjust_brightness(jnp.full((1, 1, 3), 0.25), 2.0).tolist()
    [[[0.5, 0.5, 0.5]]]
  """
  checks.check_image(image)
  return blend(image, 0.0, factor)


def shift_brightness(image: jax.Array, delta: float | jax.Array) -> jax.Array:
  """Adds `delta` and clips, as `tf.image.adjust_brightness` does.

  Args:
    image: float [H, W, C] in [0, 1].
    delta: Scalar in [-1, 1]: -1 gives black, 0 the image itself, 1 white.

  Returns:
    float [H, W, C] in [0, 1].

  Raises:
    ValueError: If `image` is not one float image.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import augment
    >>> augment.shift_brightness(jnp.full((1, 1, 3), 0.25), 0.5).tolist()
    [[[0.75, 0.75, 0.75]]]
  """
  checks.check_image(image)
  return jnp.clip(image + delta, 0.0, 1.0)


def adjust_contrast(
    image: jax.Array, factor: float | jax.Array, *, per_channel: bool = False
) -> jax.Array:
  """Moves each value away from the mean of the whole image.

  Args:
    image: float [H, W, C] in [0, 1], C = 1 or 3.
    factor: Scalar, at least 0: 0 gives an even color, 1 the image itself.
    per_channel: Whether each channel moves away from its own mean, as in
      `tf.image.adjust_contrast`, rather than from the mean luma, as in
      torchvision.

  Returns:
    float [H, W, C] in [0, 1].

  Raises:
    ValueError: If `image` is not one float image of 1 or 3 channels.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import augment
    >>> image = jnp.array([[[0.25], [0.75]]])
    >>> augment.adjust_contrast(image, 0.0).round(2).tolist()  # All gray.
    [[[0.5], [0.5]]]
  """
  if per_channel:
    checks.check_color(image)
    return blend(image, channel_means(image), factor)
  return blend(image, jnp.mean(luma(image)), factor)


def adjust_saturation(
    image: jax.Array, factor: float | jax.Array, *, hsv: bool = False
) -> jax.Array:
  """Moves each pixel away from its own gray.

  Args:
    image: float [H, W, C] in [0, 1], C = 1 (returned as it is) or 3.
    factor: Scalar, at least 0: 0 gives a gray picture, 1 the image itself.
    hsv: Whether to multiply the saturation of HSV and keep its value, as in
      `tf.image.adjust_saturation` (the gray of a pixel is its largest
      channel), rather than to blend with the luma, as in torchvision.

  Returns:
    float [H, W, C] in [0, 1].

  Raises:
    ValueError: If `image` is not one float image of 1 or 3 channels.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import augment
    >>> red = jnp.array([[[1.0, 0.0, 0.0]]])
    >>> gray = augment.adjust_saturation(red, 0.0)[0, 0]
    >>> [round(x, 3) for x in gray.tolist()]  # The luma of red.
    [0.299, 0.299, 0.299]
  """
  checks.check_color(image)
  if image.shape[-1] == 1:
    return image
  if hsv:
    planes = channels(image)
    largest, factor = largest_of(planes), hsv_factor(planes, factor)
    return blend(image, largest[..., None], factor[..., None])
  return blend(image, luma(image), factor)


def adjust_hue(image: jax.Array, delta: float | jax.Array) -> jax.Array:
  """Rotates the hue of every pixel, keeping HSV saturation and value.

  Args:
    image: float [H, W, C] in [0, 1], C = 1 (returned as it is) or 3.
    delta: Scalar in [-0.5, 0.5], in turns of the color circle.

  Returns:
    float [H, W, C] in [0, 1].

  Raises:
    ValueError: If `image` is not one float image of 1 or 3 channels.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import augment
    >>> red = jnp.array([[[1.0, 0.0, 0.0]]])
    >>> augment.adjust_hue(red, 1 / 3).round(3).tolist()  # A third of a turn.
    [[[0.0, 1.0, 0.0]]]
  """
  checks.check_color(image)
  if image.shape[-1] == 1:
    return image
  return jnp.stack(rotate_hue(channels(image), delta), axis=-1)


def to_grayscale(image: jax.Array) -> jax.Array:
  """Replaces each channel by the pixel's luma; the shape stays the same.

  Args:
    image: float [H, W, C] in [0, 1], C = 1 (returned as it is) or 3.

  Returns:
    float [H, W, C] in [0, 1].

  Raises:
    ValueError: If `image` is not one float image of 1 or 3 channels.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import augment
    >>> green = jnp.array([[[0.0, 1.0, 0.0]]])
    >>> gray = augment.to_grayscale(green)[0, 0]
    >>> [round(x, 3) for x in gray.tolist()]  # The luma of green.
    [0.587, 0.587, 0.587]
  """
  return jnp.broadcast_to(luma(image), image.shape)


def gaussian_blur(
    image: jax.Array,
    sigma: float | jax.Array,
    *,
    kernel_size: int,
    padding: str = "reflect",
) -> jax.Array:
  """Blurs with a sampled Gaussian of `kernel_size` taps.

  It is a product with a banded matrix on each side: with a sigma per image, a
  vmapped depthwise convolution would be far slower.

  Args:
    image: float [H, W, C].
    sigma: Scalar > 0, the standard deviation in pixels.
    kernel_size: Static odd number of taps along each axis. Fewer than about six
      sigma truncate the Gaussian, which blurs less.
    padding: Values outside the image: "reflect", its mirror image without the
      edge (torchvision); "edge", its outermost pixels (Pillow); "zero", black
      (a convolution with SAME padding, in SimCLR's and BYOL's code).

  Returns:
    float32 [H, W, C].

  Raises:
    ValueError: If `image` is not one float image, if `kernel_size` is even or
      reflects more than the image, or if `padding` is unknown.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import augment
    >>> dot = jnp.zeros((9, 9, 1)).at[4, 4].set(1.0)
    >>> blurred = augment.gaussian_blur(dot, 1.0, kernel_size=9)
    >>> round(float(blurred.sum()), 2), bool(blurred.max() < 0.2)
    (1.0, True)
  """
  checks.check_image(image)
  if kernel_size < 1 or kernel_size % 2 == 0:
    raise ValueError(
        f"kernel_size must be odd and positive, got {kernel_size}; take"
        f" {max(kernel_size, 0) + 1}."
    )
  if padding not in ("reflect", "edge", "zero"):
    raise ValueError(
        'gaussian_blur expects the padding "reflect", "edge" or "zero", got'
        f" {padding!r}."
    )
  (height, width), radius = image.shape[:2], kernel_size // 2
  if padding == "reflect" and radius >= min(height, width):
    raise ValueError(
        f"kernel_size {kernel_size} reflects {radius} pixels at each edge, but"
        f" the image is {height} x {width}; take at most"
        f" {2 * min(height, width) - 1}, or another padding."
    )
  rows, columns = (
      _blur_weights(length, sigma, radius, padding)
      for length in (height, width)
  )
  return jnp.einsum("ih,hwc,jw->ijc", rows, image, columns, precision=PRECISION)


def _blur_weights(length, sigma, radius, padding):
  """Weights [length, length] of one axis; row i makes output pixel i."""

  def taps(offset: jax.Array) -> jax.Array:
    weights = jnp.exp(-0.5 * (offset / sigma) ** 2)
    return jnp.where(jnp.abs(offset) <= radius, weights, 0.0)

  i, j = jnp.arange(length)[:, None], jnp.arange(length)
  weights = taps(j - i)
  if padding == "reflect":
    weights += jnp.where(j > 0, taps(i + j), 0.0)
    end = 2 * (length - 1)
    weights += jnp.where(j < length - 1, taps(end - i - j), 0.0)
  elif padding == "edge":
    outside = jnp.arange(1, radius + 1)
    before = jnp.sum(taps(i + outside), axis=1, keepdims=True)
    weights += jnp.where(j == 0, before, 0.0)
    weights += jnp.where(j == length - 1, before[::-1], 0.0)
  return weights / jnp.sum(taps(jnp.arange(-radius, radius + 1)))


def solarize(image: jax.Array, threshold: float | jax.Array) -> jax.Array:
  """Inverts the values at or above `threshold`.

  Args:
    image: float [H, W, C] in [0, 1].
    threshold: Scalar in [0, 1].

  Returns:
    float [H, W, C] in [0, 1].

  Raises:
    ValueError: If `image` is not one float image.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import augment
    >>> augment.solarize(jnp.array([[[0.25], [0.75]]]), 0.5).tolist()
    [[[0.25], [0.25]]]
  """
  checks.check_image(image)
  return jnp.where(image >= threshold, 1.0 - image, image)


def flip_left_right(image: jax.Array) -> jax.Array:
  """Mirrors the columns.

  Args:
    image: [..., H, W, C], of any dtype.

  Returns:
    The mirrored image, of the same shape and dtype.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import augment
    >>> augment.flip_left_right(jnp.array([[[1], [2], [3]]]))[..., 0].tolist()
    [[3, 2, 1]]
  """
  return jnp.flip(image, axis=-2)


def rotate90(image: jax.Array, turns: int | jax.Array) -> jax.Array:
  """Rotates by quarter turns, counter-clockwise.

  Args:
    image: [..., H, W, C], of any dtype.
    turns: Number of quarter turns, of either sign. A Python int works for any
      image; a scalar array, which may be traced, for square ones only.

  Returns:
    [..., H, W, C], H and W swapped if the number of turns is odd.

  Raises:
    ValueError: If `turns` is an array and the image is not square.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import augment
    >>> image = jnp.array([[1, 2], [3, 4]])[..., None]
    >>> augment.rotate90(image, 1)[..., 0].tolist()
    [[2, 4], [1, 3]]
  """
  if isinstance(turns, int):
    return jnp.rot90(image, turns, axes=(-3, -2))
  height, width = image.shape[-3:-1]
  if height != width:
    raise ValueError(
        "an array of turns needs a square image, so that the shape does not"
        f" depend on it, got {height} x {width}; pass a Python int, or crop"
        " first."
    )
  rotations = [
      lambda x, turns=k: jnp.rot90(x, turns, axes=(-3, -2)) for k in range(4)
  ]
  return jax.lax.switch(turns % 4, rotations, image)


def luma(image: jax.Array) -> jax.Array:
  """Returns the BT.601 luma [H, W, 1] of an image of 1 or 3 channels."""
  checks.check_color(image)
  return luma_of(channels(image))[..., None]


def channel_means(image: jax.Array) -> jax.Array:
  """Returns the mean of each channel, [C]."""
  return jnp.mean(image, axis=(0, 1))


def blend(
    image: jax.Array, target: float | jax.Array, factor: float | jax.Array
) -> jax.Array:
  """Returns factor * image + (1 - factor) * target, clipped to [0, 1]."""
  return jnp.clip(factor * image + (1.0 - factor) * target, 0.0, 1.0)


# The channels of an image, each [H, W]: what is computed from one pixel's
# channels fuses into one loop, which slices of [H, W, C] would interrupt.
Channels = Sequence[jax.Array]


def channels(image: jax.Array) -> Channels:
  """Takes [H, W, C] apart."""
  return [image[..., i] for i in range(image.shape[-1])]


def luma_of(planes: Channels) -> jax.Array:
  """Returns the BT.601 luma [H, W] of one or three channels."""
  if len(planes) == 1:
    return planes[0]
  red, green, blue = planes
  return 0.2989 * red + 0.587 * green + 0.114 * blue


def largest_of(planes: Channels) -> jax.Array:
  """Returns the value of HSV, [H, W]."""
  return functools.reduce(jnp.maximum, planes)


def hsv_factor(planes: Channels, factor: float | jax.Array) -> jax.Array:
  """Returns `factor`, lowered where the saturation of HSV would exceed 1.

  Args:
    planes: Channels in [0, 1].
    factor: Scalar, at least 0.

  Returns:
    [H, W]: the factor of each channel's distance from the largest one.
  """
  value = largest_of(planes)
  chroma = value - functools.reduce(jnp.minimum, planes)
  safe_chroma = jnp.where(chroma > _GRAY, chroma, 1.0)
  return jnp.minimum(factor, jnp.where(chroma > _GRAY, value / safe_chroma, 1))


def rotate_hue(planes: Channels, delta: float | jax.Array) -> Channels:
  """Rotates the hue of three channels by `delta` turns; see `adjust_hue`."""
  red, green, blue = planes
  value = largest_of(planes)
  chroma = value - functools.reduce(jnp.minimum, planes)
  # The inner where keeps the division, and so the gradient, finite.
  safe_chroma = jnp.where(chroma > _GRAY, chroma, 1.0)
  sixths = jnp.where(
      value == red,
      (green - blue) / safe_chroma,
      jnp.where(
          value == green,
          2.0 + (blue - red) / safe_chroma,
          4.0 + (red - green) / safe_chroma,
      ),
  )
  sixths += 6.0 * delta

  def channel(offset: float) -> jax.Array:
    # Each channel falls from value to value - chroma and back over the circle.
    k = offset + sixths
    k -= 6.0 * jnp.floor(k / 6.0)  # The operator % is many times slower.
    return value - chroma * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)

  return [channel(5.0), channel(3.0), channel(1.0)]
