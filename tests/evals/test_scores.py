"""The number of neighbours that vote in kNN."""

import numpy as np
import pytest

from jssl.evals import scores
from jssl.evals.features import Labelled

# One large class and one small one.
UNBALANCED = np.repeat([0, 3], [60, 6])


@pytest.mark.parametrize(
    "counts,expected",
    [
        ((5000,) * 10, 200),  # CIFAR-10
        ((732, 1300), 200),  # ImageNet's smallest and largest class
        ((200, 201), 200),
        ((199, 5000), 199),
        ((60, 6), 6),
        ((1, 9), 1),
        ((7,), 7),
    ],
)
def test_k_is_200_or_the_size_of_the_smallest_class(counts, expected):
  assert scores.choose_k(0, np.repeat(np.arange(len(counts)), counts)) == (
      expected
  )


def test_classes_without_images_do_not_count():
  assert scores.choose_k(0, UNBALANCED) == 6


@pytest.mark.parametrize("k,expected", [(1, 1), (20, 20), (66, 66), (200, 66)])
def test_a_k_that_is_set_is_used(k, expected):
  assert scores.choose_k(k, UNBALANCED) == expected


def _features(k):
  """Accuracy on each class, of features that are all nearly parallel."""
  random = np.random.default_rng(0)
  label = np.concatenate([UNBALANCED, np.repeat([0, 3], 20)])
  rows = random.normal(0, 0.1, (len(label), 8))
  rows[:, 0] += 3
  rows[:, 1] += np.where(label == 3, 0.5, -0.5)
  rows, tested = np.split(np.float32(rows), [len(UNBALANCED)])
  label, true = np.split(label, [len(UNBALANCED)])
  pair = Labelled(rows, label, tested, true, ("a", "b", "c", "d"))
  correct = scores.nearest_classes(pair, k=k, temperature=0.1) == true
  return correct[true == 0].mean(), correct[true == 3].mean()


def test_a_small_class_is_not_outvoted():
  assert _features(0) == (1.0, 1.0)
  assert _features(200) == (1.0, 0.0)
