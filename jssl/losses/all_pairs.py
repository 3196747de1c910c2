"""Contrastive losses of every view against every view of the global batch."""

import jax
import jax.numpy as jnp

from jssl import parallel
from jssl.embeddings import l2_normalize
from jssl.losses.checks import check_global_batch, check_pair, check_temperature


def nt_xent(
    z0: jax.Array,
    z1: jax.Array,
    *,
    temperature: float | jax.Array,
    axis_name: str | None = None,
) -> jax.Array:
  """SimCLR's loss: find the other view among all views of the batch.

  Args:
    z0: Embeddings of one view, `[B, D]`, normalised here.
    z1: Embeddings of the other view of the same images, `[B, D]`.
    temperature: Divisor of the cosine similarities, above 0.
    axis_name: Axis that the batch is split over, or None. The candidates are
      those of the global batch.

  Returns:
    The mean over both views of this device's images, a float32 scalar;
    log(2 N - 1) is chance for a global batch of N images.

  Raises:
    ValueError: If shapes do not fit, the temperature is not positive or the
      global batch has fewer than 2 images.

  Reference:
    Chen et al., A Simple Framework for Contrastive Learning of Visual
    Representations, 2020, equation 1.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import losses
    >>> alike = jnp.ones((8, 16))  # Collapsed: a guess among 2 * 8 - 1 images.
    >>> loss = losses.nt_xent(alike, alike, temperature=0.5)
    >>> round(float(loss), 4), round(float(jnp.log(15)), 4)
    (2.7081, 2.7081)
  """
  x, positive = _two_views(z0, z1, temperature)
  check_global_batch(len(x), axis_name, name="nt_xent", purpose="a negative")
  logits, own, every = _similarities(x, temperature, axis_name)
  others = own[:, None] != every
  normalizer = jax.nn.logsumexp(logits, axis=1, where=others)
  return jnp.mean(normalizer) - jnp.mean(positive) / temperature


def dcl(
    z0: jax.Array,
    z1: jax.Array,
    *,
    temperature: float | jax.Array,
    axis_name: str | None = None,
) -> jax.Array:
  """Decoupled contrastive loss: NT-Xent without the positive as a candidate.

  Args:
    z0: Embeddings of one view, `[B, D]`, normalised here.
    z1: Embeddings of the other view of the same images, `[B, D]`.
    temperature: Divisor of the cosine similarities, above 0.
    axis_name: Axis that the batch is split over, or None. The negatives are
      those of the global batch.

  Returns:
    The mean over both views of this device's images, a float32 scalar, which
    may be negative; log(2 N - 2) is chance for a global batch of N images.

  Raises:
    ValueError: If shapes do not fit, the temperature is not positive or the
      global batch has fewer than 2 images.

  Reference:
    Yeh et al., Decoupled Contrastive Learning, 2022, equation 6.

  Example:
    >>> import jax
    >>> from jssl import losses
    >>> z0, z1 = jax.random.normal(jax.random.key(0), (2, 8, 16))
    >>> loss = losses.dcl(z0, z1, temperature=0.1)
    >>> bool(loss < losses.nt_xent(z0, z1, temperature=0.1))
    True
  """
  x, positive = _two_views(z0, z1, temperature)
  normalizer = _decoupled(x, temperature, axis_name)
  return normalizer - jnp.mean(positive) / temperature


def dclw(
    z0: jax.Array,
    z1: jax.Array,
    *,
    temperature: float | jax.Array,
    sigma: float | jax.Array = 0.5,
    axis_name: str | None = None,
) -> jax.Array:
  """Decoupled contrastive loss with larger weights for hard positives.

  Args:
    z0: Embeddings of one view, `[B, D]`, normalised here.
    z1: Embeddings of the other view of the same images, `[B, D]`.
    temperature: Divisor of the cosine similarities, above 0.
    sigma: Divisor of the positives' cosine similarities in their von
      Mises-Fisher weights, above 0. The weights have mean 1 over the global
      batch and get no gradient.
    axis_name: Axis that the batch is split over, or None. Negatives and weights
      are those of the global batch.

  Returns:
    The mean over both views of this device's images, a float32 scalar, which
    may be negative; log(2 N - 2) is chance for a global batch of N images.

  Raises:
    ValueError: If shapes do not fit, temperature or sigma is not positive or
      the global batch has fewer than 2 images.

  Reference:
    Yeh et al., Decoupled Contrastive Learning, 2022, equations 6 and 7.

  Example:
    >>> import jax
    >>> from jssl import losses
    >>> z0, z1 = jax.random.normal(jax.random.key(0), (2, 8, 16))
    >>> loss = losses.dcl(z0, z1, temperature=0.1)
    >>> same = losses.dclw(z0, z1, temperature=0.1, sigma=1e6)  # Weights of 1.
    >>> bool(abs(same - loss) < 1e-3)
    True
  """
  check_temperature(sigma, name="sigma")
  x, positive = _two_views(z0, z1, temperature)
  every = parallel.all_gather(jax.lax.stop_gradient(positive), axis_name)
  weights = 2.0 - every.size * jax.nn.softmax(every / sigma)
  weights = parallel.local_slice(weights, positive.size, axis_name)
  normalizer = _decoupled(x, temperature, axis_name)
  return normalizer - jnp.mean(weights * positive) / temperature


