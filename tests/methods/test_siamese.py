"""What methods of one branch share, and the two views of all."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import augment
from jssl.methods import _branch, _one_net, _views, METHODS
import siamese_case
import tiny

TWO_RECIPES = ["byol", "moco_v3", "barlow_twins", "vicreg"]
ONE_RECIPE = {
    "simclr": augment.simclr,
    "simsiam": augment.moco_v2,
    "supcon": augment.simclr,
}


def _images(views):
  """Of the views of any method, `[2, B, H, W, C]`."""
  return views.inputs if isinstance(views, _one_net.Task) else views


def _darker(key, image, *, extent=None):
  del key, extent
  return 0.5 * image


def _brighter(key, image, *, extent=None):
  del key, extent
  return 0.5 + 0.5 * image


@pytest.mark.parametrize("name", TWO_RECIPES)
def test_each_view_has_its_recipe(name):
  method = siamese_case.make(
      name, augment=_darker, second_augment=_brighter, dim=6
  )
  views = _images(method.views(jax.random.key(0), siamese_case.batch()))
  images = siamese_case.batch()["image"] / 255.0
  np.testing.assert_allclose(views[0], 0.5 * images, atol=1e-6)
  np.testing.assert_allclose(views[1], 0.5 + 0.5 * images, atol=1e-6)


@pytest.mark.parametrize("name", [*TWO_RECIPES, *ONE_RECIPE])
def test_two_views_of_one_recipe_differ(name):
  second = dict(second_augment=None) if name in TWO_RECIPES else {}
  method = siamese_case.make(name, augment=tiny.recipe, dim=6, **second)
  views = _images(method.views(jax.random.key(0), siamese_case.batch()))
  noise = views - siamese_case.batch()["image"] / 255.0
  # Drawn for each view and each image alone.
  flat = np.asarray(noise).reshape(2 * siamese_case.BATCH, -1)
  assert np.max(np.abs(np.corrcoef(flat) - np.eye(len(flat)))) < 0.4
  np.testing.assert_allclose(flat.std(axis=1), 0.1, rtol=0.25)


def test_default_recipes_are_those_of_the_papers():
  defaults = lambda name: METHODS[name].__kwdefaults__
  for name in TWO_RECIPES:
    assert defaults(name)["augment"] is _views.FIRST_VIEW
    assert defaults(name)["second_augment"] is _views.SECOND_VIEW
  first = _views.FIRST_VIEW.__wrapped__
  assert first is augment.byol
  expected = dict(blur_probability=1.0, solarize_probability=0.0)
  assert expected.items() <= first.__kwdefaults__.items()
  second = _views.SECOND_VIEW.__wrapped__
  assert second.func is augment.byol
  expected = dict(blur_probability=0.1, solarize_probability=0.2)
  assert second.keywords == expected
  for name, recipe in ONE_RECIPE.items():
    assert defaults(name)["augment"].__wrapped__ is recipe
    assert "second_augment" not in inspect.signature(METHODS[name]).parameters


@pytest.fixture(scope="module")
def made():
  """A method whose criterion is plain: `(method, params, carried)`."""
  branch = _branch.Branch(tiny.Net(), _branch.head(tiny.Net(), (6,)))

  def criterion(embedding, task):
    z = embedding.projection
    metrics = {"labels": jnp.sum(task.target)}
    return jnp.mean(z[0]) + 10 * jnp.mean(z[1]), metrics

  task = _one_net.Task(siamese_case.views(), jnp.arange(siamese_case.BATCH))
  method = _one_net.make(branch, lambda key, batch: task, criterion)
  return method, *siamese_case.start(method, task)


def test_the_criterion_sees_all_views_and_the_labels(made):
  method, params, carried = made
  task = method.views(None, None)
  value, aux = jax.jit(method.loss)(params, carried, task, siamese_case.KEYS, 0)
  swapped = task._replace(inputs=task.inputs[::-1])
  other, _ = jax.jit(method.loss)(
      params, carried, swapped, siamese_case.KEYS, 0
  )
  projections = [_project(params, view) for view in task.inputs]
  first, second = [jnp.mean(z) for z in projections]
  np.testing.assert_allclose(value, first + 10 * second, atol=1e-5)
  np.testing.assert_allclose(other, second + 10 * first, atol=1e-5)
  assert aux.metrics["labels"] == sum(range(siamese_case.BATCH))


@pytest.mark.parametrize(
    "name", ["simclr", "simsiam", "barlow_twins", "vicreg", "supcon"]
)
def test_the_standard_deviation_of_the_first_view_is_a_metric(name):
  method = siamese_case.make(name, dim=6, joint_statistics=False)
  task = _one_net.Task(siamese_case.views(), jnp.arange(siamese_case.BATCH) % 3)
  params, carried = siamese_case.start(method, task)
  _, aux = jax.jit(method.loss)(params, carried, task, siamese_case.KEYS, 0)
  projection = siamese_case.project(
      params, carried.batch_stats, siamese_case.views()[0]
  )
  np.testing.assert_allclose(
      aux.metrics["feature_std"], siamese_case.spread(projection), rtol=1e-4
  )


def _project(params, images):
  """`tiny.Net` with the statistics of these images, and a linear head."""
  features, _ = tiny.Net().apply(
      {"params": params["net"]}, images, train=True, mutable=["batch_stats"]
  )
  layer = params["projector"]["layer_1"]
  return features["pooled"] @ layer["kernel"] + layer["bias"]


def test_the_new_statistics_are_carried_and_nothing_else_changes(made):
  method, params, carried = made
  views = method.views(None, None)
  _, aux = jax.jit(method.loss)(params, carried, views, siamese_case.KEYS, 0)
  same, new = method.update(params, carried, aux.fresh, 0)
  assert same is params
  assert jax.tree.structure(new) == jax.tree.structure(carried)
  old = carried.batch_stats["net"]["BatchNorm_0"]["mean"]
  kernel = params["net"]["Conv_0"]["kernel"]
  outputs = jax.lax.conv_general_dilated(
      siamese_case.views().reshape(-1, 8, 8, 3) - 0.5,
      kernel,
      (2, 2),
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  np.testing.assert_allclose(
      new.batch_stats["net"]["BatchNorm_0"]["mean"],
      0.9 * old + 0.1 * outputs.mean(axis=(0, 1, 2)),
      atol=1e-5,
  )


def test_features_are_those_of_running_statistics(made):
  method, params, carried = made
  images = siamese_case.views()[0]
  variables = {
      "params": params["net"],
      "batch_stats": carried.batch_stats["net"],
  }
  expected = tiny.Net().apply(variables, images, train=False)["pooled"]
  encode = jax.jit(method.encode)
  for part in (images, images[:3]):  # Whatever its batch.
    np.testing.assert_allclose(
        encode(params, carried, part)["pooled"],
        expected[: len(part)],
        rtol=1e-4,
        atol=1e-6,
    )


def test_a_net_without_statistics_has_features_too():
  method = siamese_case.make("simclr", dim=6)
  task = _one_net.Task(siamese_case.views())
  params, carried = siamese_case.start(method, task)
  pooled = method.encode(params, carried, siamese_case.views()[0])["pooled"]
  pixels = siamese_case.views()[0].reshape(siamese_case.BATCH, -1) - 0.5
  expected = pixels * params["net"]["weight"]
  np.testing.assert_allclose(pooled, expected, rtol=1e-5)
