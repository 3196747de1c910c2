"""Training the encoder itself, with labels."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jssl.evals import fine_tune as tuning
import tiny

NET = tiny.Net(grid=2)
CLASSES = 4


def _quadrants(count, seed):
  """Noise that is brighter in the quadrant that the label names."""
  random = np.random.default_rng(seed)
  images = random.uniform(0, 150, (count, 8, 8, 3))
  labels = np.arange(count) % CLASSES
  for image, label in zip(images, labels):
    row, column = divmod(label, 2)
    image[4 * row :, 4 * column :][:4, :4] += 60
  return np.uint8(images), labels


@functools.cache
def _params():
  variables = NET.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  carried = {"batch_stats": variables["batch_stats"], "pointer": jnp.int32(3)}
  return variables["params"], carried


def _encode(params, images):
  params, carried = params
  variables = {"params": params, "batch_stats": carried["batch_stats"]}
  return NET.apply(variables, images)["pooled"]


def _tune(key=0, encode=_encode, **arguments):
  images, labels = _quadrants(64, seed=0)
  arguments = dict(epochs=30, batch_size=16, learning_rate=0.01) | arguments
  return tuning.fine_tune(
      jax.random.key(key),
      encode,
      _params(),
      images,
      labels,
      num_classes=CLASSES,
      augment=tiny.plain,
      **arguments,
  )


def test_splitting_keeps_statistics_and_integers_aside():
  weights, fixed = tuning.split(_params())
  assert sorted(weights) == sorted(
      f"[0]{jax.tree_util.keystr(path)}"
      for path, _ in jax.tree_util.tree_leaves_with_path(_params()[0])
  )
  assert len(jax.tree.leaves(fixed)) == 3  # Mean, variance, pointer.
  joined = tuning.join(weights, fixed)
  jax.tree.map(np.testing.assert_array_equal, joined, _params())
  assert jax.tree.structure(joined) == jax.tree.structure(_params())


def test_a_tuned_encoder_knows_images_that_it_has_not_seen():
  before = jax.tree.map(np.array, _params())
  classify = _tune()
  images, labels = _quadrants(200, seed=1)
  logits = classify(images / np.float32(255))
  assert logits.shape == (200, CLASSES)
  assert np.mean(np.argmax(logits, axis=-1) == labels) > 0.9
  # What was given is as it was.
  jax.tree.map(np.testing.assert_array_equal, before, _params())


def test_gradients_reach_the_encoder():
  # From features of one number, the sum, quadrants cannot be told apart
  # unless the encoder changes.
  class Weighted(nn.Module):

    @nn.compact
    def __call__(self, images):
      pixels = images.reshape(len(images), -1)
      return nn.Dense(CLASSES, kernel_init=nn.initializers.ones)(pixels)

  net = Weighted()
  params = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  images, labels = _quadrants(64, seed=0)
  frozen = lambda params, x: jax.lax.stop_gradient(net.apply(params, x))
  tune = lambda encode: tuning.fine_tune(
      jax.random.key(0),
      encode,
      params,
      images,
      labels,
      num_classes=CLASSES,
      augment=tiny.plain,
      epochs=60,
      batch_size=16,
      learning_rate=0.03,
  )
  accuracy = lambda classify: np.mean(
      np.argmax(classify(images / np.float32(255)), axis=-1) == labels
  )
  assert accuracy(tune(frozen)) < 0.5
  assert accuracy(tune(net.apply)) > 0.9


def test_the_key_decides():
  images = jnp.asarray(_quadrants(8, seed=1)[0] / np.float32(255))
  one, again, other = (_tune(key, epochs=1)(images) for key in (0, 0, 1))
  np.testing.assert_array_equal(one, again)
  assert np.max(np.abs(one - other)) > 1e-4


def test_fewer_images_than_a_batch_are_one_batch():
  images, labels = _quadrants(4, seed=0)
  classify = tuning.fine_tune(
      jax.random.key(0),
      _encode,
      _params(),
      images,
      labels,
      num_classes=CLASSES,
      augment=tiny.plain,
      epochs=2,
  )
  assert classify(images / np.float32(255)).shape == (4, CLASSES)


def test_extents_reach_the_augmentation():
  seen = []

  def recipe(key, image, *, extent):
    del key
    seen.append(extent.shape)
    return image * extent[0] / 8

  images, labels = _quadrants(16, seed=0)
  tuning.fine_tune(
      jax.random.key(0),
      _encode,
      _params(),
      images,
      labels,
      num_classes=CLASSES,
      augment=recipe,
      extent=np.full((16, 2), 8),
      epochs=1,
      batch_size=16,
  )
  assert set(seen) == {(2,)}
