"""Quality of features without labels."""

import jax
import jax.numpy as jnp

from jssl.embeddings import AnyArray, l2_normalize

# Number of images in RankMe's paper. Fewer underestimate the rank: 2,048 images
# by a fifth at 128 dimensions.
RANK_IMAGES = 25_600
# With fewer images, rank and deviation do not show collapse: for one image they
# are 1 and 0, and for a few they are low for healthy encoders as well.
ENOUGH_IMAGES = 10


def rankme(features: AnyArray, *, epsilon: float = 1e-7) -> jax.Array:
  """Effective rank of features: the number of dimensions they really use.

  Args:
    features: `[N, D]`, not normalised. The value grows with N up to a limit;
      the paper uses N = 25,600.
    epsilon: Added to the normalised singular values.

  Returns:
    exp(entropy) of the normalised singular values, a float32 scalar between 1
    (one direction) and min(N, D).

  Raises:
    ValueError: If the features are not a matrix.

  Reference:
    Garrido et al., RankMe: Assessing the Downstream Performance of Pretrained
    Self-Supervised Representations by Their Rank, 2023, equation 1.

  Example:
    >>> import jax
    >>> from jssl import evals
    >>> spread = jax.random.normal(jax.random.key(0), (500, 8))
    >>> round(float(evals.rankme(spread)), 1)
    8.0
    >>> line = spread[:, :1] * spread[0]
    >>> round(float(evals.rankme(line)), 1)
    1.0
  """
  _check_matrix(features)
  singular = _singular_values(features.astype(jnp.float32))
  p = singular / jnp.maximum(jnp.sum(singular), epsilon) + epsilon
  return jnp.exp(-jnp.sum(p * jnp.log(p)))


def alpha_req(
    features: AnyArray, *, first: int = 4, last: int = 100
) -> jax.Array:
  """Decay of the spectrum of features: how steeply their variances fall.

  The variance along the i-th principal direction is modelled as i to the power
  of -alpha: a line is fitted to the logarithms by least squares, with weight
  1 / i.

  Args:
    features: `[N, D]`, not normalised.
    first: First direction of the fit, from 1.
    last: Last direction of the fit, at most as many as there are. The paper
      gives no range; 4 to 100 is that of its authors' code.

  Returns:
    alpha, a float32 scalar. Good encoders are near 1: far above, few directions
    hold nearly all variance; far below, noise fills all directions.

  Raises:
    ValueError: If fewer than two directions remain to fit.

  Reference:
    Agrawal et al., alpha-ReQ: Assessing Representation Quality in
    Self-Supervised Learning by Measuring Eigenspectrum Decay, 2022. The weights
    are those of its authors' code, after Stringer et al., High-dimensional
    geometry of population responses in visual cortex, 2019.

  Example:
    >>> import jax
    >>> from jssl import evals
    >>> features = jax.random.normal(jax.random.key(0), (2000, 64))
    >>> decaying = features / jax.numpy.arange(1, 65)  # Variances as i ** -2.
    >>> round(float(evals.alpha_req(decaying)), 1)
    2.0
  """
  _check_matrix(features)
  # Centring removes a direction if there are no more images than directions.
  last = min(last, features.shape[0] - 1, features.shape[1])
  if last <= first:
    raise ValueError(
        f"Features {features.shape} have {last} directions, and the fit begins"
        f" with number {first}; lower first or give more features."
    )
  features = features.astype(jnp.float32)
  centered = features - jnp.mean(features, axis=0)
  singular = _singular_values(centered)[first - 1 : last]
  rank = jnp.arange(first, last + 1, dtype=jnp.float32)
  weight = 1 / rank
  x = jnp.log(rank) - jnp.average(jnp.log(rank), weights=weight)
  y = 2 * jnp.log(jnp.maximum(singular, jnp.finfo(jnp.float32).tiny))
  return -jnp.sum(weight * x * y) / jnp.sum(weight * jnp.square(x))


