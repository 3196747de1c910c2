"""Orders of nine tiles."""

import importlib.resources

import numpy as np
import pytest

from jssl.methods import _permutations


def _distances(orders):
  """Hamming distances of all pairs, in one row."""
  apart = np.sum(orders[:, None] != orders, axis=-1)
  return apart[np.triu_indices(len(orders), 1)]


def _chance(count):
  """As many permutations, each drawn for itself."""
  random = np.random.default_rng(0)
  return np.stack([random.permutation(9) for _ in range(count)])


def test_a_thousand_different_permutations_are_stored():
  orders = _permutations.load(1000)
  assert orders.shape == (1000, 9) and orders.dtype == np.int32
  in_order = np.broadcast_to(np.arange(9), (1000, 9))
  np.testing.assert_array_equal(np.sort(orders, axis=1), in_order)
  assert len(np.unique(orders, axis=0)) == 1000
  # There are no more that `load` would not give.
  path = importlib.resources.files("jssl.methods") / "permutations.npy"
  with path.open("rb") as file:
    assert np.load(file).shape == (1000, 9)


@pytest.mark.parametrize("count", [2, 100])
def test_fewer_are_the_first_of_all(count):
  expected = _permutations.load(1000)[:count]
  np.testing.assert_array_equal(_permutations.load(count), expected)


def test_the_stored_are_those_that_are_generated():
  # All of them take ten seconds or so; each one depends on all before.
  actual = _permutations.generate(20)
  np.testing.assert_array_equal(actual, _permutations.load(20))


def test_another_seed_generates_others():
  actual = _permutations.generate(3, seed=1)
  assert not np.any(np.all(actual == _permutations.load(3), axis=1))


# How far two of them are apart at least; drawn by chance, some are closer.
@pytest.mark.parametrize("count,nearest", [(2, 9), (9, 9), (100, 6), (1000, 5)])
def test_permutations_are_far_apart(count, nearest):
  assert _distances(_permutations.load(count)).min() == nearest


@pytest.mark.parametrize("count", [9, 100, 1000])
def test_permutations_are_farther_apart_than_by_chance(count):
  chosen = _distances(_permutations.load(count))
  assert chosen.min() >= _distances(_chance(count)).min() + 2


@pytest.mark.parametrize("count", [-1, 0, 1, 1001])
def test_other_numbers_of_permutations_are_refused(count):
  message = f"permutations is {count}; expected 2 to 1000"
  with pytest.raises(ValueError, match=message):
    _permutations.load(count)
