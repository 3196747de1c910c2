"""The linear probe: a grid of logistic regressions, trained as one."""

from collections.abc import Sequence
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

LEARNING_RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
WEIGHT_DECAYS = (0.0, 1e-5, 1e-4, 1e-3, 1e-2)
_MOMENTUM = 0.9


class LinearProbe(NamedTuple):
  """What a linear probe found.

  Attributes:
    predicted: Classes of the test features, int32 `[N]`.
    learning_rate: The one that was chosen.
    weight_decay: The one that was chosen.
    validation: Accuracy of each setting on the held-out part, float32
      `[learning rates, weight decays]`, in [0, 1].
  """

  predicted: np.ndarray
  learning_rate: float
  weight_decay: float
  validation: np.ndarray


def linear_probe(
    key: jax.Array,
    features: jax.Array,
    labels: jax.Array,
    test_features: jax.Array,
    *,
    num_classes: int,
    learning_rates: Sequence[float] = LEARNING_RATES,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    epochs: int = 100,
    batch_size: int = 256,
    validation_fraction: float = 0.1,
) -> LinearProbe:
  """Classifies frozen features by the best of many logistic regressions.

  Features are shifted and scaled to mean 0 and variance 1 by the statistics of
  the labelled ones. All settings are trained at the same time, on the same
  batches, by SGD with momentum along a cosine. The one that is most often right
  on a held-out part of the labelled features (of equal ones the largest decay)
  is trained again on all of them.

  Args:
    key: A PRNG key, for the held-out part and the order.
    features: Labelled features, `[M, D]`.
    labels: Their classes, int `[M]`, in [0, num_classes).
    test_features: What to classify, `[N, D]`.
    num_classes: Number of classes.
    learning_rates: Rates to choose from, for batches of 256, to which they are
      scaled.
    weight_decays: Weights of half the squared norm of the kernel (not of the
      bias) to choose from.
    epochs: Passes over the features.
    batch_size: Features a step, at most as many as there are.
    validation_fraction: Share that is held out to choose by, in (0, 1).

  Returns:
    See `LinearProbe`.

  Raises:
    ValueError: If shapes do not fit, or too few features are left to choose by.

  Reference:
    The protocol of He et al., Momentum Contrast for Unsupervised Visual
    Representation Learning, 2020, section 4.1, without augmentation; the grid
    as in Oquab et al., DINOv2, 2023, appendix B.3.
  """
  count = len(features)
  _check(features, labels, test_features)
  held = round(validation_fraction * count)
  if not 0 < held < count:
    raise ValueError(
        f"validation_fraction is {validation_fraction}, which leaves"
        f" {held} of {count} features to choose by and {count - held} to train"
        " on; expected at least one of each."
    )
  features, test_features = standardize(features, test_features)
  labels = jnp.asarray(labels)
  split_key, grid_key, last_key = jax.random.split(key, 3)
  order = jax.random.permutation(split_key, count)
  valid, rest = order[:held], order[held:]
  grid = [(rate, decay) for rate in learning_rates for decay in weight_decays]
  train = functools.partial(
      fit, num_classes=num_classes, epochs=epochs, batch_size=batch_size
  )
  kernels = train(grid_key, features[rest], labels[rest], *_columns(grid))
  right = predict(kernels, features[valid]) == labels[valid]
  accuracy = np.asarray(jnp.mean(right, axis=1))
  best = max(range(len(grid)), key=lambda i: (accuracy[i], grid[i][1]))
  kernel = train(last_key, features, labels, *_columns([grid[best]]))
  return LinearProbe(
      predicted=np.asarray(predict(kernel, test_features)[0], np.int32),
      learning_rate=grid[best][0],
      weight_decay=grid[best][1],
      validation=accuracy.reshape(len(learning_rates), len(weight_decays)),
  )


def _columns(grid):
  """From pairs to an array of rates and one of decays."""
  return jnp.asarray(grid, jnp.float32).T


