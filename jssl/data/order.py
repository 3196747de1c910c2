"""The order of the images in training: a pure function of (seed, step).

A resumed run needs no saved iterator: the batch of a step depends on its number
alone, and no permutation of the whole set is ever stored.
"""

import math

import numpy as np

_ROUNDS = 8


def steps_per_epoch(size: int, batch_size: int) -> int:
  """Returns the number of full batches per epoch; the remainder is dropped.

  Args:
    size: Number of images in the set.
    batch_size: Number of images in a batch.

  Returns:
    `size // batch_size`, at least 1.

  Raises:
    ValueError: If `batch_size` is not in [1, size].

  Example:
    >>> from jssl import data
    >>> data.steps_per_epoch(50_000, 512)
    97
  """
  if batch_size < 1:
    raise ValueError(f"batch_size is {batch_size}: it must be at least 1.")
  if size < batch_size:
    raise ValueError(
        f"The set has {size} images, fewer than one batch of {batch_size}: use"
        f" a batch_size of at most {size}, such as"
        f" {2 ** (size.bit_length() - 1)}, or a larger set."
    )
  return size // batch_size


def batch_indices(
    seed: int, step: int, *, size: int, batch_size: int
) -> np.ndarray:
  """Returns the images in the batch of a step.

  Each epoch visits the set in an order of its own, no image twice; the last
  `size % batch_size` images of that order are dropped.

  Args:
    seed: Non-negative; another seed gives another order.
    step: Number of the step, from 0 on over all epochs.
    size: Number of images in the set.
    batch_size: Number of images in the batch.

  Returns:
    int32 `[batch_size]`, in [0, size).

  Raises:
    ValueError: If `batch_size` is not in [1, size], or `step` is negative.

  Example:
    >>> import numpy as np
    >>> from jssl import data
    >>> batch = lambda step: data.batch_indices(
    ...     0, step, size=6, batch_size=2
    ... )
    >>> batches = [batch(0), batch(1), batch(2)]
    >>> sorted(np.concatenate(batches).tolist())  # An epoch.
    [0, 1, 2, 3, 4, 5]
  """
  if step < 0:
    raise ValueError(f"step is {step}: steps are counted from 0 on.")
  epoch, batch = divmod(step, steps_per_epoch(size, batch_size))
  positions = np.arange(batch * batch_size, (batch + 1) * batch_size)
  # NumPy promises that these stay the same.
  keys = np.random.SeedSequence((seed, epoch)).generate_state(
      _ROUNDS, np.uint64
  )
  return _permute(positions, size, keys)


def _permute(positions: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
  """Maps positions to their values in a keyed permutation of `range(size)`.

  A cipher on the grid of about sqrt(size) by sqrt(size) permutes its cells; a
  value past the end is enciphered again until it falls inside (Black and
  Rogaway, "Ciphers with arbitrary finite domains", 2002). Integers only, so
  the result is the same on every machine, and costs no more than the batch.
  """
  rows = math.isqrt(size - 1) + 1
  columns = -(-size // rows)
  values = positions.astype(np.uint64)
  outside = np.arange(len(values))
  while outside.size:
    values[outside] = _encipher(values[outside], rows, columns, keys)
    outside = outside[values[outside] >= size]
  return values.astype(np.int32)


def _encipher(
    values: np.ndarray, rows: int, columns: int, keys: np.ndarray
) -> np.ndarray:
  """Permutes `range(rows * columns)`: each half is shifted by the other's."""
  row, column = np.divmod(values, np.uint64(columns))
  for i in range(0, len(keys), 2):
    row = (row + _mix(column ^ keys[i])) % np.uint64(rows)
    column = (column + _mix(row ^ keys[i + 1])) % np.uint64(columns)
  return row * np.uint64(columns) + column


def _mix(words: np.ndarray) -> np.ndarray:
  """Returns 32 mixed bits per word (SplitMix64), so sums never overflow."""
  words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return words >> np.uint64(32)
