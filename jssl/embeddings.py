"""Operations on embeddings that losses, queues and evaluation share."""

from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jssl import parallel

# What functions outside a compiled step accept.
AnyArray: TypeAlias = jax.Array | np.ndarray


def l2_normalize(x: AnyArray) -> jax.Array:
  """Scales vectors to unit length, in float32.

  Args:
    x: Vectors, `[..., D]`, of any float type.

  Returns:
    `x / |x|`, float32. A zero vector (of length 1e-12 or less) becomes zero and
    gets a zero gradient, where `x / |x|` would give NaN for both.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import embeddings
    >>> x = jnp.array([[0.0, -2.0], [0.0, 0.0]])
    >>> embeddings.l2_normalize(x).tolist()
    [[0.0, -1.0], [0.0, 0.0]]
  """
  x = x.astype(jnp.float32)
  norm = optax.safe_norm(x, 1e-12, axis=-1, keepdims=True)
  # Selected, since the gradient of x / 1e-12 would be 1e12.
  return jnp.where(norm > 1e-12, x / norm, 0.0)


def feature_std(
    embeddings: AnyArray, *, axis_name: str | None = None
) -> jax.Array:
  """Standard deviation of unit embeddings, the simplest sign of collapse.

  Args:
    embeddings: `[B, D]`, normalised here.
    axis_name: Axis that the batch is split over, or None.

  Returns:
    The standard deviation over the batch, averaged over the dimensions, times
    sqrt(D); a scalar. About 1 for embeddings spread over the sphere, 0 for
    embeddings collapsed to a point.

  Reference:
    Chen and He, Exploring Simple Siamese Representation Learning, 2021,
    section 4.1.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jssl import embeddings
    >>> spread = jax.random.normal(jax.random.key(0), (1000, 64))
    >>> f"{embeddings.feature_std(spread):.2f}"
    '1.00'
    >>> f"{embeddings.feature_std(jnp.ones((1000, 64))):.2f}"
    '0.00'
  """
  x = l2_normalize(jax.lax.stop_gradient(embeddings))
  x -= parallel.pmean(jnp.mean(x, axis=0), axis_name)
  variance = parallel.pmean(jnp.mean(jnp.square(x), axis=0), axis_name)
  return jnp.mean(jnp.sqrt(variance)) * jnp.sqrt(x.shape[-1])


def standardize(x: AnyArray, *, eps: float = 1e-5) -> jax.Array:
  """Shifts and scales vectors to mean 0 and variance 1, in float32.

  `jax.nn.standardize` subtracts squares, which loses all digits of vectors with
  a large mean.

  Args:
    x: Vectors, `[..., D]`, of any float type.
    eps: Added to the (biased) variance.

  Returns:
    `[..., D]`, float32.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import embeddings
    >>> embeddings.standardize(jnp.array([2000.0, 2001.0, 2002.0])).round(3)
    Array([-1.225,  0.   ,  1.225], dtype=float32)
  """
  values = jnp.asarray(x, jnp.float32)
  values -= jnp.mean(values, axis=-1, keepdims=True)
  variance = jnp.mean(jnp.square(values), axis=-1, keepdims=True)
  return values * jax.lax.rsqrt(variance + eps)
