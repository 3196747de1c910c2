"""Few-shot classification."""

import jax
import numpy as np
import pytest

from jssl import evals
from jssl.config import ConfigDict
from jssl.data import Images
from jssl.evals import scores
from jssl.evals.features import Features
from jssl.evals.few_shot import only_present

CLASSES = 4
KEY = jax.random.key(0)


def _labels(count):
  return np.random.default_rng(1).permutation(np.arange(count) % CLASSES)


def _clusters(labels, seed=0):
  random = np.random.default_rng(seed)
  centres = 5 * np.eye(CLASSES, 8)
  noise = random.normal(size=(len(labels), 8))
  return (centres[labels] + 0.2 * noise).astype(np.float32)


def _noise(count, seed=0):
  random = np.random.default_rng(seed)
  return random.normal(size=(count, 8)).astype(np.float32)


@pytest.mark.parametrize("shots", [1, 5])
def test_separate_clusters_are_classified_correctly(shots):
  labels = _labels(40)
  accuracies = evals.few_shot(
      KEY,
      _clusters(labels),
      labels,
      _clusters(labels, seed=2),
      labels,
      shots=shots,
      draws=3,
      num_classes=CLASSES,
  )
  assert accuracies.shape == (3,) and accuracies.dtype == np.float32
  np.testing.assert_array_equal(accuracies, 1.0)


def test_noise_gives_chance():
  labels = _labels(400)
  accuracies = evals.few_shot(
      KEY,
      _noise(400),
      labels,
      _noise(400, seed=2),
      labels,
      shots=5,
      num_classes=CLASSES,
  )
  assert accuracies.shape == (10,)
  # One standard deviation of the mean is less than 0.01.
  assert abs(np.mean(accuracies) - 1 / CLASSES) < 0.04


def test_a_draw_takes_the_shots_of_every_class():
  """Features are one-hot by image, so a mean shows which images were drawn."""
  labels = np.asarray([0, 1, 1, 0, 2, 2, 1, 0, 2, 2])
  features = np.eye(10, dtype=np.float32)
  draws, shots = 40, 2
  accuracies = evals.few_shot(
      KEY,
      features,
      labels,
      features,
      labels,
      shots=shots,
      draws=draws,
      num_classes=3,
  )
  # An image that was drawn is nearest to its class's mean. One that was not is
  # at 0 from every mean and gets class 0: right for the third image of class 0.
  np.testing.assert_allclose(accuracies, 7 / 10, rtol=1e-6)


def test_with_all_images_as_shots_a_draw_is_the_class_mean():
  labels, test_labels = _labels(40), _labels(200)
  features, test_features = _noise(40), _noise(200, seed=2)
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  means = unit(
      np.stack([unit(features)[labels == c].mean(0) for c in range(CLASSES)])
  )
  predicted = np.argmax(unit(test_features) @ means.T, axis=-1)
  accuracies = evals.few_shot(
      KEY,
      features,
      labels,
      test_features,
      test_labels,
      shots=10,
      draws=2,
      num_classes=CLASSES,
  )
  np.testing.assert_allclose(
      accuracies, np.mean(predicted == test_labels), rtol=1e-6
  )


def test_the_key_decides_the_draws():
  labels = _labels(80)
  run = lambda key: evals.few_shot(
      key,
      _noise(80),
      labels,
      _noise(80, seed=2),
      labels,
      shots=1,
      num_classes=CLASSES,
  )
  np.testing.assert_array_equal(run(KEY), run(jax.random.key(0)))
  assert np.any(run(KEY) != run(jax.random.key(1)))
  # Draws of one key differ too.
  assert len(np.unique(run(KEY))) > 1


@pytest.mark.parametrize("of", [1, 3])
def test_labels_of_no_class_are_refused(of):
  labels = _labels(40)
  inputs = [_noise(40), labels, _noise(40), labels]
  inputs[of] = np.where(np.arange(40) == 5, -1, labels)
  with pytest.raises(ValueError, match="1 of 40 (test )?labels are below 0"):
    evals.few_shot(KEY, *inputs, shots=1, num_classes=CLASSES)


def test_a_class_with_too_few_images_is_refused():
  labels = np.asarray([0, 0, 0, 1, 1, 2, 2, 2])
  features = _noise(8)
  with pytest.raises(ValueError, match="Class 1 has 2 images, fewer than 3"):
    evals.few_shot(
        KEY, features, labels, features, labels, shots=3, num_classes=3
    )
  with pytest.raises(ValueError, match="Class 3 has 0 images"):
    evals.few_shot(
        KEY, features, labels, features, labels, shots=1, num_classes=4
    )


def test_a_class_without_labelled_images_is_never_predicted():
  # Classes 0 and 2 of four; the test images are of all.
  labels, test_labels = np.array([2, 0, 2, 0]), np.array([0, 1, 2, 3, 3])
  present, numbered, test_numbered = only_present(labels, test_labels)
  np.testing.assert_array_equal(present, [0, 2])
  np.testing.assert_array_equal(numbered, [1, 0, 1, 0])
  np.testing.assert_array_equal(test_numbered, [0, 2, 1, 2, 2])
  accuracies = evals.few_shot(
      KEY,
      np.eye(4, dtype=np.float32)[labels],
      numbered,
      np.eye(4, dtype=np.float32)[test_labels],
      test_numbered,
      shots=2,
      num_classes=2,
  )
  np.testing.assert_allclose(accuracies, 2 / 5, rtol=1e-6)


@pytest.mark.slow
def test_summaries_are_of_the_classes_with_labelled_images():
  labels, test_labels = np.array([2, 0, 2, 0]), np.array([0, 1, 2, 3, -1])
  images = lambda labels: Images(
      image=np.zeros((len(labels), 1, 1, 1), np.uint8),
      label=labels,
      extent=None,
      classes=("a", "b", "c", "d"),
      skipped=(),
  )
  found = scores.summarize(
      Features(
          {"pooled": np.eye(4, dtype=np.float32)[labels]},
          {"pooled": np.eye(4, dtype=np.float32)[test_labels]},
      ),
      images(labels),
      images(test_labels),
      ConfigDict(dict(k=20, temperature=0.1)),
  )
  assert found["one_shot"] == found["knn"] == 0.5
  assert found["five_shot"] is None
