"""I-JEPA: who sees which patches, and where the targets come from."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.masking import Patches
from jssl.method import Keys
from jssl.methods import METHODS
from jssl.nets import TransformerDecoder, ViT
from jssl.nets.patches import patchify, unpatchify
import siamese_case
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
      target_scale=(0.15, 0.4),
      context_limit=0.5,
      min_keep=2,
      predictor_width=16,
      predictor_depth=1,
      predictor_heads=2,
      momentum=lambda step: 0.5 + 0.25 * step,
  )
  views = method.views(jax.random.key(0), BATCH)
  # A student and a target that differ, with norms that do not start at 1.
  return method, views, *siamese_case.start(method, views)


@functools.cache
def _predict():
  net = tiny.vit()
  predictor = TransformerDecoder(
      net.width, width=16, depth=1, heads=2, weight_init=net.weight_init
  )
  module = ijepa_file.ContextPredictor(net, predictor)
  return jax.jit(lambda params, views: module.apply({"params": params}, views))


def _changed(images, index):
  """Adds to the pixels of some patches `[B, N]`."""
  patches = patchify(images, 2)
  patches = jax.vmap(lambda x, i: x.at[i].add(1.0))(patches, index)
  return unpatchify(patches, images.shape[1:])


@pytest.mark.slow
def test_only_the_context_is_seen():
  _, views, params, _ = _start()
  before = _predict()(params, views)
  # Targets of up to 3 x 2 of 16 patches, of 3 x 3 half of 16 at most are left.
  assert before.shape == (4, 2, 6, 32) and views.context.indices.shape == (4, 8)
  seen = [
      index[valid]
      for index, valid in zip(*map(np.asarray, views.context), strict=True)
  ]
  assert not all(map(np.all, views.context.valid))
  for i, context in enumerate(seen):
    outside = np.setdiff1d(np.arange(16), context)
    changed = _changed(views.images[i : i + 1], outside[None])
    new = views._replace(images=views.images.at[i].set(changed[0]))
    np.testing.assert_array_equal(_predict()(params, new), before)
  first = np.stack([context[:1] for context in seen])
  new = views._replace(images=_changed(views.images, first))
  change = np.abs(_predict()(params, new) - before).max(axis=-1)
  assert change[np.asarray(views.targets.valid)].min() > 1e-6


def test_the_order_of_the_context_does_not_matter():
  # It would if tokens were given the positions of others.
  _, views, params, _ = _start()
  turned = jax.tree.map(lambda x: x[:, ::-1], views.context)
  other = views._replace(context=turned)
  np.testing.assert_allclose(
      _predict()(params, other), _predict()(params, views), atol=1e-5
  )


def test_blocks_are_predicted_apart():
  _, views, params, _ = _start()
  before = _predict()(params, views)
  index = views.targets.indices
  index = index.at[:, 1].set((index[:, 1] + 5) % 16)
  targets = views.targets._replace(indices=index)
  after = _predict()(params, views._replace(targets=targets))
  np.testing.assert_allclose(after[:, 0], before[:, 0], atol=1e-6)
  assert np.abs(after[:, 1] - before[:, 1]).max(axis=(1, 2)).min() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "token"])
def test_patches_that_fill_up_change_neither_loss_nor_gradient(pooling):
  net = ViT(32, depth=2, heads=2, patch_size=2, image_size=8, pooling=pooling)
  sizes = dict(predictor_width=16, predictor_depth=2, predictor_heads=2)
  method = METHODS["ijepa"](net, augment=tiny.recipe, min_keep=1, **sizes)
  views = method.views(jax.random.key(0), BATCH)
  context = jnp.array([[3, 1, 9], [0, 7, 4], [5, 6, 15], [2, 11, 13]])
  targets = jnp.array([[[4, 8], [10, 14]]]) + jnp.zeros((4, 1, 1), int)
  whole = lambda x: Patches(x, jnp.ones(x.shape, bool))
  plain = views._replace(context=whole(context), targets=whole(targets))
  params, carried = siamese_case.start(method, plain)

  def filled(patches, more, number):
    index = jnp.full((*patches.shape[:-1], more), number)
    index = jnp.concatenate([patches, index], axis=-1)
    valid = jnp.arange(index.shape[-1]) < patches.shape[-1]
    return Patches(index, jnp.broadcast_to(valid, index.shape))

  @jax.jit
  def run(params, views):
    loss = lambda params: method.loss(params, carried, views, KEYS, 0)
    return jax.value_and_grad(loss, has_aux=True)(params)

  (value, aux), gradient = run(params, plain)
  for number in (0, 6):  # Whatever patch they name.
    padded = plain._replace(
        context=filled(context, 4, number), targets=filled(targets, 3, number)
    )
    (other, other_aux), other_gradient = run(params, padded)
    np.testing.assert_allclose(other, value, rtol=1e-6)
    tiny.assert_trees_close(other_gradient, gradient, 1e-6)
    tiny.assert_trees_close(other_aux.metrics, aux.metrics, 1e-6)


@pytest.mark.slow
def test_the_blocks_of_a_step_have_one_shape_on_all_devices():
  method, views, _, _ = _start()
  sizes = lambda views: np.asarray(views.targets.valid.sum(-1))
  assert len(np.unique(sizes(views))) == 1
  halves = tiny.shards(BATCH | {"position": jnp.arange(4)}, 2)
  each = [
      method.views(jax.random.key(0), jax.tree.map(lambda x: x[i], halves))
      for i in (0, 1)
  ]
  both = jax.tree.map(lambda *x: jnp.concatenate(x), *each)
  tiny.assert_trees_close(both, views, 0)
  draw = jax.jit(lambda key: method.views(key, BATCH).targets.valid)
  others = {int(draw(jax.random.key(i))[0, 0].sum()) for i in range(12)}
  assert others == {2, 4, 6}


def test_targets_are_standardised_features_of_the_whole_image():
  method, views, params, carried = _start()
  net = tiny.vit()
  target = {"params": carried.target_params["net"]}
  features = np.array(net.apply(target, views.images)["stage_2"])
  features = features.reshape(4, 16, 32)
  features -= features.mean(axis=-1, keepdims=True)
  features /= features.std(axis=-1, keepdims=True)
  index, valid = map(np.asarray, views.targets)
  assert not np.all(valid)
  wanted = np.take_along_axis(features[:, None], index[..., None], axis=2)
  wanted = wanted[valid]
  error = np.abs(np.asarray(_predict()(params, views))[valid] - wanted)
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
  with pytest.raises(ValueError, match="ijepa encodes a part .*'sincos'"):
    METHODS["ijepa"](tiny.vit(positions="relative"))
  many = METHODS["ijepa"](tiny.vit(), augment=tiny.recipe)
  with pytest.raises(ValueError, match="9 of 4 x 4 patches .* min_keep is 10"):
    many.views(jax.random.key(0), BATCH)


def test_drawn_context_and_targets_hide_the_other_patches():
  # The third patch of the context and the second of targets only fill up.
  views = ijepa_file.Views(
      jnp.full((1, 4, 4, 1), 0.9),
      Patches(jnp.array([[0, 1, 2]]), jnp.array([[True, True, False]])),
      Patches(
          jnp.array([[[3, 1], [0, 1]]]),
          jnp.array([[[True, False], [True, False]]]),
      ),
  )
  drawn = _start()[0].draw(views)
  (context,) = drawn["context"][..., 0]
  np.testing.assert_allclose(context[:2], 0.9)
  np.testing.assert_allclose(context[2:], 0.5)
  assert [np.argmax(x[::2, ::2, 0]) for x in drawn["targets"]] == [3, 0]
