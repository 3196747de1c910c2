"""The order of images: a pure, pinned function of (seed, step)."""

import numpy as np
import pytest

from jssl.data import batch_indices, steps_per_epoch


def epoch_order(seed, epoch, size):
  """The whole order of an epoch: its only batch."""
  return batch_indices(seed, epoch, size=size, batch_size=size)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 97, 1797, 50_000])
def test_epoch_is_a_permutation(size):
  order = epoch_order(3, 1, size)
  assert order.dtype == np.int32
  np.testing.assert_array_equal(np.sort(order), np.arange(size))


def test_values_are_pinned():
  # A change here changes the order of every run that is resumed.
  assert epoch_order(0, 0, 10).tolist() == [3, 2, 4, 5, 7, 1, 0, 8, 9, 6]
  batch = batch_indices(7, 12345, size=50_000, batch_size=4)
  assert batch.tolist() == [47430, 39552, 8715, 4629]


def test_batches_are_slices_of_the_epoch_and_drop_the_rest():
  size, batch_size = 103, 10
  assert steps_per_epoch(size, batch_size) == 10
  for epoch in range(2):
    steps = range(10 * epoch, 10 * epoch + 10)
    batches = [
        batch_indices(5, step, size=size, batch_size=batch_size)
        for step in steps
    ]
    seen = np.concatenate(batches)
    assert seen.dtype == np.int32
    np.testing.assert_array_equal(seen, epoch_order(5, epoch, size)[:100])
    assert len(set(seen.tolist())) == 100


def test_a_batch_does_not_depend_on_the_steps_before_it():
  late = batch_indices(1, 99, size=64, batch_size=16)
  for step in range(99):
    batch_indices(1, step, size=64, batch_size=16)
  again = batch_indices(1, 99, size=64, batch_size=16)
  np.testing.assert_array_equal(late, again)


def test_epochs_and_seeds_differ():
  orders = {
      epoch_order(seed, epoch, 200).tobytes()
      for seed in range(5)
      for epoch in range(5)
  }
  assert len(orders) == 25


def test_orders_look_random():
  size, epochs = 500, 2000
  orders = np.stack([epoch_order(0, epoch, size) for epoch in range(epochs)])
  # A random permutation has one fixed point on average, with variance one.
  fixed = (orders == np.arange(size)).sum(axis=1)
  assert abs(fixed.mean() - 1) < 0.1 and abs(fixed.var() - 1) < 0.2
  # Each image is as likely as any other in the first place ...
  counts = np.bincount(orders[:, 0], minlength=size)
  assert abs(((counts - 4) ** 2 / 4).mean() - 1) < 0.25
  # ... and as the one that follows a given image.
  steps = np.bincount((np.diff(orders) % size).ravel(), minlength=size)[1:]
  assert abs(((steps - steps.mean()) ** 2 / steps.mean()).mean() - 1) < 0.25


def test_a_set_smaller_than_a_batch_is_refused():
  for call in (
      lambda: steps_per_epoch(100, 128),
      lambda: batch_indices(0, 0, size=100, batch_size=128),
  ):
    with pytest.raises(ValueError, match="100 images.*128.*at most 100, .*64,"):
      call()
  assert steps_per_epoch(128, 128) == 1


def test_senseless_numbers_are_refused():
  with pytest.raises(ValueError, match="batch_size is 0"):
    steps_per_epoch(100, 0)
  with pytest.raises(ValueError, match="step is -1"):
    batch_indices(0, -1, size=100, batch_size=10)
