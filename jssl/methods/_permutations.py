"""Permutations of nine tiles that are as different as possible.

`permutations.npy` holds `generate(1000)`, which starts with `generate(100)`.
"""

import importlib.resources
import itertools

import numpy as np

SEED = 0
_TILES = 9
_COUNT = 1000


def load(count: int) -> np.ndarray:
  """Returns the first `count` stored permutations, int `[count, 9]`.

  Raises:
    ValueError: If the count is not from 2 to 1,000.
  """
  if not 2 <= count <= _COUNT:
    raise ValueError(
        f"permutations is {count}; expected 2 to {_COUNT}, the number that is"
        " stored."
    )
  path = importlib.resources.files("jssl.methods") / "permutations.npy"
  with path.open("rb") as file:
    return np.load(file)[:count].astype(np.int32)


def generate(count: int, *, seed: int = SEED) -> np.ndarray:
  """Chooses permutations greedily by their Hamming distance.

  Each has the largest distance from the nearest one chosen before it; ties are
  broken by the mean distance from all of them, then at random.

  Args:
    count: Number of permutations.
    seed: Seed of the first permutation and of the ties.

  Returns:
    uint8 `[count, 9]`.

  Reference:
    Noroozi and Favaro, Unsupervised Learning of Visual Representations by
    Solving Jigsaw Puzzles, 2016, algorithm 1, which takes the mean distance
    alone, and so also accepts similar permutations.
  """
  random = np.random.default_rng(seed)
  everything = np.array(
      list(itertools.permutations(range(_TILES))), dtype=np.uint8
  )
  random.shuffle(everything)  # Among ties, argmax takes the first.
  chosen = [0]
  nearest = np.full(len(everything), _TILES, np.int64)
  total = np.zeros(len(everything), np.int64)
  while len(chosen) < count:
    distance = np.sum(everything != everything[chosen[-1]], axis=1)
    nearest = np.minimum(nearest, distance)
    total += distance
    chosen.append(int(np.argmax(nearest * _TILES * _COUNT + total)))
  return everything[chosen]
