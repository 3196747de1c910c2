"""MAE: what the encoder sees, what it costs, and what is asked of it."""

import functools
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import nets
from jssl.masking import Split
from jssl.method import Keys
from jssl.methods import _one_net, METHODS
from jssl.nets.patches import patchify, standardize, unpatchify
import tiny

# The package shows the constructor under the module's name.
mae_file = importlib.import_module("jssl.methods.mae")
_GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
BATCH = {"image": tiny.images(4)}
KEYS = Keys(jax.random.key(1), jax.random.key(2))
_DECODER = dict(decoder_width=16, decoder_depth=1, decoder_heads=2)


@functools.cache
def _method(**arguments):
  return METHODS["mae"](tiny.vit(), augment=tiny.recipe, **_DECODER | arguments)


@functools.cache
def _start():
  views = _method().views(jax.random.key(0), BATCH)
  return views, *_method().init(jax.random.key(3), views)


def _flops(function, *arguments):
  compiled = jax.jit(function).lower(*arguments).compile()
  return compiled.cost_analysis()["flops"]


def test_the_encoder_costs_a_third_at_three_quarters_hidden():
  net = nets.vit_tiny(patch_size=16)
  images = jnp.zeros((2, 224, 224, 3))
  # A decoder of one block of width 4 costs next to nothing.
  module = mae_file.MaskedAutoencoder(net, 4, 1, 1)
  order = jnp.tile(jnp.arange(196), (2, 1))
  inputs = mae_file.Inputs(images, Split(order[:, :49], order[:, 49:]))
  params = jax.eval_shape(module.init, jax.random.key(0), inputs)
  masked = _flops(module.apply, params, inputs)
  params = jax.eval_shape(net.init, jax.random.key(0), images)
  whole = _flops(net.apply, params, images)
  assert 0.2 < masked / whole < 0.32, masked / whole


@pytest.mark.slow
def test_three_quarters_are_hidden_and_no_patch_is_both():
  split = _start()[0].inputs.split
  assert split.visible.shape == (4, 4) and split.hidden.shape == (4, 12)
  both = np.concatenate([split.visible, split.hidden], axis=1)
  np.testing.assert_array_equal(np.sort(both), np.tile(np.arange(16), (4, 1)))
  assert len(np.unique(both, axis=0)) == 4  # Each image has a mask of its own.


def _answering(answer, net, **arguments):
  """A method whose decoder gives the same answer to everything."""

  class Answer(mae_file.MaskedAutoencoder):

    def __call__(self, inputs, *, train=False):
      return jnp.asarray(answer)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(mae_file, "MaskedAutoencoder", Answer)
    return METHODS["mae"](net, augment=tiny.recipe, **arguments)


def test_the_loss_is_that_of_the_reference():
  golden = np.load(_GOLDEN / "mae.npz")
  size = int(golden["patch"])
  net = nets.ViT(8, depth=1, heads=1, patch_size=size, image_size=32)
  values, chances = [], []
  for image, mask, answer in zip(
      golden["images"], golden["mask"], golden["prediction"]
  ):  # They hide 12 and 11 patches.
    hidden, visible = np.flatnonzero(mask), np.flatnonzero(mask == 0)
    split = Split(jnp.asarray(visible)[None], jnp.asarray(hidden)[None])
    inputs = mae_file.Inputs(jnp.asarray(image)[None], split)
    method = _answering(answer[hidden][None], net)
    value, aux = method.loss(
        {}, _one_net.Statistics({}), _one_net.Task(inputs, None), KEYS, 0
    )
    values.append(value)
    chances.append(aux.metrics["chance_loss"])
  np.testing.assert_allclose(
      np.average(values, weights=golden["mask"].sum(axis=1)),
      golden["loss_norm_pix"],
      rtol=1e-5,
  )
  # A variance of 1, of one degree of freedom less than there are numbers.
  np.testing.assert_allclose(chances, 191 / 192, rtol=1e-3)


_CHANNELS = {"mean": (0.2, 0.5, 0.7), "std": (0.1, 0.2, 0.4)}


