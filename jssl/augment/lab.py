"""The CIE Lab color space, as in scikit-image: sRGB, D65, 2 degrees."""

import jax
import jax.numpy as jnp
import numpy as np

_XYZ_FROM_RGB = np.array([
    [0.412453, 0.357580, 0.180423],
    [0.212671, 0.715160, 0.072169],
    [0.019334, 0.119193, 0.950227],
])
_WHITE = np.array([0.95047, 1.0, 1.08883])
_LINEAR = 0.008856  # Below it, a line replaces the cube root.


def rgb_to_lab(image: jax.Array) -> jax.Array:
  """Converts sRGB to Lab.

  Args:
    image: float `[..., 3]` in [0, 1].

  Returns:
    float32 `[..., 3]`: lightness in [0, 100], then a and b, about -110 to 110.

  Raises:
    ValueError: If there are not three channels.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import augment
    >>> white = jnp.ones((1, 1, 3))
    >>> jnp.abs(augment.rgb_to_lab(white)).round(1).tolist()
    [[[100.0, 0.0, 0.0]]]
  """
  check_rgb(image)
  image = image.astype(jnp.float32)
  # The unused branch of each `where` is finite, and so is the gradient.
  linear = jnp.where(
      image > 0.04045,
      ((jnp.maximum(image, 0.04045) + 0.055) / 1.055) ** 2.4,
      image / 12.92,
  )
  matrix = (_XYZ_FROM_RGB / _WHITE[:, None]).T.astype(np.float32)
  xyz = jnp.matmul(linear, matrix, precision=jax.lax.Precision.HIGHEST)
  f = jnp.where(
      xyz > _LINEAR, jnp.cbrt(jnp.maximum(xyz, _LINEAR)), 7.787 * xyz + 16 / 116
  )
  x, y, z = jnp.moveaxis(f, -1, 0)
  return jnp.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def lab_to_rgb(lab: jax.Array) -> jax.Array:
  """Converts Lab to sRGB, the inverse of `rgb_to_lab`.

  Args:
    lab: float `[..., 3]`.

  Returns:
    float32 `[..., 3]` in [0, 1]; colors outside sRGB are clipped.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import augment
    >>> red = jnp.array([[[1.0, 0.0, 0.0]]])
    >>> augment.lab_to_rgb(augment.rgb_to_lab(red)).round(2).tolist()
    [[[1.0, 0.0, 0.0]]]
  """
  lightness, a, b = jnp.moveaxis(lab.astype(jnp.float32), -1, 0)
  y = (lightness + 16) / 116
  f = jnp.stack([y + a / 500, y, jnp.maximum(y - b / 200, 0)], axis=-1)
  xyz = jnp.where(f > 0.2068966, f**3, (f - 16 / 116) / 7.787)
  matrix = np.linalg.inv(_XYZ_FROM_RGB / _WHITE[:, None]).T.astype(np.float32)
  linear = jnp.matmul(xyz, matrix, precision=jax.lax.Precision.HIGHEST)
  linear = jnp.clip(linear, 0, 1)
  return jnp.where(
      linear > 0.0031308,
      1.055 * jnp.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055,
      12.92 * linear,
  )


def color_bins(*, step: int = 10) -> np.ndarray:
  """Returns the centers of the squares of the ab plane that sRGB covers.

  Args:
    step: Side of a square; 10 in the paper.

  Returns:
    float32 `[Q, 2]`, multiples of the step, ordered by a, then b.

  Reference:
    Zhang et al., Colorful Image Colorization, 2016, section 2.1.

  Example:
    >>> from jssl import augment
    >>> augment.color_bins().shape
    (261, 2)
  """
  # The faces of the RGB cube cover what its inside covers.
  side = np.linspace(0, 1, 256, dtype=np.float32)
  u, v = (x.ravel() for x in np.meshgrid(side, side))
  faces = [
      np.roll([np.full_like(u, end), u, v], axis, axis=0).T
      for end in (0, 1)
      for axis in range(3)
  ]
  ab = np.asarray(jax.jit(rgb_to_lab)(np.concatenate(faces)))[:, 1:]
  bins = np.unique(np.round(ab / step).astype(int), axis=0)
  return (step * bins).astype(np.float32)


def check_rgb(image: jax.Array) -> None:
  """Raises ValueError unless there are three channels."""
  if image.shape[-1] != 3:
    raise ValueError(
        f"Color needs images of 3 channels (RGB), got the shape {image.shape};"
        " gray images have no color to predict. Use a data set of color images,"
        " such as photos or cifar10."
    )
