"""Losses of methods that predict masked parts."""

import jax
import jax.numpy as jnp


def masked_mse(
    prediction: jax.Array, target: jax.Array, mask: jax.Array
) -> jax.Array:
  """Mean squared error of masked elements.

  Args:
    prediction: An array of any shape, for example patches `[B, T, D]` or images
      `[B, H, W, C]`.
    target: An array of the same shape. No gradient flows to it.
    mask: Weights of the leading dimensions, bool or 0 and up: `[B, T]` or
      `[B, H, W]`.

  Returns:
    The mean over the remaining dimensions, then the weighted mean, a float32
    scalar; 0 if all weights are 0.

  Raises:
    ValueError: If shapes do not fit.

  Reference:
    He et al., Masked Autoencoders Are Scalable Vision Learners, 2022, section
    3; with weights Pathak et al., Context Encoders, 2016, equation 1.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import losses
    >>> target = jnp.zeros((1, 4, 2))  # Four patches of two numbers.
    >>> prediction = jnp.arange(4.0)[None, :, None] * jnp.ones(2)
    >>> mask = jnp.array([[False, False, True, True]])
    >>> float(losses.masked_mse(prediction, target, mask))  # (4 + 9) / 2
    6.5
  """
  return _masked_mean(jnp.square(_difference(prediction, target, mask)), mask)


def masked_l1(
    prediction: jax.Array, target: jax.Array, mask: jax.Array
) -> jax.Array:
  """Mean absolute error of masked elements.

  Args:
    prediction: As in `masked_mse`.
    target: An array of the same shape. No gradient flows to it.
    mask: Weights of the leading dimensions, as in `masked_mse`.

  Returns:
    The mean over the remaining dimensions, then the weighted mean, a float32
    scalar; 0 if all weights are 0.

  Raises:
    ValueError: If shapes do not fit.

  Reference:
    Xie et al., SimMIM: A Simple Framework for Masked Image Modeling, 2022,
    equation 1.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import losses
    >>> target = jnp.zeros((1, 4, 2))
    >>> prediction = jnp.arange(4.0)[None, :, None] * jnp.ones(2)
    >>> mask = jnp.array([[False, False, True, True]])
    >>> float(losses.masked_l1(prediction, target, mask))  # (2 + 3) / 2
    2.5
  """
  return _masked_mean(jnp.abs(_difference(prediction, target, mask)), mask)


def _difference(prediction, target, mask):
  if (
      prediction.shape != target.shape
      or prediction.shape[: mask.ndim] != mask.shape
  ):
    raise ValueError(
        f"prediction {prediction.shape}, target {target.shape} and mask"
        f" {mask.shape} do not fit; expected two equal shapes, and the leading"
        " dimensions of them."
    )
  target = jax.lax.stop_gradient(target).astype(jnp.float32)
  return prediction.astype(jnp.float32) - target


def _masked_mean(error, mask):
  error = jnp.mean(error, axis=tuple(range(mask.ndim, error.ndim)))
  weights = mask.astype(jnp.float32)
  total = jnp.sum(weights)
  return jnp.sum(error * weights) / jnp.where(total > 0, total, 1.0)
