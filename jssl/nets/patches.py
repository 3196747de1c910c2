"""Images as sequences of patches, and back."""

import jax
import jax.numpy as jnp


def patchify(images: jax.Array, size: int) -> jax.Array:
  """Cuts images into patches, row after row.

  Args:
    images: `[B, H, W, C]`.
    size: Side of a patch in pixels, a divisor of H and W.

  Returns:
    `[B, T, size * size * C]`: of each patch its rows, columns, channels.

  Raises:
    ValueError: If the size does not divide the images.

  Reference:
    He et al., Masked Autoencoders Are Scalable Vision Learners, 2022.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl.nets.patches import patchify
    >>> image = jnp.arange(16).reshape(1, 4, 4, 1)
    >>> patchify(image, 2)[0, 1].tolist()  # The upper right one.
    [2, 3, 6, 7]
  """
  batch, height, width, channels = images.shape
  rows, columns = grid_of(height, width, size)
  x = images.reshape(batch, rows, size, columns, size, channels)
  x = jnp.swapaxes(x, 2, 3)  # [B, rows, columns, size, size, C]
  return x.reshape(batch, rows * columns, size * size * channels)


def unpatchify(patches: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
  """Puts patches together, the inverse of `patchify`.

  Args:
    patches: `[B, T, size * size * C]`.
    shape: (H, W, C) of the images.

  Returns:
    `[B, H, W, C]`.

  Raises:
    ValueError: If this number of square patches does not fill the image.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl.nets.patches import patchify, unpatchify
    >>> images = jnp.arange(96).reshape(1, 4, 8, 3)
    >>> again = unpatchify(patchify(images, 2), (4, 8, 3))
    >>> bool((again == images).all())
    True
  """
  height, width, channels = shape
  size = round((height * width / patches.shape[1]) ** 0.5)
  rows, columns = grid_of(height, width, size)
  x = patches.reshape(len(patches), rows, columns, size, size, channels)
  return jnp.swapaxes(x, 2, 3).reshape(-1, height, width, channels)


def standardize(patches: jax.Array, *, eps: float = 1e-6) -> jax.Array:
  """Shifts and scales each patch to mean 0 and variance 1.

  The variance is the unbiased one, as in the MAE paper's code.

  Args:
    patches: `[..., D]`.
    eps: Added to the variance.

  Returns:
    `[..., D]`; a constant patch becomes 0.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl.nets.patches import standardize
    >>> standardize(jnp.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])).round(3)
    Array([[-1.,  0.,  1.],
           [ 0.,  0.,  0.]], dtype=float32)
  """
  mean = jnp.mean(patches, axis=-1, keepdims=True)
  variance = jnp.var(patches, axis=-1, keepdims=True, ddof=1)
  return (patches - mean) / jnp.sqrt(variance + eps)


def grid_of(height: int, width: int, size: int) -> tuple[int, int]:
  """Returns the height and width of an image in patches.

  Args:
    height: Height of the image in pixels.
    width: Width of the image in pixels.
    size: Side of a patch in pixels.

  Returns:
    Height and width in patches.

  Raises:
    ValueError: If the size does not divide the image.

  Example:
    >>> from jssl.nets.patches import grid_of
    >>> grid_of(224, 192, 16)
    (14, 12)
  """
  if height % size or width % size:
    raise ValueError(
        f"Images of {height} x {width} are not divisible into patches of"
        f" {size} x {size}; change the image size or net.patch_size."
    )
  return height // size, width // size