@pytest.mark.parametrize("normalize", [True, False])
def test_targets_are_of_pixels_that_are_normalised_by_channel(normalize):
  task, _, carried = _start()
  images, split = task.inputs
  answer = np.float32(np.random.default_rng(0).normal(size=(4, 12, 12)))
  method = _answering(answer, tiny.vit(**_CHANNELS), normalize=normalize)
  value, aux = method.loss({}, carried, task, KEYS, 0)
  pixels = np.asarray(images, np.float64) - _CHANNELS["mean"]
  pixels /= _CHANNELS["std"]
  expected, chance = [], []
  for image, visible, hidden, guess in zip(pixels, *split, answer):
    patches = image.reshape(4, 2, 4, 2, 3).swapaxes(1, 2).reshape(16, 12)
    target = patches[hidden]
    if normalize:
      target = target - target.mean(axis=1, keepdims=True)
      variance = np.sum(target**2, axis=1, keepdims=True) / 11
      target = target / np.sqrt(variance + 1e-6)
      none = np.zeros(12)
    else:
      none = np.tile(patches[visible].reshape(-1, 3).mean(axis=0), 4)
    expected.append(np.mean((guess - target) ** 2))
    chance.append(np.mean((none - target) ** 2))
  np.testing.assert_allclose(value, np.mean(expected), rtol=1e-4)
  np.testing.assert_allclose(
      aux.metrics["chance_loss"], np.mean(chance), rtol=1e-4
  )


def test_the_decoder_starts_as_the_net():
  for name, bound in (("mae", (6 / (16 + 48)) ** 0.5), ("dino", 1.0)):
    net = tiny.vit(weight_init=name)
    method = METHODS["mae"](net, augment=tiny.recipe, **_DECODER)
    params, _ = method.init(jax.random.key(0), _start()[0])
    kernel = params["decoder"]["1"]["qkv"]["kernel"]  # From 16 to 48.
    if name == "mae":
      assert 0.95 * bound < np.max(np.abs(kernel)) <= bound
    else:
      assert np.std(kernel) == pytest.approx(0.02, rel=0.1)
    # Of two dimensions: it decays, as in the authors' code.
    assert params["decoder"]["mask_token"].shape == (1, 16)


def test_hidden_patches_are_not_seen():
  task, params, _ = _start()
  images, split = task.inputs
  predict = jax.jit(mae_file.MaskedAutoencoder(tiny.vit(), 16, 1, 2).apply)

  def prediction(changed):
    patches = patchify(images, 2)
    patches = jax.vmap(lambda x, i: x.at[i].add(1.0))(patches, changed)
    new = unpatchify(patches, images.shape[1:])
    return predict({"params": params}, mae_file.Inputs(new, split))

  before = predict({"params": params}, task.inputs)
  np.testing.assert_array_equal(prediction(split.hidden), before)
  # One visible patch changes every prediction.
  change = np.abs(prediction(split.visible[:, :1]) - before)
  assert np.all(change.max(axis=-1) > 1e-6)


def _shuffled_patches():
  """Images whose patches are of the same numbers, each in another order."""
  random = np.random.default_rng(0)
  numbers = np.tile(random.uniform(0, 1, 12), (4, 16, 1))
  return unpatchify(np.float32(random.permuted(numbers, axis=-1)), (8, 8, 3))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("channels", [{}, _CHANNELS])
