"""What the tests of methods that paint whole images share."""

import jax
import numpy as np
from sklearn import datasets

from jssl import optim
from jssl.methods import _one_net
from jssl.step import make_step
import tiny


def images(count, seed=0, *, side):
  """Noise, float32 `[count, side, side, 3]` in [0, 1]."""
  random = np.random.default_rng(seed)
  return np.float32(random.uniform(0, 1, (count, side, side, 3)))


def criterion(monkeypatch, make):
  """The function of a prediction that the loss of `make()` is."""
  made = {}
  keep = lambda module, views, criterion, **_: made.update(it=criterion)
  with monkeypatch.context() as patch:
    patch.setattr(_one_net, "make", keep)
    make()
  return made["it"]


def _digits():
  """Scans of digits, 1,400 to train on and 397 others, of 16 x 16 pixels."""
  images = datasets.load_digits().images / 16
  images = np.random.default_rng(0).permutation(np.float32(images))
  images = np.repeat(np.repeat(images, 2, axis=1), 2, axis=2)[..., None]
  return images[:1400], images[1400:]


def train_on_digits(method):
  """Trains for 100 steps: parameters, what is carried, views of others."""
  train, test = _digits()
  optimizer = optim.adamw(1e-2, weight_decay=1e-4)
  step = jax.jit(make_step(method, optimizer))
  random = np.random.default_rng(1)
  state = tiny.start(method, optimizer, {"image": train[:32]})
  for _ in range(100):
    batch = {"image": train[random.integers(0, len(train), 32)]}
    state, _ = step(state, batch)
  views = method.views(jax.random.key(3), {"image": test})
  return state.params, state.carried, views
