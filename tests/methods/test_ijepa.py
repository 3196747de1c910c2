"""I-JEPA: who sees which patches, and where the targets come from."""

import functools
import importlib

import jax
import numpy as np
import pytest

from jssl.method import Keys
from jssl.methods import METHODS
from jssl.nets import patches as patching
import siamese_case as case
import tiny

# The package shows the constructor under the module's name.
ijepa_file = importlib.import_module("jssl.methods.ijepa")
BATCH = {"image": tiny.images(4)}
KEYS = Keys(jax.random.key(1), jax.random.key(2))


@functools.cache
def _start():
  method = METHODS["ijepa"](
      tiny.vit(),
      augment=tiny.recipe,
      targets=2,
      predictor_width=16,
      predictor_depth=1,
      predictor_heads=2,
      momentum=lambda step: 0.5 + 0.25 * step,
  )
  views = method.views(jax.random.key(0), BATCH)
  # A student and a target that differ, with norms that do not start at 1.
  return method, views, *case.start(method, views)


@functools.cache
def _predict():
  module = ijepa_file.ContextPredictor(tiny.vit(), 16, 1, 2)
  return jax.jit(lambda params, views: module.apply({"params": params}, views))


def _changed(images, index):
  """Adds to the pixels of some patches `[B, N]`."""
  patches = patching.patchify(images, 2)
  patches = jax.vmap(lambda x, i: x.at[i].add(1.0))(patches, index)
  return patching.unpatchify(patches, images.shape[1:])


def test_only_the_context_is_seen():
  _, views, params, _ = _start()
  before = _predict()(params, views)
  # Two targets of 2 of 16 patches leave 13 - 4 of them, the targets never.
  assert before.shape == (4, 2, 2, 32) and views.context.shape == (4, 9)
  outside = np.stack(
      [np.setdiff1d(np.arange(16), context) for context in views.context]
  )
  new = views._replace(images=_changed(views.images, outside))
  np.testing.assert_array_equal(_predict()(params, new), before)
  new = views._replace(images=_changed(views.images, views.context[:, :1]))
  assert np.abs(_predict()(params, new) - before).max(axis=-1).min() > 1e-6


def test_the_order_of_the_context_does_not_matter():
  # It would if tokens were given the positions of others.
  _, views, params, _ = _start()
  other = views._replace(context=views.context[:, ::-1])
  np.testing.assert_allclose(
      _predict()(params, other), _predict()(params, views), atol=1e-5
  )


def test_blocks_are_predicted_apart():
  _, views, params, _ = _start()
  before = _predict()(params, views)
  targets = views.targets.at[:, 1].set((views.targets[:, 1] + 5) % 16)
  after = _predict()(params, views._replace(targets=targets))
  np.testing.assert_allclose(after[:, 0], before[:, 0], atol=1e-6)
  assert np.abs(after[:, 1] - before[:, 1]).max(axis=(1, 2)).min() > 1e-4


def test_targets_are_standardised_features_of_the_whole_image():
  method, views, params, carried = _start()
  net = tiny.vit()
  target = {"params": carried.target_params["net"]}
  features = np.array(net.apply(target, views.images)["stage_2"])
  features = features.reshape(4, 16, 32)
  features -= features.mean(axis=-1, keepdims=True)
  features /= features.std(axis=-1, keepdims=True)
  wanted = np.take_along_axis(
      features[:, None], np.asarray(views.targets)[..., None], axis=2
  )
  error = np.abs(_predict()(params, views) - wanted)
  expected = np.where(error < 1, error**2 / 2, error - 0.5).mean()
  loss = jax.jit(method.loss)
  value, aux = loss(params, carried, views, KEYS, 0)
  np.testing.assert_allclose(value, expected, rtol=1e-4)
  size = np.abs(wanted)
  chance = np.where(size < 1, size**2 / 2, size - 0.5).mean()
  np.testing.assert_allclose(aux.metrics["chance_loss"], chance, rtol=1e-4)
  # Pixels outside the context reach the targets, if not the student.
  everywhere = views._replace(images=1 - views.images)
  assert loss(params, carried, everywhere, KEYS, 0)[0] != value


def test_the_target_follows_by_the_schedule_and_encodes():
  method, views, params, carried = _start()
  moved = jax.tree.map(lambda x: x + 1.0, params)
  _, new = method.update(moved, carried, {}, 1)
  assert set(new.target_params) == {"net"}  # No predictor.
  expected = jax.tree.map(  # The momentum at step 1 is 0.75.
      lambda old, online: 0.75 * old + 0.25 * online,
      carried.target_params,
      {"net": moved["net"]},
  )
  tiny.assert_trees_close(new.target_params, expected, 1e-6)
  before = method.encode(params, carried, views.images)["pooled"]
  same = method.encode(moved, carried, views.images)["pooled"]
  np.testing.assert_array_equal(same, before)
  other = carried._replace(
      target_params=jax.tree.map(lambda x: 1.5 * x, carried.target_params)
  )
  after = method.encode(params, other, views.images)["pooled"]
  assert np.abs(after - before).max() > 1e-3


def test_wrong_settings_are_named():
  with pytest.raises(ValueError, match="ijepa works on .* ResNet"):
    METHODS["ijepa"](tiny.resnet())
  with pytest.raises(ValueError, match="1.5"):
    METHODS["ijepa"](tiny.vit(), momentum=1.5)
  many = METHODS["ijepa"](tiny.vit(), augment=tiny.recipe, targets=9)
  with pytest.raises(ValueError, match="9 targets of 2 patches .* 4 x 4"):
    many.views(jax.random.key(0), BATCH)
