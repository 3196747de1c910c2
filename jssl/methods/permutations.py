"""Orders of nine tiles that differ as much as they can.

`permutations.npy` holds what `generate(1000)` makes; the first hundred are what
`generate(100)` makes.
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
    ValueError: If there are not so many, or fewer than two are asked for.
  """
  if not 2 <= count <= _COUNT:
    raise ValueError(
        f"permutations is {count}; expected 2 to {_COUNT}, of which chance"
        " guesses one."
    )
  path = importlib.resources.files("jssl.methods") / "permutations.npy"
  with path.open("rb") as file:
    return np.load(file)[:count].astype(np.int32)


def generate(count: int, *, seed: int = SEED) -> np.ndarray:
  """Chooses permutations greedily by their Hamming distance.

  Each next one is as far as can be from the nearest chosen before, then from
  all of them on average; chance decides between equals.

  Args:
    count: Number of permutations.
    seed: Of the first one, and of what chance decides.

  Returns:
    uint8 `[count, 9]`.

  Reference:
    Noroozi and Favaro, Unsupervised Learning of Visual Representations by
    Solving Jigsaw Puzzles, 2016, algorithm 1, which looks at the average alone
    and so takes close ones too.
  """
  random = np.random.default_rng(seed)
  everything = np.array(
      list(itertools.permutations(range(_TILES))), dtype=np.uint8
  )
  random.shuffle(everything)  # Of equals, the first is taken.
  chosen = [0]
  nearest = np.full(len(everything), _TILES, np.int64)
  total = np.zeros(len(everything), np.int64)
  while len(chosen) < count:
    distance = np.sum(everything != everything[chosen[-1]], axis=1)
    nearest = np.minimum(nearest, distance)
    total += distance
    chosen.append(int(np.argmax(nearest * _TILES * _COUNT + total)))
  return everything[chosen]
