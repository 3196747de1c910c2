"""Resampling one image: crops resized by matrix products, and a warp."""

from collections.abc import Callable, Sequence
import functools

import jax
import jax.numpy as jnp

from jssl.augment import checks

# TPUs multiply in bfloat16 (8 bits) by default, too coarse for 8-bit images;
# with HIGH the error is below a quarter of a gray level.
PRECISION = jax.lax.Precision.HIGH


def resized_crop(
    image: jax.Array,
    box: jax.Array | Sequence[float],
    size: int | tuple[int, int],
    *,
    method: str = "bilinear",
    antialias: bool = True,
) -> jax.Array:
  """Crops `image` to `box` and resizes the crop, as torchvision does.

  The crop comes first: no sample is taken from outside the box. With
  `antialias` the kernel widens with the reduction, each pixel is weighted by
  the part of it that the box covers, and weights at the edge are renormalized.
  Without it, taps are clamped to the outermost pixels that the box touches.

  It takes two dense matrix products with weights built from the box, so the box
  may be traced and fractional, and gradients flow to it.

  Args:
    image: float [H, W, C].
    box: (top, left, height, width) in pixels, inside the image. Pixel i covers
      [i, i + 1].
    size: Static height and width of the result; an int means a square.
    method: "bilinear"; "bicubic", PyTorch's (a = -0.5 with antialias, else
      -0.75 with clamped taps); or "keys_cubic", that of TensorFlow and JAX
      (a = -0.5, taps outside the box left out; the same as "bicubic" with
      antialias). The cubic kernels may exceed the range of their input.
    antialias: Whether to low-pass when reducing.

  Returns:
    float32 [h, w, C].

  Raises:
    ValueError: If `image`, `size` or `method` is invalid.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import augment
    >>> image = jnp.arange(16.0).reshape(4, 4, 1) / 16
    >>> box = (0, 2, 2, 2)  # The top right quarter.
    >>> print(16 * augment.resized_crop(image, box, 2)[..., 0].round(4))
    [[2. 3.]
     [6. 7.]]
  """
  checks.check_image(image)
  out_height, out_width = checks.height_and_width(size)
  kernel = _resize_kernel(method, antialias)
  make_weights: Callable[..., jax.Array] = _clamped_weights
  if antialias or method == "keys_cubic":
    make_weights = functools.partial(_renormalized_weights, widen=antialias)
  top, left, height, width = jnp.asarray(box, jnp.float32)
  rows = make_weights(kernel, top, height, image.shape[0], out_height)
  columns = make_weights(kernel, left, width, image.shape[1], out_width)
  return jnp.einsum("ih,hwc,jw->ijc", rows, image, columns, precision=PRECISION)


def size_on_canvas(canvas: jax.Array, extent: jax.Array) -> jax.Array:
  """Returns the (height, width) of a picture on its canvas.

  The picture is in the top left corner of the canvas; sides longer than the
  canvas were shrunk to it (see `jssl.data`).

  Args:
    canvas: Height and width of the canvas, [2].
    extent: True height and width of the picture, [2].
  """
  return jnp.minimum(canvas, jnp.asarray(extent, jnp.float32))


