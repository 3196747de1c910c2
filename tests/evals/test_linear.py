"""The linear probe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from jssl import evals
from jssl.evals import linear

CLASSES = 10


@pytest.fixture(scope="module")
def digits():
  """Pixels as features: training and test features and labels."""
  pixels, labels = load_digits(return_X_y=True)
  order = np.random.default_rng(0).permutation(len(pixels))
  pixels, labels = np.float32(pixels[order]), labels[order]
  return pixels[:1000], labels[:1000], pixels[1000:], labels[1000:]


def _probe(digits, **settings):
  features, labels, test_features, _ = digits
  return evals.linear_probe(
      jax.random.key(0),
      features,
      labels,
      test_features,
      num_classes=CLASSES,
      **settings,
  )


def _blobs(count, dim=5, classes=3, seed=0):
  """Well separated classes."""
  random = np.random.default_rng(seed)
  labels = np.arange(count) % classes
  centers = 10 * np.eye(classes, dim)
  return np.float32(centers[labels] + random.normal(size=(count, dim))), labels


@pytest.mark.parametrize("decay", [0.01, 0.1])
def test_a_probe_agrees_with_scikit_learn_at_the_optimum(digits, decay):
  features, labels, test_features, test_labels = digits
  features, test_features = linear.standardize(features, test_features)
  # Full batches, so that it ends at the optimum itself.
  probes = linear.fit(
      jax.random.key(0),
      features,
      jnp.asarray(labels),
      jnp.array([0.25]),
      jnp.array([decay]),
      num_classes=CLASSES,
      epochs=2000,
      batch_size=len(features),
  )
  model = LogisticRegression(
      C=1 / (decay * len(features)), max_iter=10_000, tol=1e-8
  )
  model.fit(features, labels)
  np.testing.assert_allclose(probes.kernels[0], model.coef_, atol=2e-3)
  (predicted,) = linear.predict(probes, test_features)
  accuracy = np.mean(np.asarray(predicted) == test_labels)
  assert abs(accuracy - model.score(test_features, test_labels)) < 0.005


def test_small_batches_agree_with_scikit_learn_in_accuracy(digits):
  features, labels, test_features, test_labels = digits
  probe = _probe(digits, weight_decays=(0.01,))
  features, test_features = linear.standardize(features, test_features)
  model = LogisticRegression(C=1 / (0.01 * len(features)), max_iter=2000)
  expected = model.fit(features, labels).score(test_features, test_labels)
  assert abs(np.mean(probe.predicted == test_labels) - expected) < 0.005
  assert probe.predicted.dtype == np.int32


def test_settings_do_not_touch_each_other(digits):
  features, labels, _, _ = digits
  (features,) = linear.standardize(features)
  train = lambda rates, decays: linear.fit(
      jax.random.key(3),
      features,
      jnp.asarray(labels),
      jnp.array(rates),
      jnp.array(decays),
      num_classes=CLASSES,
      epochs=3,
      batch_size=64,
  )
  together = train([0.1, 1.0, 0.1], [0.0, 0.0, 0.1])
  settings = ([0.1], [0.0]), ([1.0], [0.0]), ([0.1], [0.1])
  for i, setting in enumerate(settings):
    alone = train(*setting)
    for one, many in zip(alone, together, strict=True):
      np.testing.assert_allclose(many[i], one[0], atol=1e-4)
  assert np.max(np.abs(together.kernels[0] - together.kernels[2])) > 0.01


def test_decay_spares_the_bias():
  # All but one are of one class, which only the bias can express.
  features = jnp.zeros((64, 2))
  labels = jnp.zeros(64, jnp.int32).at[0].set(1)
  probes = linear.fit(
      jax.random.key(0),
      features,
      labels,
      jnp.array([1.0]),
      jnp.array([10.0]),
      num_classes=2,
      epochs=400,
      batch_size=64,
  )
  np.testing.assert_allclose(probes.kernels, 0, atol=1e-6)
  ((first, second),) = probes.biases
  np.testing.assert_allclose(first - second, np.log(63), rtol=0.1)


def test_the_best_setting_on_held_out_features_is_chosen(digits):
  probe = _probe(
      digits,
      learning_rates=(1e-9, 0.1),  # The first does no more than class means.
      weight_decays=(1e3, 1e-9),  # The first diverges.
      epochs=20,
  )
  assert probe.validation.shape == (2, 2)
  assert (probe.learning_rate, probe.weight_decay) == (0.1, 1e-9)
  assert probe.validation[1, 1] == probe.validation.max()
  assert probe.validation[0, 1] < probe.validation[1, 1]
  assert probe.validation[1, 0] < 0.5
  assert np.mean(probe.predicted == digits[-1]) > 0.93


def test_of_equally_accurate_settings_the_most_confident_is_chosen():
  features = jnp.array([[1.0], [2.0], [-1.0], [-3.0]])
  labels = jnp.array([0, 0, 1, 1])
  kernel = lambda weight: [[weight], [-weight]]
  wrong, shy, sure = kernel(-9.0), kernel(0.1), kernel(2.0)
  gone = kernel(np.nan)
  kernels = jnp.array([gone, wrong, shy, sure, shy])
  probes = linear.Regressions(kernels, jnp.zeros(kernels.shape[:2]))
  best, accuracy = linear.choose(probes, features, labels)
  assert best == 3
  np.testing.assert_array_equal(accuracy[1:], [0, 1, 1, 1])


def test_noise_is_chance():
  random = np.random.default_rng(0)
  features = random.normal(size=(2000, 8)).astype(np.float32)
  labels = random.integers(0, 4, 2000)
  probe = evals.linear_probe(
      jax.random.key(0),
      features[:1000],
      labels[:1000],
      features[1000:],
      num_classes=4,
      epochs=10,
  )
  accuracy = np.mean(probe.predicted == labels[1000:])
  assert abs(accuracy - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 1000)


def test_scale_and_shift_of_features_do_not_matter():
  features, labels = _blobs(200, seed=1)
  scale = np.float32([1, 1e3, 1e-2, 5, 1])
  arguments = dict(num_classes=3, epochs=5)
  one = evals.linear_probe(
      jax.random.key(0), features, labels, features, **arguments
  )
  other = features * scale + 7
  two = evals.linear_probe(jax.random.key(0), other, labels, other, **arguments)
  np.testing.assert_array_equal(one.predicted, two.predicted)


def test_shapes_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match=r"features \(4, 2\), labels \(3,\)"):
    evals.linear_probe(
        jax.random.key(0),
        np.zeros((4, 2)),
        np.zeros(3, int),
        np.zeros((4, 2)),
        num_classes=2,
    )


@pytest.mark.parametrize("fraction", [0.0, 1.0, 0.01])
def test_a_held_out_part_is_needed(fraction):
  features, labels = _blobs(30)
  with pytest.raises(ValueError, match=f"validation_fraction is {fraction}"):
    evals.linear_probe(
        jax.random.key(0),
        features,
        labels,
        features,
        num_classes=3,
        validation_fraction=fraction,
    )


def test_a_setting_at_the_edge_of_the_grid_is_named():
  accuracy = np.full((3, 2), 0.5)
  accuracy[2, 0] = 0.9
  make = lambda accuracy: linear.make_probe(
      np.zeros(4, int),
      int(np.argmax(accuracy)),
      accuracy.ravel(),
      (0.1, 1.0, 10.0),
      (0.0, 0.1),
  )
  probe = make(accuracy)
  assert (probe.learning_rate, probe.weight_decay) == (10.0, 0.0)
  assert probe.at_edge == ("learning_rate",)
  np.testing.assert_array_equal(probe.validation, accuracy)
  inside = make(accuracy[[0, 2, 1]])
  assert inside.learning_rate == 1.0 and inside.at_edge == ()


def test_the_grid_reaches_beyond_the_chosen_setting(digits):
  probe = _probe(digits)
  assert probe.at_edge == ()
  shape = len(linear.LEARNING_RATES), len(linear.WEIGHT_DECAYS)
  assert probe.validation.shape == shape


def test_images_without_a_label_are_refused():
  features, labels = _blobs(60)
  labels = np.where(np.arange(60) < 2, -1, labels)
  with pytest.raises(ValueError, match="2 of 60 labels are below 0"):
    evals.linear_probe(
        jax.random.key(0), features, labels, features, num_classes=3
    )


@pytest.mark.parametrize(
    "arguments",
    [{"learning_rates": (0.1, -0.1)}, {"weight_decays": (-1e-4,)}],
)
def test_a_negative_setting_is_refused(arguments):
  settings = {"learning_rates": (0.1,), "weight_decays": (0.0,)} | arguments
  ((name, values),) = arguments.items()
  with pytest.raises(ValueError, match=f"{name} is {values[-1]}; expected"):
    linear.make_grid(**settings)
