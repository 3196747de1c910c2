"""Training the encoder itself, with labels."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.evals.fine_tune import fine_tune
import tiny

NET = tiny.Net(grid=2)
CLASSES = 4


def _quadrants(count, seed):
  """Noise that is brighter in the quadrant of the label."""
  random = np.random.default_rng(seed)
  images = random.uniform(0, 150, (count, 8, 8, 3))
  labels = np.arange(count) % CLASSES
  for image, label in zip(images, labels):
    row, column = divmod(label, 2)
    image[4 * row :, 4 * column :][:4, :4] += 60
  return np.uint8(images), labels


@functools.cache
def _variables():
  return NET.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


def _encode(variables, images, *, key=None):
  features, new = NET.apply(
      variables, images, train=key is not None, mutable=["batch_stats"]
  )
  return features["pooled"], new["batch_stats"]


def _tune(key=0, encode=_encode, count=64, variables=None, arrays=(), **more):
  images, labels = _quadrants(count, seed=0)
  settings = dict(epochs=30, batch_size=16, learning_rate=0.01)
  return fine_tune(
      jax.random.key(key),
      encode,
      variables or _variables(),
      {"image": images, "label": labels, **dict(arrays)},
      num_classes=CLASSES,
      **dict(augment=tiny.plain) | settings | more,
  )


def test_a_tuned_encoder_classifies_held_out_images():
  before = jax.tree.map(np.array, _variables())
  classify = _tune()
  images, labels = _quadrants(200, seed=1)
  logits = classify(images / np.float32(255))
  assert logits.shape == (200, CLASSES)
  assert np.mean(np.argmax(logits, axis=-1) == labels) > 0.9
  # The caller's variables are unchanged.
  jax.tree.map(np.testing.assert_array_equal, before, _variables())


def test_gradients_reach_the_encoder():
  # The only feature is the sum, which does not distinguish quadrants unless
  # the encoder changes.
  class Weighted(nn.Module):

    @nn.compact
    def __call__(self, images):
      pixels = images.reshape(len(images), -1)
      return nn.Dense(CLASSES, kernel_init=nn.initializers.ones)(pixels)

  net = Weighted()
  params = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  images, labels = _quadrants(64, seed=0)
  free = lambda variables, x, key=None: (net.apply(variables, x), {})
  frozen = lambda *args, **more: jax.lax.stop_gradient(free(*args, **more))
  tune = lambda encode: _tune(
      encode=encode, variables=params, epochs=60, learning_rate=0.03
  )
  accuracy = lambda classify: np.mean(
      np.argmax(classify(images / np.float32(255)), axis=-1) == labels
  )
  assert accuracy(tune(frozen)) < 0.5
  assert accuracy(tune(free)) > 0.9


def test_the_key_decides():
  images = jnp.asarray(_quadrants(8, seed=1)[0] / np.float32(255))
  one, again, other = (_tune(key, epochs=1)(images) for key in (0, 0, 1))
  np.testing.assert_array_equal(one, again)
  assert np.max(np.abs(one - other)) > 1e-4


def test_fewer_images_than_a_batch_are_one_batch():
  images, _ = _quadrants(4, seed=0)
  classify = _tune(count=4, epochs=2)
  assert classify(images / np.float32(255)).shape == (4, CLASSES)


def test_batch_norm_uses_the_batch_if_images_fill_one():
  seen = []

  def encode(variables, images, *, key=None):
    seen.append(key is not None)
    return _encode(variables, images, key=key)

  # In the end, the running statistics are those of the images.
  images, _ = _quadrants(64, seed=0)
  classify = _tune(encode=encode, batch_size=16)
  assert all(seen)
  classify(images[:2] / np.float32(255))
  assert not seen[-1]
  seen.clear()
  _tune(encode=encode, batch_size=65, epochs=1)
  assert not any(seen)


def test_running_statistics_move_towards_those_of_the_images():
  images, _ = _quadrants(64, seed=0)
  images = images / np.float32(255)
  # Nothing but the statistics changes.
  still = _tune(epochs=1, learning_rate=0.0, batch_size=16)
  weights, statistics, _ = still.args
  jax.tree.map(
      np.testing.assert_array_equal, weights["encoder"], _variables()["params"]
  )
  moments = NET.apply(
      _variables(), images, train=True, mutable=["batch_stats"]
  )[1]["batch_stats"]
  norm, start = "BatchNorm_0", _variables()["batch_stats"]
  # Four batches: 0.9 ** 4 of the start remains; of a batch alone, 0.9.
  mean = (moments[norm]["mean"] - 0.9 * start[norm]["mean"]) / 0.1
  expected = 0.9**4 * start[norm]["mean"] + (1 - 0.9**4) * mean
  np.testing.assert_allclose(statistics[norm]["mean"], expected, atol=0.01)
  assert np.max(np.abs(mean)) > 0.1


def test_extents_reach_the_augmentation():
  seen = []

  def recipe(key, image, *, extent):
    del key
    seen.append(extent.shape)
    return image * extent[0] / 8

  extents = {"extent": np.full((16, 2), 8)}
  _tune(count=16, arrays=extents, augment=recipe, epochs=1)
  assert set(seen) == {(2,)}


def test_images_without_a_label_are_refused():
  labels = np.where(np.arange(16) == 3, -1, np.arange(16) % CLASSES)
  with pytest.raises(ValueError, match="1 of 16 labels are below 0"):
    _tune(count=16, arrays={"label": labels})


def test_a_negative_learning_rate_is_refused():
  with pytest.raises(ValueError, match="learning_rate is -0.1; expected"):
    _tune(learning_rate=-0.1)
