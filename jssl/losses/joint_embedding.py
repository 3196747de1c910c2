"""Losses of two views without negatives: agree, and do not collapse."""

import jax
import jax.numpy as jnp

from jssl import parallel
from jssl.embeddings import l2_normalize
from jssl.losses.checks import check_global_batch, check_pair

# Epsilon of the BatchNorm without scale that the authors standardise with.
_BATCH_NORM_EPS = 1e-5


def negative_cosine(prediction: jax.Array, target: jax.Array) -> jax.Array:
  """SimSiam's term: the cosine similarity, negated.

  BYOL's loss is 2 + 2 times this. A batch split over devices needs no axis.

  Args:
    prediction: Embeddings, `[B, D]`, normalised here.
    target: Embeddings to match, `[B, D]`, normalised here. Gradients flow to
      it: the caller has to stop them, or the embeddings collapse.

  Returns:
    The mean over the batch, a float32 scalar in [-1, 1].

  Raises:
    ValueError: If shapes do not fit.

  Reference:
    Chen and He, Exploring Simple Siamese Representation Learning, 2021,
    equation 1; Grill et al., Bootstrap Your Own Latent, 2020, equation 2.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import losses
    >>> x = jnp.array([[3.0, 4.0]])
    >>> float(losses.negative_cosine(x, 2 * x))
    -1.0
    >>> float(losses.negative_cosine(x, -x))
    1.0
  """
  check_pair(prediction=prediction, target=target)
  product = l2_normalize(prediction) * l2_normalize(target)
  return -jnp.mean(jnp.sum(product, axis=-1))


def barlow_twins(
    z_a: jax.Array,
    z_b: jax.Array,
    *,
    off_diagonal_weight: float = 0.005,
    axis_name: str | None = None,
) -> jax.Array:
  """Barlow Twins' loss: the cross-correlation of two views as the identity.

  Args:
    z_a: Embeddings of one view, `[B, D]`, each dimension standardised here over
      the batch.
    z_b: Embeddings of the other view, `[B, D]`, likewise.
    off_diagonal_weight: Weight of the redundancy term, lambda.
    axis_name: Axis that the batch is split over, or None. The statistics are
      those of the global batch.

  Returns:
    The loss of the global batch, a float32 scalar of 0 or more, equal on every
    device. Constant embeddings give D.

  Raises:
    ValueError: If shapes do not fit or the global batch has fewer than 2
      images.

  Reference:
    Zbontar et al., Barlow Twins: Self-Supervised Learning via Redundancy
    Reduction, 2021, equations 1 and 2.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import losses
    >>> z = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> round(float(losses.barlow_twins(z, z)), 4)
    0.0
    >>> round(float(losses.barlow_twins(z, 0 * z)), 4)  # Constant: D.
    2.0
  """
  check_pair(z_a=z_a, z_b=z_b)
  size, dim = z_a.shape
  check_global_batch(
      size, axis_name, name="barlow_twins", purpose="a correlation"
  )
  z = _centered(jnp.stack([z_a, z_b]), axis_name)
  variance = parallel.pmean(
      jnp.mean(jnp.square(z), axis=1, keepdims=True), axis_name
  )
  a, b = z * jax.lax.rsqrt(variance + _BATCH_NORM_EPS)
  product = jnp.matmul(a.T, b, precision=jax.lax.Precision.HIGHEST)
  correlation = parallel.pmean(product / size, axis_name)  # [D, D]
  identity = jnp.eye(dim)
  weights = jnp.where(identity == 1.0, 1.0, off_diagonal_weight)
  return jnp.sum(weights * jnp.square(correlation - identity))


def vicreg(
    z_a: jax.Array,
    z_b: jax.Array,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    eps: float = 1e-4,
    axis_name: str | None = None,
) -> jax.Array:
  """VICReg's loss: invariance, variance and covariance of two views.

  As in the authors' code, but not in the paper's equations, the invariance is
  averaged over the dimensions too, and the variance term over the views.

  Args:
    z_a: Embeddings of one view, `[B, D]`, not normalised.
    z_b: Embeddings of the other view, `[B, D]`, not normalised.
    invariance: Weight of the squared distance of the views.
    variance: Weight of the hinge that keeps standard deviations above 1.
    covariance: Weight of the squared covariances.
    eps: Added to the variances before their square root.
    axis_name: Axis that the batch is split over, or None. Variances and
      covariances are those of the global batch.

  Returns:
    The loss, a float32 scalar of 0 or more; the invariance is that of this
    device's images. Constant embeddings give variance * (1 - sqrt(eps)).

  Raises:
    ValueError: If shapes do not fit or the global batch has fewer than 2
      images.

  Reference:
    Bardes et al., VICReg: Variance-Invariance-Covariance Regularization for
    Self-Supervised Learning, 2022, equations 1 to 6.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import losses
    >>> z = 2 * jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> round(float(losses.vicreg(z, z)), 4)
    0.0
    >>> bool(losses.vicreg(0 * z, 0 * z) > 20)  # Collapsed.
    True
  """
  check_pair(z_a=z_a, z_b=z_b)
  size, dim = z_a.shape
  check_global_batch(size, axis_name, name="vicreg", purpose="a covariance")
  z = jnp.stack([z_a, z_b]).astype(jnp.float32)
  distance = jnp.mean(jnp.square(z[0] - z[1]))

  z = _centered(z, axis_name)
  product = jnp.einsum(
      "vbi,vbj->vij", z, z, precision=jax.lax.Precision.HIGHEST
  )
  # Unbiased: divided by the images of the global batch, less one.
  images = size * parallel.axis_size(axis_name)
  moments = parallel.pmean(product / size, axis_name) * images / (images - 1)
  variances = jnp.diagonal(moments, axis1=1, axis2=2)  # [2, D]
  hinge = jnp.mean(jax.nn.relu(1.0 - jnp.sqrt(variances + eps)))
  off_diagonal = jnp.where(jnp.eye(dim, dtype=bool), 0.0, moments)
  redundancy = jnp.sum(jnp.square(off_diagonal)) / dim
  return invariance * distance + variance * hinge + covariance * redundancy


def _centered(z, axis_name):
  """Subtracts from views `[V, B, D]` their mean over the global batch."""
  # Before any product, as raw moments lose digits at a large mean.
  z = z.astype(jnp.float32)
  return z - parallel.pmean(jnp.mean(z, axis=1, keepdims=True), axis_name)