def standardize(
    features: jax.Array, *others: jax.Array, eps: float = 1e-6
) -> tuple[jax.Array, ...]:
  """Shifts and scales features by the statistics of the first ones.

  Args:
    features: `[M, D]`.
    *others: `[N, D]` each.
    eps: Added to the variances.

  Returns:
    All of them, float32.
  """
  features = jnp.asarray(features, jnp.float32)
  mean = jnp.mean(features, axis=0)
  scale = jax.lax.rsqrt(jnp.var(features, axis=0) + eps)
  return tuple((jnp.asarray(x) - mean) * scale for x in (features, *others))


@functools.partial(
    jax.jit, static_argnames=("num_classes", "epochs", "batch_size")
)
def fit(
    key: jax.Array,
    features: jax.Array,
    labels: jax.Array,
    learning_rates: jax.Array,
    weight_decays: jax.Array,
    *,
    num_classes: int,
    epochs: int = 100,
    batch_size: int = 256,
) -> jax.Array:
  """Trains one logistic regression for each of S settings, at the same time.

  Args:
    key: A PRNG key, for the order.
    features: `[M, D]`.
    labels: int `[M]`, in [0, num_classes).
    learning_rates: `[S]`, for batches of 256.
    weight_decays: `[S]`.
    num_classes: Number of classes, K.
    epochs: Passes over the features.
    batch_size: Features a step.

  Returns:
    Kernels with the bias as their last row, float32 `[S, D + 1, K]`.
  """
  count, dim = features.shape
  batch_size = min(batch_size, count)
  steps = count // batch_size
  inputs = jnp.pad(features, ((0, 0), (0, 1)), constant_values=1.0)
  # The bias does not decay.
  decays = weight_decays[:, None, None] * (jnp.arange(dim + 1) < dim)[:, None]
  rates = learning_rates[:, None, None] * batch_size / 256
  schedule = optax.cosine_decay_schedule(1.0, epochs * steps)

  def loss(kernels, x, label):
    logits = jnp.einsum("bd,sdk->sbk", x, kernels)
    cost = optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.broadcast_to(label, logits.shape[:2])
    )
    norm = jnp.sum(decays * jnp.square(kernels)) / 2
    return jnp.sum(jnp.mean(cost, axis=1)) + norm

  def update(carry, batch):
    kernels, trace, step = carry
    gradient = jax.grad(loss)(kernels, *batch)
    trace = _MOMENTUM * trace + gradient
    kernels = kernels - rates * schedule(step) * trace
    return (kernels, trace, step + 1), None

  def epoch(carry, key):
    # One gather an epoch: a gather each step would cost more than the step.
    order = jax.random.permutation(key, count)[: steps * batch_size]
    batches = (
        inputs[order].reshape(steps, batch_size, dim + 1),
        labels[order].reshape(steps, batch_size),
    )
    return jax.lax.scan(update, carry, batches)

  zeros = jnp.zeros((len(learning_rates), dim + 1, num_classes))
  carry = (zeros, zeros, 0)
  (kernels, _, _), _ = jax.lax.scan(epoch, carry, jax.random.split(key, epochs))
  return kernels


@jax.jit
def predict(kernels: jax.Array, features: jax.Array) -> jax.Array:
  """Classifies features `[N, D]` by kernels `[S, D + 1, K]`: int `[S, N]`."""
  logits = jnp.einsum("nd,sdk->snk", features, kernels[:, :-1])
  return jnp.argmax(logits + kernels[:, -1:], axis=-1)


def _check(features, labels, test_features):
  if (
      features.ndim != 2
      or labels.shape != features.shape[:1]
      or test_features.shape[1:] != features.shape[1:]
  ):
    raise ValueError(
        f"features {features.shape}, labels {labels.shape} and test features"
        f" {test_features.shape} do not fit; expected [M, D], [M] and [N, D]."
    )