def test_a_perfect_prediction_is_the_original(channels, normalize):
  task, _, carried = _start()
  # Brightness and contrast of hidden patches are those of the visible ones.
  net = tiny.vit(**channels)
  images = 0.5 + 0.5 * (_shuffled_patches() - 0.5) * jnp.asarray(net.std)
  images += jnp.asarray(net.mean) - 0.5
  task = task._replace(inputs=task.inputs._replace(images=images))
  images, split = task.inputs
  patches = patchify((images - jnp.asarray(net.mean)) / jnp.asarray(net.std), 2)
  answer = jnp.take_along_axis(patches, split.hidden[..., None], axis=1)
  if normalize:
    answer = standardize(answer, eps=0.0)
  method = _answering(answer, net, normalize=normalize)
  value, aux = method.loss({}, carried, task, KEYS, 0)
  assert value < 1e-4 < 0.01 < aux.metrics["chance_loss"]
  if normalize:
    assert aux.metrics["chance_loss"] > 0.5
  seen, output, original = map(np.asarray, method.pictures({}, carried, task))
  inside = (original >= 0) & (original <= 1)  # Pictures are clipped.
  np.testing.assert_allclose(output[inside], original[inside], atol=1e-4)
  # Exactly the hidden patches are gray in what is seen.
  gray = np.mean(seen == 0.5, axis=(1, 2, 3))
  np.testing.assert_allclose(gray, 12 / 16, atol=0.01)


@pytest.mark.parametrize("normalize", [True, False])
def test_pictures_do_not_borrow_from_what_is_hidden(normalize):
  task, _, carried = _start()
  images, split = task.inputs
  answer = np.random.default_rng(0).normal(size=(4, 12, 12))
  method = _answering(answer, tiny.vit(), normalize=normalize)
  patches = patchify(images, 2)
  changed = jax.vmap(lambda x, i: x.at[i].multiply(0.3))(patches, split.hidden)
  other = task.inputs._replace(images=unpatchify(changed, images.shape[1:]))
  draw = functools.partial(method.pictures, {}, carried)
  one, two = draw(task), draw(task._replace(inputs=other))
  np.testing.assert_array_equal(one.seen, two.seen)
  np.testing.assert_array_equal(one.output, two.output)
  assert np.max(np.abs(one.original - two.original)) > 0.3


def test_hidden_patches_get_the_brightness_of_near_ones():
  # Of one row of four patches, the outer two are seen.
  split = Split(jnp.array([[0, 3]]), jnp.array([[1, 2]]))
  values = jnp.array([[[0.0, 5.0], [1.0, 5.0]]])
  near = mae_file._average_near(values, split, 4)
  share = 1 / (1 + np.exp(4 - 1))  # Distances 2 and 1.
  np.testing.assert_allclose(
      near[0], [[share, 5.0], [1 - share, 5.0]], rtol=1e-5
  )
  # And of one column.
  column = mae_file._average_near(values, split, 1)
  np.testing.assert_allclose(column, near, rtol=1e-6)


def test_plain_pixels_are_compared_with_the_mean_color():
  task, params, carried = _start()
  loss = jax.jit(_method(normalize=False).loss)
  _, aux = loss(params, carried, task, KEYS, 0)
  images, split = jax.tree.map(np.asarray, task.inputs)
  patches = np.asarray(patchify(images, 2)).reshape(4, 16, 4, 3)
  expected = []
  for x, visible, hidden in zip(patches, split.visible, split.hidden):
    color = x[visible].mean(axis=(0, 1))
    expected.append(np.mean((x[hidden] - color) ** 2) / 0.25**2)
  np.testing.assert_allclose(
      aux.metrics["chance_loss"], np.mean(expected), rtol=1e-4
  )


def test_a_net_without_patches_is_refused():
  with pytest.raises(ValueError, match="mae works on .* ResNet; set net.name"):
    METHODS["mae"](tiny.resnet())
  with pytest.raises(ValueError, match="net.micro_batches at 1"):
    METHODS["mae"](nets.MicroBatched(tiny.vit(), 2))


def test_wrong_numbers_are_named():
  with pytest.raises(ValueError, match="mask ratio of 1.5 hides"):
    METHODS["mae"](tiny.vit(), mask_ratio=1.5)
  with pytest.raises(ValueError, match="mae encodes a part .*'sincos'"):
    METHODS["mae"](tiny.vit(positions="relative"))
  odd = {"image": jnp.zeros((2, 9, 9, 3))}
  with pytest.raises(ValueError, match="9 x 9 .* patches of 2 x 2"):
    _method().views(jax.random.key(0), odd)
