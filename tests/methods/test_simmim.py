"""SimMIM: one token replaces the masked patches."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.method import Keys
from jssl.methods import METHODS
from jssl.nets.patches import patchify, unpatchify
import tiny

# The package shows the constructor under the module's name.
simmim_file = importlib.import_module("jssl.methods.simmim")
BATCH = {"image": tiny.images(4)}
KEYS = Keys(jax.random.key(1), jax.random.key(2))


_BEIT = dict(
    positions="relative",
    layer_scale=0.1,
    key_bias=False,
    weight_init="simmim",
    mean=(0.2, 0.5, 0.7),
    std=(0.1, 0.2, 0.4),
)


@functools.cache
def _start(**arguments):
  net = tiny.vit(**arguments)
  method = METHODS["simmim"](net, augment=tiny.recipe, mask_ratio=0.5)
  task = method.views(jax.random.key(0), BATCH)
  return method, task, *method.init(jax.random.key(3), task)


def _changed(images, mask):
  """Adds to the pixels of some patches."""
  mask = jnp.repeat(jnp.repeat(mask, 2, axis=1), 2, axis=2)
  return images + mask[..., None]


def test_squares_of_patches_are_masked():
  hidden = np.asarray(_start()[1].inputs.hidden)
  assert hidden.shape == (4, 4, 4)
  squares = hidden.reshape(4, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4)
  squares = squares.reshape(4, 4, 4)
  np.testing.assert_array_equal(squares.all(axis=-1), squares.any(axis=-1))
  np.testing.assert_array_equal(hidden.mean(axis=(1, 2)), 0.5)


def test_masked_pixels_are_not_seen_but_the_token_is():
  _, task, params, _ = _start()
  images, hidden = task.inputs
  apply = jax.jit(simmim_file.MaskedImageModel(tiny.vit()).apply)
  predict = lambda params, images: apply(
      {"params": params}, simmim_file.Inputs(images, hidden)
  )
  before = predict(params, images)
  np.testing.assert_array_equal(
      predict(params, _changed(images, hidden)), before
  )
  assert np.abs(predict(params, _changed(images, ~hidden)) - before).min() > 0
  other = {**params, "mask_token": -params["mask_token"]}
  assert np.abs(predict(other, images) - before).max() > 1e-4


def test_masked_patches_are_distinguished_by_their_positions():
  _, task, params, _ = _start()
  module = simmim_file.MaskedImageModel(tiny.vit())
  prediction = module.apply({"params": params}, task.inputs)
  hidden = np.asarray(task.inputs.hidden).reshape(4, 16)
  for masked in (x[h] for x, h in zip(np.asarray(prediction), hidden)):
    assert len(np.unique(masked.round(4), axis=0)) == 8


@pytest.mark.parametrize("arguments", [{}, _BEIT])
def test_the_loss_is_the_error_of_masked_pixels(arguments):
  method, task, params, carried = _start(**arguments)
  loss = jax.jit(method.loss)
  value, aux = loss(params, carried, task, KEYS, 0)
  images, hidden = jax.tree.map(np.asarray, task.inputs)
  net = tiny.vit(**arguments)
  module = simmim_file.MaskedImageModel(net)
  prediction = np.asarray(module.apply({"params": params}, task.inputs))
  prediction = np.asarray(unpatchify(prediction, (8, 8, 3)))
  mask = hidden.repeat(2, axis=1).repeat(2, axis=2)
  target = (images - np.float32(net.mean)) / np.float32(net.std)
  expected = np.abs(prediction - target)[mask].mean()
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  color = np.stack([x[~m].mean(axis=0) for x, m in zip(target, mask)])
  chance = np.abs(color[:, None, None] - target)[mask].mean()
  np.testing.assert_allclose(aux.metrics["chance_loss"], chance, rtol=1e-5)


def test_relative_positions_tell_masked_patches_apart():
  _, task, params, _ = _start(**_BEIT)
  module = simmim_file.MaskedImageModel(tiny.vit(**_BEIT))
  params = jax.tree.map(lambda x: x, params)
  table = params["net"]["relative_positions"]
  assert table.shape == (7, 7, 2)
  hidden = np.asarray(task.inputs.hidden).reshape(4, 16)
  for start, differ in (
      (table, 1),
      (jax.random.normal(KEYS.local, (7, 7, 2)), 8),
  ):
    params["net"]["relative_positions"] = start
    prediction = module.apply({"params": params}, task.inputs)
    for masked in (x[h] for x, h in zip(np.asarray(prediction), hidden)):
      assert len(np.unique(masked.round(5), axis=0)) == differ


def test_what_decays_is_of_two_dimensions_as_in_the_authors_code():
  _, _, params, _ = _start(**_BEIT)
  shapes = jax.tree.map(jnp.shape, params)
  assert shapes["mask_token"] == (1, 32)
  assert shapes["net"]["relative_positions"] == (7, 7, 2)
  block = shapes["net"]["block_1"]
  for name in ("query_bias", "value_bias", "scale_1", "scale_2"):
    assert block[name] == (32,)


def test_the_pictures_of_a_perfect_prediction_are_the_original():
  _, task, _, carried = _start(**_BEIT)
  images = task.inputs.images
  net = tiny.vit(**_BEIT)
  pixels = (images - np.float32(net.mean)) / np.float32(net.std)

  class Answer(simmim_file.MaskedImageModel):

    def __call__(self, inputs, *, train=False):
      return patchify(pixels, 2)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(simmim_file, "MaskedImageModel", Answer)
    method = METHODS["simmim"](net, augment=tiny.recipe)
  value, _ = method.loss({}, carried, task, KEYS, 0)
  assert value < 1e-6
  output = np.asarray(method.pictures({}, carried, task).output)
  inside = (images >= 0) & (images <= 1)
  np.testing.assert_allclose(output[inside], images[inside], atol=1e-5)


def test_pictures_keep_what_was_seen():
  method, task, params, carried = _start()
  seen, output, original = method.pictures(params, carried, task)
  mask = np.asarray(task.inputs.hidden).repeat(2, axis=1).repeat(2, axis=2)
  np.testing.assert_array_equal(original, task.inputs.images)
  np.testing.assert_array_equal(output[~mask], original[~mask])
  np.testing.assert_array_equal(seen[~mask], original[~mask])
  np.testing.assert_array_equal(seen[mask], 0.5)
  assert np.abs(np.asarray(output - original))[mask].mean() > 0.01


def test_wrong_settings_are_named():
  net = tiny.vit()
  with pytest.raises(ValueError, match="simmim works on .* ResNet"):
    METHODS["simmim"](tiny.resnet())
  with pytest.raises(ValueError, match="mask ratio of 0 "):
    METHODS["simmim"](net, mask_ratio=0)
  method = METHODS["simmim"](net, augment=tiny.recipe, mask_unit=3)
  with pytest.raises(ValueError, match="3 x 3 patches .* divide 4 x 4"):
    method.views(jax.random.key(0), BATCH)