def supcon(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    temperature: float | jax.Array,
    axis_name: str | None = None,
) -> jax.Array:
  """Supervised contrastive loss: all views of the same class are positives.

  It is L_out^sup, without the factor temperature / base_temperature of the
  authors' code. With distinct labels and two views it is NT-Xent.

  Args:
    embeddings: Embeddings of V views of each image, `[V, B, D]`, normalised
      here.
    labels: Class of each image, int `[B]`. -1 is an image without a label: its
      only positives are its other views, as in `nt_xent`, and it is a negative
      of all other images.
    temperature: Divisor of the cosine similarities, above 0.
    axis_name: Axis that the batch is split over, or None. Positives and
      negatives are those of the global batch.

  Returns:
    The mean over all views of this device's images, a float32 scalar; log(V N -
    1) is chance for a global batch of N images. An embedding without a positive
    (the only view of the only image of its class) has a loss of 0.

  Raises:
    ValueError: If shapes do not fit, the temperature is not positive or the
      global batch has fewer than 2 images.

  Reference:
    Khosla et al., Supervised Contrastive Learning, 2020, equation 2.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import losses
    >>> views = jnp.stack([jnp.eye(4)] * 2)  # [V, B, D]
    >>> apart = losses.supcon(views, jnp.arange(4), temperature=0.1)
    >>> joined = losses.supcon(views, jnp.zeros(4, int), temperature=0.1)
    >>> bool(apart < joined)
    True
  """
  if embeddings.ndim != 3 or labels.shape != embeddings.shape[1:2]:
    raise ValueError(
        f"embeddings {embeddings.shape} and labels {labels.shape} do not fit;"
        " expected [V, B, D] and [B]."
    )
  check_temperature(temperature)
  views, size, _ = embeddings.shape
  check_global_batch(size, axis_name, name="supcon", purpose="a negative")
  x = l2_normalize(jnp.moveaxis(embeddings, 0, 1))  # [B, V, D]
  logits, own, every = _similarities(x, temperature, axis_name)
  others = own[:, None] != every
  every_label = jnp.repeat(parallel.all_gather(labels, axis_name), views)
  label = jnp.repeat(labels, views)[:, None]
  same_class = (label == every_label) & (label >= 0)
  same_image = own[:, None] // views == every // views
  positives = (same_class | same_image) & others
  normalizer = jax.nn.logsumexp(logits, axis=1, where=others)
  count = jnp.sum(positives, axis=1)
  cost = jnp.where(positives, normalizer[:, None] - logits, 0.0)
  return jnp.mean(jnp.sum(cost, axis=1) / jnp.maximum(count, 1))


def _two_views(z0, z1, temperature):
  """Checks and normalises two views: `[B, 2, D]`, and similarities `[B]`."""
  check_pair(z0=z0, z1=z1)
  check_temperature(temperature)
  x = l2_normalize(jnp.stack([z0, z1], axis=1))
  return x, jnp.sum(x[:, 0] * x[:, 1], axis=-1)


def _similarities(x, temperature, axis_name):
  """Compares this device's embeddings with those of the global batch.

  Args:
    x: Unit vectors `[B, V, D]`: the views of an image are adjacent, so that row
      i of the flat batch belongs to image i // V on any device.
    temperature: Divisor of the similarities.
    axis_name: Axis that the batch is split over, or None.

  Returns:
    Logits `[B * V, N * B * V]`, and the positions of the rows `[B * V]` and of
    the columns `[N * B * V]` in the flat global batch.
  """
  x = x.reshape(-1, x.shape[-1])
  candidates = parallel.all_gather(x, axis_name)
  logits = jnp.matmul(x, candidates.T, precision=jax.lax.Precision.HIGHEST)
  own = parallel.axis_index(axis_name) * len(x) + jnp.arange(len(x))
  return logits / temperature, own, jnp.arange(len(candidates))


def _decoupled(x, temperature, axis_name):
  """Mean log-sum-exp of the similarities to the views of other images."""
  check_global_batch(
      len(x), axis_name, name="The decoupled loss", purpose="a negative"
  )
  logits, own, every = _similarities(x, temperature, axis_name)
  views = x.shape[1]
  negatives = own[:, None] // views != every // views
  return jnp.mean(jax.nn.logsumexp(logits, axis=1, where=negatives))