def affine(
    image: jax.Array,
    matrix: jax.Array,
    size: int | tuple[int, int],
    *,
    fill: float = 0.0,
) -> jax.Array:
  """Warps `image` bilinearly, directly into the output size.

  Coordinates are (x, y), x to the right and y down, and run from -1 to 1
  between the outer edges of the image and of the result alike. `matrix` maps a
  point of the result to the point of `image` that it shows (the convention of
  `torch.nn.functional.affine_grid` with align_corners=False), so the identity
  [[1, 0, 0], [0, 1, 0]] resizes the whole image. There is no antialiasing.

  Args:
    image: float [H, W, C].
    matrix: [2, 3], may be traced.
    size: Static height and width of the result; an int means a square.
    fill: Value outside the image.

  Returns:
    float32 [h, w, C].

  Raises:
    ValueError: If the shape of `image`, `matrix` or `size` is invalid.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import augment
    >>> image = jnp.arange(4.0).reshape(2, 2, 1)
    >>> same = augment.affine(image, jnp.eye(2, 3), 2)
    >>> bool(jnp.allclose(same, image))
    True
  """
  checks.check_image(image)
  height, width = checks.height_and_width(size)
  matrix = jnp.asarray(matrix, jnp.float32)
  if matrix.shape != (2, 3):
    raise ValueError(
        f"affine expects a matrix of shape (2, 3), got {matrix.shape}; pass"
        " the two rows that give x and y in the image."
    )
  x = (2 * jnp.arange(width) + 1) / width - 1
  y = (2 * jnp.arange(height) + 1) / height - 1
  # Elementwise: a matrix product would be rounded to bfloat16 on a TPU.
  source_x = matrix[0, 0] * x + matrix[0, 1] * y[:, None] + matrix[0, 2]
  source_y = matrix[1, 0] * x + matrix[1, 1] * y[:, None] + matrix[1, 2]
  row = (source_y + 1) * image.shape[0] / 2 - 0.5
  column = (source_x + 1) * image.shape[1] / 2 - 0.5
  sample = lambda channel: jax.scipy.ndimage.map_coordinates(
      channel, [row, column], order=1, mode="constant", cval=fill
  )
  return jax.vmap(sample, in_axes=-1, out_axes=-1)(image.astype(jnp.float32))


def _resize_kernel(
    method: str, antialias: bool
) -> Callable[[jax.Array], jax.Array]:
  """Returns the interpolation kernel, a function of the distance in pixels."""
  if method == "bilinear":
    return lambda x: jnp.maximum(0.0, 1.0 - jnp.abs(x))
  if method == "bicubic":
    # Both values of Keys' parameter are PyTorch's.
    return lambda x: _cubic(jnp.abs(x), -0.5 if antialias else -0.75)
  if method == "keys_cubic":
    return lambda x: _cubic(jnp.abs(x), -0.5)
  raise ValueError(
      'resized_crop expects the method "bilinear", "bicubic" or "keys_cubic",'
      f" got {method!r}."
  )


def _cubic(x: jax.Array, a: float) -> jax.Array:
  """Keys' cubic convolution kernel (1981, eq. 4) at x >= 0."""
  near = ((a + 2) * x - (a + 3)) * x**2 + 1
  far = (((x - 5) * x + 8) * x - 4) * a
  return jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))


def _renormalized_weights(
    kernel: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    length: jax.Array,
    in_size: int,
    out_size: int,
    *,
    widen: bool,
) -> jax.Array:
  """Weights [out_size, in_size] of one axis, 0 for pixels outside the box.

  With `widen` the kernel grows with the reduction, as a low-pass filter.
  """
  scale = length / out_size
  center = start + (jnp.arange(out_size) + 0.5) * scale
  pixel = jnp.arange(in_size)
  distance = pixel + 0.5 - center[:, None]
  covered = jnp.minimum(pixel + 1, start + length) - jnp.maximum(pixel, start)
  weights = kernel(distance / jnp.maximum(scale, 1.0) if widen else distance)
  weights *= jnp.clip(covered, 0.0, 1.0)
  return weights / jnp.sum(weights, axis=1, keepdims=True)


def _clamped_weights(
    kernel: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    length: jax.Array,
    in_size: int,
    out_size: int,
) -> jax.Array:
  """Weights [out_size, in_size] of one axis, taps clamped to the box."""
  position = start + (jnp.arange(out_size) + 0.5) * length / out_size - 0.5
  # Rounding may move the end of a box past the last pixel.
  first = jnp.maximum(jnp.floor(start), 0)
  last = jnp.minimum(jnp.ceil(start + length), in_size) - 1
  pixel = jnp.arange(in_size)
  weights = jnp.zeros((out_size, in_size), jnp.float32)
  for offset in (-1, 0, 1, 2):
    tap = jnp.floor(position) + offset
    hit = jnp.clip(tap, first, last)[:, None] == pixel
    weights += jnp.where(hit, kernel(position - tap)[:, None], 0.0)
  return weights
