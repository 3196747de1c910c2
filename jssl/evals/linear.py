"""The linear probe: a grid of logistic regressions, trained as one."""

from collections.abc import Sequence
import functools
import itertools
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jssl.embeddings import AnyArray
from jssl.evals import checks, intervals
from jssl.losses.checks import check_not_negative

LEARNING_RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
WEIGHT_DECAYS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)
_MOMENTUM = optax.trace(0.9)


class LinearProbe(NamedTuple):
  """The result of a linear probe.

  Attributes:
    predicted: Classes of the test features, int32 `[N]`.
    learning_rate: The chosen learning rate.
    weight_decay: The chosen weight decay.
    validation: Accuracy of each setting on the held-out part, float32
      `[learning rates, weight decays]`, in [0, 1].
    at_edge: "learning_rate" or "weight_decay" if the chosen value is the last
      of its grid and better than all others, so that a value beyond the grid
      may be better still.
  """

  predicted: np.ndarray
  learning_rate: float
  weight_decay: float
  validation: np.ndarray
  at_edge: tuple[str, ...] = ()


def linear_probe(
    key: jax.Array,
    features: AnyArray,
    labels: AnyArray,
    test_features: AnyArray,
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
  batches, by SGD with momentum and a cosine schedule. The most accurate one on
  a held-out part of the labelled features (see `choose`) is trained again on
  all of them.

  Args:
    key: A PRNG key, for the held-out part and the order.
    features: Labelled features, `[M, D]`.
    labels: Their classes, int `[M]`, in [0, num_classes).
    test_features: Features to classify, `[N, D]`.
    num_classes: Number of classes.
    learning_rates: Learning rates to choose from, for batches of 256; scaled in
      proportion to the batch size.
    weight_decays: Weights of half the squared norm of the kernel (not of the
      bias) to choose from.
    epochs: Passes over the features.
    batch_size: Features per step, at most as many as there are.
    validation_fraction: Share that is held out to choose a setting, in (0, 1).

  Returns:
    See `LinearProbe`.

  Raises:
    ValueError: If shapes do not fit, a label is not a class (such as -1), or
      too few features remain to choose a setting.

  Reference:
    The protocol of He et al., Momentum Contrast for Unsupervised Visual
    Representation Learning, 2020, section 4.1, without augmentation; the grid
    as in Oquab et al., DINOv2, 2023, appendix B.3.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jssl import evals
    >>> labels = jnp.arange(60) % 3
    >>> noise = 0.1 * jax.random.normal(jax.random.key(0), (60, 3))
    >>> features = jnp.eye(3)[labels] + noise
    >>> probe = evals.linear_probe(
    ...     jax.random.key(1),
    ...     features[20:],
    ...     labels[20:],
    ...     features[:20],
    ...     num_classes=3,
    ...     epochs=10,
    ...     batch_size=16,
    ... )
    >>> float((probe.predicted == labels[:20]).mean())
    1.0
  """
  if (
      features.ndim != 2
      or labels.shape != features.shape[:1]
      or test_features.shape[1:] != features.shape[1:]
  ):
    raise ValueError(
        f"features {features.shape}, labels {labels.shape} and test features"
        f" {test_features.shape} do not fit; expected [M, D], [M] and [N, D]."
    )
  checks.check_labels(labels, num_classes)
  split_key, grid_key, last_key = jax.random.split(key, 3)
  valid, rest = hold_out(split_key, len(features), validation_fraction)
  features, test_features = standardize(features, test_features)
  labels = jnp.asarray(labels)
  grid = make_grid(learning_rates, weight_decays)
  train = functools.partial(
      fit, num_classes=num_classes, epochs=epochs, batch_size=batch_size
  )
  probes = train(grid_key, features[rest], labels[rest], *grid)
  best, accuracy = choose(probes, features[valid], labels[valid])
  probe = train(last_key, features, labels, *grid[:, [best]])
  predicted = predict(probe, test_features)[0]
  return make_probe(predicted, best, accuracy, learning_rates, weight_decays)


def make_probe(
    predicted: AnyArray,
    best: int,
    accuracy: np.ndarray,
    learning_rates: Sequence[float],
    weight_decays: Sequence[float],
) -> LinearProbe:
  """Makes the result of a linear probe.

  Args:
    predicted: Classes of the test features, int `[N]`.
    best: Index of the chosen setting in `make_grid`.
    accuracy: Accuracy of each setting on the held-out part, `[S]`.
    learning_rates: Learning rates of the grid.
    weight_decays: Weight decays of the grid.
  """
  grid = {"learning_rate": learning_rates, "weight_decay": weight_decays}
  validation = accuracy.reshape(len(learning_rates), len(weight_decays))
  i, j = divmod(best, len(weight_decays))
  return LinearProbe(
      predicted=np.asarray(predicted, np.int32),
      learning_rate=learning_rates[i],
      weight_decay=weight_decays[j],
      validation=validation,
      at_edge=intervals.at_edge(
          validation, (i, j), grid, limits={"weight_decay": 0.0}
      ),
  )


def hold_out(
    key: jax.Array, count: int, fraction: float
) -> tuple[np.ndarray, np.ndarray]:
  """Splits examples at random into a held-out part and a part to train on.

  Args:
    key: A PRNG key.
    count: Number of examples.
    fraction: Share that is held out, in (0, 1).

  Returns:
    The indices of both parts.

  Raises:
    ValueError: If either part would be empty.
  """
  held = round(fraction * count)
  if not 0 < held < count:
    raise ValueError(
        f"validation_fraction is {fraction}, which leaves {held} of {count}"
        f" features to choose a setting by and {count - held} to train on;"
        " expected at least one of each."
    )
  order = np.asarray(jax.random.permutation(key, count))
  return order[:held], order[held:]


def make_grid(
    learning_rates: Sequence[float], weight_decays: Sequence[float]
) -> np.ndarray:
  """Returns all pairs of a learning rate and a weight decay, float32 `[2, S]`.

  Raises:
    ValueError: If one of them is negative or not finite.
  """
  for rate in learning_rates:
    check_not_negative(learning_rates=rate)
  for decay in weight_decays:
    check_not_negative(weight_decays=decay)
  pairs = list(itertools.product(learning_rates, weight_decays))
  return np.asarray(pairs, np.float32).T


class Regressions(NamedTuple):
  """S logistic regressions.

  Attributes:
    kernels: One row per class, float32 `[S, K, D]`: on CPU the gradient of a
      matrix product is several times slower with one column per class.
    biases: float32 `[S, K]`.
  """

  kernels: jax.Array
  biases: jax.Array


def choose(
    probes: Regressions, features: AnyArray, labels: AnyArray
) -> tuple[int, np.ndarray]:
  """Chooses among S regressions by examples that none were trained on.

  Args:
    probes: The regressions.
    features: `[N, D]`.
    labels: int `[N]`.

  Returns:
    The index of the most accurate one, and the accuracy of each, float32 `[S]`.
    Since a held-out part is small, accuracies are often equal; then the least
    cross-entropy decides.
  """
  accuracy, cost = map(np.asarray, _held_out_scores(probes, features, labels))
  return int(np.lexsort((cost, -accuracy))[0]), accuracy


@jax.jit
def _held_out_scores(probes, features, labels):
  correct = predict(probes, features) == labels
  cost = _cross_entropy(probes, features, labels)
  return jnp.mean(correct, axis=1), jnp.mean(cost, axis=1)


def mean_and_scale(
    features: AnyArray, eps: float = 1e-6
) -> tuple[jax.Array, jax.Array]:
  """Returns the mean, and one over the deviation, of features `[M, D]`.

  Args:
    features: Features of any type.
    eps: Added to the variances.
  """
  features = jnp.asarray(features, jnp.float32)
  scale = jax.lax.rsqrt(jnp.var(features, axis=0) + eps)
  return jnp.mean(features, axis=0), scale


def normalize(
    features: AnyArray, norm: tuple[jax.Array, jax.Array]
) -> jax.Array:
  """Shifts and scales features `[N, D]` by a mean and scale `[D]`."""
  mean, scale = norm
  return (jnp.asarray(features, jnp.float32) - mean) * scale


def standardize(features: AnyArray, *others: AnyArray) -> list[jax.Array]:
  """Shifts and scales all of the features by the statistics of the first."""
  norm = mean_and_scale(features)
  return [normalize(x, norm) for x in (features, *others)]


@functools.partial(
    jax.jit, static_argnames=("num_classes", "epochs", "batch_size")
)
def fit(
    key: jax.Array,
    features: AnyArray,
    labels: AnyArray,
    learning_rates: jax.Array,
    weight_decays: jax.Array,
    *,
    num_classes: int,
    epochs: int = 100,
    batch_size: int = 256,
) -> Regressions:
  """Trains one logistic regression for each of S settings, at the same time.

  Args:
    key: A PRNG key, for the order.
    features: `[M, D]`.
    labels: int `[M]`, in [0, num_classes).
    learning_rates: `[S]`, for batches of 256.
    weight_decays: `[S]`.
    num_classes: Number of classes, K.
    epochs: Passes over the features.
    batch_size: Features per step.

  Returns:
    The regressions.
  """
  count = len(features)
  batch_size = min(batch_size, count)
  steps = count // batch_size
  rates = learning_rates * batch_size / 256
  schedule = optax.cosine_decay_schedule(1.0, epochs * steps)

  def update(carry, batch):
    state, step = carry
    state = descend(state, *batch, rates * schedule(step), weight_decays)
    return (state, step + 1), None

  def epoch(carry, key):
    # One gather per epoch, as one per step would cost more than the step.
    order = jax.random.permutation(key, count)[: steps * batch_size]
    batches = jax.tree.map(
        lambda x: x[order].reshape(steps, batch_size, *x.shape[1:]),
        (features, labels),
    )
    return jax.lax.scan(update, carry, batches)

  start = begin(len(learning_rates), features.shape[1], num_classes)
  keys = jax.random.split(key, epochs)
  ((probes, _), _), _ = jax.lax.scan(epoch, (start, 0), keys)
  return probes


# Regressions in training, and the state of their momentum.
Descent: TypeAlias = tuple[Regressions, optax.OptState]


def begin(settings: int, dim: int, num_classes: int) -> Descent:
  """Returns regressions that start at zero."""
  kernels = jnp.zeros((settings, num_classes, dim))
  probes = Regressions(kernels, jnp.zeros((settings, num_classes)))
  return probes, _MOMENTUM.init(probes)


def descend(
    state: Descent,
    features: AnyArray,
    labels: AnyArray,
    learning_rates: jax.Array,
    weight_decays: jax.Array,
) -> Descent:
  """Takes a step of SGD with momentum, on one batch for all regressions.

  Args:
    state: The regressions and their momentum.
    features: `[B, D]`.
    labels: int `[B]`.
    learning_rates: Learning rates of this step, `[S]`.
    weight_decays: `[S]`; the bias does not decay.
  """
  probes, momentum = state

  def loss(probes):
    cost = _cross_entropy(probes, features, labels)
    norms = jnp.sum(jnp.square(probes.kernels), axis=(1, 2)) / 2
    return jnp.sum(jnp.mean(cost, axis=1) + weight_decays * norms)

  def descended(x, update):
    return x - learning_rates.reshape(-1, *[1] * (x.ndim - 1)) * update

  updates, momentum = _MOMENTUM.update(jax.grad(loss)(probes), momentum)
  return jax.tree.map(descended, probes, updates), momentum


@jax.jit
def predict(probes: Regressions, features: AnyArray) -> jax.Array:
  """Classifies features `[N, D]` with every regression: int `[S, N]`."""
  return jnp.argmax(_logits(probes, features), axis=1)


def _cross_entropy(probes, features, labels):
  """Returns the cost of each regression and feature, `[S, N]`."""
  logits = _logits(probes, features)
  labels = jnp.broadcast_to(labels, (len(logits), len(labels)))
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels, axis=1)


def _logits(probes, features):
  products = jnp.einsum("skd,nd->skn", probes.kernels, features)
  return products + probes.biases[:, :, None]
