"""The linear probe on augmented images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from jssl import augment, evals
from jssl.evals import linear
import tiny

SIDE = 8


def _pixels(params, views):
  """Pixels as features."""
  return {"pooled": params * views.reshape(len(views), -1)}


def _digits(count=1000):
  pixels, labels = load_digits(return_X_y=True)
  order = np.random.default_rng(0).permutation(len(pixels))
  images = np.uint8(255 / 16 * pixels[order]).reshape(-1, SIDE, SIDE, 1)
  split = lambda x: (x[:count], x[count:])
  return *split(images), *split(labels[order])


def _probe(images, labels, test, encode=_pixels, params=1.0, **arguments):
  features = jax.jit(encode)(params, images / np.float32(255))
  test_features = jax.jit(encode)(params, test / np.float32(255))
  settings = dict(augment=tiny.plain, num_classes=int(labels.max()) + 1)
  return evals.augmented_linear_probe(
      jax.random.key(0),
      encode,
      params,
      {"image": images, "label": labels},
      features,
      test_features,
      **settings | arguments,
  )


def test_without_augmentation_it_is_the_linear_probe():
  images, test, labels, test_labels = _digits()
  probe = _probe(images, labels, test, epochs=60)["pooled"]
  flat = lambda x: x.reshape(len(x), -1) / np.float32(255)
  expected = evals.linear_probe(
      jax.random.key(0),
      flat(images),
      labels,
      flat(test),
      num_classes=10,
      epochs=60,
  )
  accuracy = np.mean(probe.predicted == test_labels)
  assert abs(accuracy - np.mean(expected.predicted == test_labels)) < 0.015
  assert probe.validation.shape == expected.validation.shape
  np.testing.assert_allclose(probe.validation, expected.validation, atol=0.03)
  # The setting is the best of the grid.
  i = evals.linear.LEARNING_RATES.index(probe.learning_rate)
  j = evals.linear.WEIGHT_DECAYS.index(probe.weight_decay)
  assert probe.validation[i, j] == probe.validation.max()


def _stripes(count, row, seed):
  """A bright row of pixels in noise: the first class's left half, or right."""
  random = np.random.default_rng(seed)
  images = random.integers(0, 100, (count, SIDE, SIDE, 1))
  labels = np.arange(count) % 2
  for image, label in zip(images, labels):
    image[row, 4 * label : 4 * label + 4] += 150
  return np.uint8(images), labels


def test_it_learns_from_views():
  images, labels = _stripes(200, row=1, seed=0)
  test, test_labels = _stripes(200, row=6, seed=1)

  def upside_down(key, image, *, extent=None):
    del extent
    return jnp.where(jax.random.bernoulli(key), image[::-1], image)

  accuracy = lambda recipe: np.mean(
      _probe(images, labels, test, augment=recipe, epochs=40)[
          "pooled"
      ].predicted
      == test_labels
  )
  assert accuracy(upside_down) > 0.95
  assert accuracy(tiny.plain) < 0.7


def test_views_differ_from_step_to_step():
  # One image per class, and views that show one random pixel of it.
  images, labels = _stripes(20, row=1, seed=0)
  seen = []

  def recipe(key, image, *, extent=None):
    del extent
    jax.debug.callback(lambda x: seen.append(float(x)), jax.random.uniform(key))
    return image

  _probe(images, labels, images, augment=recipe, epochs=3, batch_size=6)
  jax.effects_barrier()
  assert len(seen) == 3 * 18 and len(set(seen)) == len(seen)


def test_stages_are_probed_independently():
  images, test, labels, test_labels = _digits()

  def encode(params, views):
    features = _pixels(params, views)
    return {**features, "stage_1": jnp.ones_like(features["pooled"][:, :3])}

  probes = _probe(images, labels, test, encode, epochs=30)
  assert list(probes) == ["pooled", "stage_1"]
  accuracy = {
      name: np.mean(probe.predicted == test_labels)
      for name, probe in probes.items()
  }
  assert accuracy["pooled"] > 0.9 and accuracy["stage_1"] < 0.2
  # Neither the scale of the features nor the other stages matter.
  alone = _probe(images, labels, test, params=50.0, epochs=30)["pooled"]
  same = np.mean(alone.predicted == probes["pooled"].predicted)
  assert same > 0.995


def test_the_held_out_part_is_not_trained_on():
  random = np.random.default_rng(0)
  images = random.integers(0, 256, (100, SIDE, SIDE, 3), np.uint8)
  labels = random.integers(0, 2, 100)
  one = dict(learning_rates=(0.1,), weight_decays=(0.0,), epochs=5)
  split_key, _, _ = jax.random.split(jax.random.key(0), 3)
  valid, rest = linear.hold_out(split_key, len(images), 0.1)
  probe = lambda labels: _probe(images, labels, images, **one)["pooled"]
  flipped = lambda index: np.where(
      np.isin(np.arange(100), index), 1 - labels, labels
  )
  as_they_are = probe(labels)
  other = probe(flipped(valid))
  np.testing.assert_array_equal(other.predicted, as_they_are.predicted)
  # It measures how good the probe is instead.
  np.testing.assert_allclose(
      other.validation, 1 - as_they_are.validation, atol=1e-6
  )
  changed = probe(flipped(rest[:40])).predicted
  assert np.mean(changed != as_they_are.predicted) > 0.1


def test_extents_reach_the_augmentation():
  shapes = []

  def recipe(key, image, *, extent):
    shapes.append(extent.shape)
    return augment.flip_left_right(image)

  images, labels = _stripes(20, row=1, seed=0)
  extent = np.full((20, 2), SIDE)
  features = jax.jit(_pixels)(1.0, images / np.float32(255))
  evals.augmented_linear_probe(
      jax.random.key(0),
      _pixels,
      1.0,
      {"image": images, "label": labels, "extent": extent},
      features,
      features,
      num_classes=2,
      augment=recipe,
      epochs=1,
  )
  assert set(shapes) == {(2,)}


def test_images_without_a_label_are_refused():
  images, labels = _stripes(40, row=1, seed=0)
  labels = np.where(np.arange(40) == 3, -1, labels)
  with pytest.raises(ValueError, match="1 of 40 labels are below 0"):
    _probe(images, labels, images, epochs=1)


def test_too_few_images_to_choose_by_are_refused():
  images, labels = _stripes(4, row=1, seed=0)
  with pytest.raises(ValueError, match="leaves 0 of 4 features"):
    _probe(images, labels, images)
