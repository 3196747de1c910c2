"""Few-shot classification: accuracy with a few labels per class."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jssl.embeddings import AnyArray, l2_normalize
from jssl.evals import checks


def few_shot(
    key: jax.Array,
    features: AnyArray,
    labels: AnyArray,
    test_features: AnyArray,
    test_labels: AnyArray,
    *,
    shots: int,
    draws: int = 10,
    num_classes: int,
) -> jax.Array:
  """Accuracy of the nearest class mean, with a few labelled images per class.

  Each draw takes `shots` random images of every class; a test image gets the
  class whose mean of unit features has the largest cosine similarity. With one
  shot this is the nearest neighbour.

  Args:
    key: A PRNG key; the same key draws the same images.
    features: Features to draw from, `[M, D]`, normalised here.
    labels: Their classes, int `[M]`, in [0, num_classes).
    test_features: `[N, D]`, normalised here.
    test_labels: int `[N]`, 0 or more.
    shots: Labelled images per class.
    draws: Number of draws.
    num_classes: Number of classes.

  Returns:
    The accuracy of each draw, float32 `[draws]`, in [0, 1].

  Raises:
    ValueError: If a class has fewer than `shots` images, or a label is not a
      class, such as -1 for images without one.

  Reference:
    Snell et al., Prototypical Networks for Few-shot Learning, 2017.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jssl import evals
    >>> labels = jnp.arange(60) % 3
    >>> noise = 0.1 * jax.random.normal(jax.random.key(0), (60, 3))
    >>> features = jnp.eye(3)[labels] + noise
    >>> accuracies = evals.few_shot(
    ...     jax.random.key(1),
    ...     features[20:],
    ...     labels[20:],
    ...     features[:20],
    ...     labels[:20],
    ...     shots=5,
    ...     num_classes=3,
    ... )
    >>> accuracies.shape, float(accuracies.mean())
    ((10,), 1.0)
  """
  checks.check_labels(labels, num_classes)
  checks.check_labels(test_labels, name="test labels")
  counts = np.bincount(np.asarray(labels), minlength=num_classes)
  if counts.min() < shots:
    raise ValueError(
        f"Class {counts.argmin()} has {counts.min()} images, fewer than"
        f" {shots} shots; use fewer shots or add images of this class."
    )
  return _accuracies(
      jax.random.split(key, draws),
      features,
      labels,
      test_features,
      test_labels,
      shots=shots,
      num_classes=num_classes,
  )


def only_present(
    labels: np.ndarray, test_labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Renumbers the classes that have labelled images, for `few_shot`.

  Args:
    labels: int `[M]`.
    test_labels: int `[N]`.

  Returns:
    The classes with labelled images, int `[P]`; labels, int `[M]` in [0, P);
    and test labels, int `[N]`, P for other classes, which are never predicted.
  """
  present, labels = np.unique(labels, return_inverse=True)
  known = np.isin(test_labels, present)
  test_labels = np.searchsorted(present, test_labels)
  return present, labels, np.where(known, test_labels, len(present))


@functools.partial(jax.jit, static_argnames=("shots", "num_classes"))
def _accuracies(
    keys, features, labels, test_features, test_labels, *, shots, num_classes
):
  features, test_features = l2_normalize(features), l2_normalize(test_features)

  def one_draw(key):
    # Sorted by class, then at random: the first images of each class are drawn.
    order = jnp.lexsort((jax.random.uniform(key, labels.shape), labels))
    first = jnp.searchsorted(labels[order], jnp.arange(num_classes))
    drawn = order[first[:, None] + jnp.arange(shots)]  # [classes, shots]
    means = l2_normalize(jnp.mean(features[drawn], axis=1))
    similarity = jnp.matmul(
        test_features, means.T, precision=jax.lax.Precision.HIGHEST
    )
    predicted = jnp.argmax(similarity, axis=-1)
    return jnp.mean((predicted == test_labels).astype(jnp.float32))

  return jax.lax.map(one_draw, keys)
