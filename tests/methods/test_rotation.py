"""Rotation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import augment, optim
from jssl.method import Keys
from jssl.methods.rotation import rotation
from jssl.step import init_state, make_step
import siamese_case
import tiny

KEYS = Keys(jax.random.key(1), jax.random.key(2))
BATCH = 32
STEPS = 150
CHANCE = 0.25


RECIPES = {
    "plain": tiny.plain,
    "crop_and_flip": augment.keep_size(augment.crop_and_flip),
}


def _gradient(count, seed=0):
  """Images that get brighter downwards, and differ."""
  random = np.random.default_rng(seed)
  light = np.linspace(0.2, 0.8, 8)[:, None, None]
  return np.float32(light + random.uniform(-0.2, 0.2, (count, 8, 8, 3)))


def _noise(count, seed=0):
  random = np.random.default_rng(seed)
  return np.float32(random.uniform(0, 1, (count, 8, 8, 3)))


@functools.cache
def _trainer(recipe):
  method = rotation(tiny.Net(grid=2), augment=RECIPES[recipe])
  optimizer = optim.sgd(0.05)
  start = init_state(
      method, optimizer, jax.random.key(0), {"image": _noise(BATCH)}
  )
  return start, jax.jit(make_step(method, optimizer))


def _accuracy(recipe, draw):
  """Of the second half of a training that sees no image twice."""
  state, step = _trainer(recipe)
  accuracies = []
  for i in range(STEPS):
    state, row = step(state, {"image": draw(BATCH, seed=i)})
    accuracies.append(float(row["accuracy"]))
  return np.mean(accuracies[STEPS // 2 :])


def test_views_are_exact_turns_of_one_view_of_each_image():
  recipe = lambda key, image, *, extent=None: tiny.recipe(key, image)
  method = rotation(tiny.Net(), augment=recipe)
  batch, key = {"image": tiny.images(3)}, jax.random.key(0)
  task = method.views(key, batch)
  (upright,) = augment.make_views(key, batch, (recipe,))
  assert task.inputs.shape == (4, 3, 8, 8, 3) and task.target.shape == (4, 3)
  np.testing.assert_array_equal(np.bincount(task.target.ravel()), [3] * 4)
  for views, labels in zip(task.inputs, task.target):
    for view, label, image in zip(views, labels, upright):
      # Counter-clockwise; in numpy, which the code does not use.
      np.testing.assert_array_equal(np.rot90(view, -int(label)), image)


def test_statistics_are_of_all_rotations_together():
  method = rotation(siamese_case.Dropping(), augment=tiny.plain)
  task = method.views(jax.random.key(0), {"image": _gradient(6)})
  params, carried = method.init(jax.random.key(0), task)
  _, aux = method.loss(params, carried, task, KEYS, 0)
  (actual,) = aux.fresh.batch_stats["net"].values()
  images = _gradient(6)
  mixture = [np.rot90(images, turns, axes=(1, 2)) for turns in range(4)]
  mixture = np.concatenate(mixture).reshape(24, -1)
  # From 0 and 1, as one update: the variance of rotations is in it.
  np.testing.assert_allclose(
      actual["mean"], 0.1 * mixture.mean(axis=0), rtol=siamese_case.TOLERANCE
  )
  np.testing.assert_allclose(
      actual["var"],
      0.9 + 0.1 * mixture.var(axis=0),
      rtol=siamese_case.TOLERANCE,
  )
  # One rotation alone would give others, by far.
  alone = images.reshape(6, -1)
  assert np.max(np.abs(alone.mean(axis=0) - mixture.mean(axis=0))) > 0.2


def test_the_loss_is_the_cross_entropy_of_four_classes():
  method = rotation(siamese_case.Pixels(), augment=tiny.plain)
  task = method.views(jax.random.key(0), {"image": _gradient(2)})
  params, carried = method.init(jax.random.key(0), task)
  (layer,) = params["projector"].values()
  assert layer["kernel"].shape == (8 * 8 * 3, 4)
  logits = (task.inputs.reshape(8, -1) - 0.5) @ layer["kernel"] + layer["bias"]
  logits -= jnp.max(logits, axis=-1, keepdims=True)
  chances = np.exp(logits) / np.sum(np.exp(logits), axis=-1, keepdims=True)
  labels = np.repeat(np.arange(4), 2)
  value, aux = method.loss(params, carried, task, KEYS, 0)
  np.testing.assert_allclose(
      value, -np.mean(np.log(chances[np.arange(8), labels])), rtol=1e-5
  )
  correct = np.mean(np.argmax(logits, axis=-1) == labels)
  np.testing.assert_allclose(aux.metrics["accuracy"], correct, rtol=1e-6)
  np.testing.assert_allclose(aux.metrics["chance_loss"], np.log(4), rtol=1e-6)


@pytest.mark.parametrize("recipe", RECIPES)
def test_noise_does_not_reveal_the_rotation(recipe):
  # The four views of one image may all be right or wrong together: a binomial
  # of the images, not of the views, and four of its deviations.
  images = BATCH * (STEPS - STEPS // 2)
  bound = 4 * np.sqrt(CHANCE * (1 - CHANCE) / images)
  assert bound < 0.04
  accuracy = _accuracy(recipe, _noise)
  assert abs(accuracy - CHANCE) < bound


@pytest.mark.parametrize("recipe", RECIPES)
def test_light_from_one_side_reveals_the_rotation(recipe):
  assert _accuracy(recipe, _gradient) > 0.8