def alignment(features: AnyArray, positives: AnyArray) -> jax.Array:
  """Mean squared distance of unit features of two views of an image.

  Args:
    features: `[N, D]`, normalised here.
    positives: Features of another view of each, `[N, D]`, normalised here.

  Returns:
    A float32 scalar in [0, 4]; 0 if both views have the same features.

  Raises:
    ValueError: If the shapes differ.

  Reference:
    Wang and Isola, Understanding Contrastive Representation Learning through
    Alignment and Uniformity on the Hypersphere, 2020, equation 1 (alpha = 2).

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import evals
    >>> x = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> float(evals.alignment(x, 3 * x)), float(evals.alignment(x, x[::-1]))
    (0.0, 2.0)
  """
  if features.shape != positives.shape or features.ndim != 2:
    raise ValueError(
        f"features have shape {features.shape} and positives"
        f" {positives.shape}; expected [N, D] twice."
    )
  difference = l2_normalize(features) - l2_normalize(positives)
  return jnp.mean(jnp.sum(jnp.square(difference), axis=-1))


def uniformity(features: AnyArray, *, t: float = 2.0) -> jax.Array:
  """How evenly unit features cover the sphere.

  Args:
    features: `[N, D]`, N at least 2, normalised here.
    t: Sharpness of the Gaussian kernel.

  Returns:
    The logarithm of the mean over pairs of exp(-t d^2), a float32 scalar: 0 if
    all features are equal, less if they are spread; -2 t + O(1 / D) at best.

  Raises:
    ValueError: If there is no pair.

  Reference:
    Wang and Isola, 2020, equation 2.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import evals
    >>> round(float(evals.uniformity(jnp.eye(4))), 4)  # At right angles.
    -4.0
    >>> abs(round(float(evals.uniformity(jnp.ones((4, 2)))), 4))  # Collapsed.
    0.0
  """
  if features.ndim != 2 or len(features) < 2:
    raise ValueError(
        f"features have shape {features.shape}; expected [N, D] with N of at"
        " least 2."
    )
  unit = l2_normalize(features)
  cosine = jnp.matmul(unit, unit.T, precision=jax.lax.Precision.HIGHEST)
  pairs = jnp.triu_indices(len(unit), k=1)
  exponents = -t * (2 - 2 * cosine[pairs])
  return jax.nn.logsumexp(exponents) - jnp.log(exponents.size)


def collapse_warning(
    signs: dict[str, float], *, images: int | None = None
) -> str | None:
  """Returns a warning if features show collapse.

  Args:
    signs: Any of "feature_std" (of the embeddings in the loss), "encoder_std"
      (of the pooled features) and "rank" (their effective rank).
    images: Number of images that "encoder_std" and "rank" were computed from;
      fewer than `ENOUGH_IMAGES` show nothing. None if there are enough.

  Returns:
    A sentence with the value and the remedy, or None.
  """
  floors = {"feature_std": 0.02, "encoder_std": 0.02, "rank": 1.2}
  if images is not None and images < ENOUGH_IMAGES:
    del floors["encoder_std"], floors["rank"]
  for name, floor in floors.items():
    if name in signs and signs[name] < floor:
      return (
          f"{name} is {signs[name]:.3g}, below {floor}: all images get nearly"
          " the same features (collapse). Lower the learning rate, raise the"
          " temperature, or check that the augmentations leave something to"
          " recognise."
      )
  return None


def _check_matrix(features):
  if features.ndim != 2:
    raise ValueError(
        f"features have shape {features.shape}; expected [N, D]. Pool feature"
        " maps first."
    )


def _singular_values(x):
  """Returns the singular values of `[N, D]` in descending order."""
  if x.shape[0] > x.shape[1]:
    x = jnp.linalg.qr(x, mode="r")  # [D, D], of the same singular values.
  return jnp.linalg.svd(x, compute_uv=False)
