"""Decoders: from features to pixels or features."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.nets import BatchNorm, ConvDecoder, TransformerDecoder

GRID = (3, 5)
VISIBLE = np.array([[0, 7, 14, 3], [2, 1, 12, 8]])
HIDDEN = np.array([[9, 4, 1], [0, 14, 5]])


def _normal(*shape, seed=0):
  random = np.random.default_rng(seed)
  return random.normal(size=shape).astype(np.float32)


def _randomised(decoder, *inputs, scale=0.3, **settings):
  """Variables that no default could stand in for; nothing is computed."""
  random = np.random.default_rng(1)
  init = functools.partial(decoder.init, **settings)
  return jax.tree.map(
      lambda x: random.normal(size=x.shape, scale=scale).astype(np.float32),
      jax.eval_shape(init, jax.random.key(0), *inputs),
  )


# Images from feature maps.


def _shapes(side, **arguments):
  x = jax.ShapeDtypeStruct((2, side, side, 6), jnp.float32)
  decoder = ConvDecoder(16, 3, **arguments)
  return jax.eval_shape(decoder.init_with_output, jax.random.key(0), x)


@pytest.mark.parametrize("side,steps", [(2, 3), (8, 1), (16, 0), (1, 4)])
def test_features_become_an_image_of_the_size(side, steps):
  image, variables = _shapes(side, width=8)
  assert image.shape == (2, 16, 16, 3) and image.dtype == jnp.float32
  layers = {f"up_{i}" for i in range(1, steps + 1)} | {"out"}
  assert set(variables["params"]) == layers


def test_layers_are_half_as_wide_as_those_before():
  _, variables = _shapes(1, width=200)
  widths = [
      variables["params"][f"up_{i}"]["kernel"].shape[-1] for i in (1, 2, 3, 4)
  ]
  assert widths == [512, 512, 400, 200]


@pytest.mark.parametrize("height,width", [(3, 3), (2, 4), (32, 32)])
def test_features_that_cannot_be_doubled_are_refused(height, width):
  message = f"{height} x {width} cannot be doubled .* 16 x 16; choose"
  with pytest.raises(ValueError, match=message):
    ConvDecoder(16, 3).init(jax.random.key(0), jnp.ones((1, height, width, 2)))


@pytest.mark.parametrize("mix", [True, False])
def test_mixing_connects_all_places(mix):
  decoder = ConvDecoder(16, 1, width=4, mix=mix)
  x = _normal(1, 8, 8, 3)
  apply = jax.jit(decoder.apply)
  variables = _randomised(decoder, x)
  other = x.copy()
  other[0, 0, 0] += 3
  change = apply(variables, other) != apply(variables, x)
  # Without, only as far as the kernels see.
  assert np.mean(change) > 0.9 if mix else not np.any(change[:, 6:, 6:])


def test_mixing_is_of_each_channel_and_then_of_each_place():
  decoder = ConvDecoder(2, 2, mix=True)
  x = _normal(2, 2, 2, 5)
  variables = _randomised(decoder, x)
  params = variables["params"]
  flat = x.reshape(2, 4, 5)
  places = [flat[..., c] @ params["places"][..., c] for c in range(5)]
  mixed = np.stack(places, axis=-1) @ params["mix"]["kernel"]
  mixed = np.maximum(mixed + params["mix"]["bias"], 0).reshape(2, 2, 2, 5)
  plain = ConvDecoder(2, 2).apply({"params": {"out": params["out"]}}, mixed)
  np.testing.assert_allclose(
      decoder.apply(variables, x), plain, rtol=1e-4, atol=1e-5
  )


def test_a_norm_follows_each_doubling():
  decoder = ConvDecoder(8, 3, width=4, norm=functools.partial(BatchNorm, 1))
  x = _normal(2, 2, 2, 3)
  variables = _randomised(decoder, x)
  params = variables["params"]
  assert set(params) == {"up_1", "up_2", "norm_1", "norm_2", "out"}
  assert set(params["up_1"]) == {"kernel"}
  apply = jax.jit(
      functools.partial(decoder.apply, train=True, mutable=["batch_stats"])
  )
  image, state = apply(variables, x)
  # Statistics of the batch: the scale of the features drops out.
  other, _ = apply(variables, 10 * x)
  np.testing.assert_allclose(other, image, rtol=1e-3, atol=1e-3)
  old, new = (jax.tree.leaves(x["batch_stats"]) for x in (variables, state))
  assert all(np.any(a != b) for a, b in zip(old, new))


@pytest.mark.parametrize("mix", [True, False])
def test_conv_decoder_takes_bfloat16_and_gives_float32(mix):
  decoder = ConvDecoder(8, 3, width=4, mix=mix, dtype=jnp.bfloat16)
  x = jnp.asarray(_normal(2, 4, 4, 3), jnp.bfloat16)
  shapes = jax.eval_shape(decoder.init, jax.random.key(0), x)
  assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
  variables = _randomised(decoder, x)
  image = jax.jit(decoder.apply)(variables, x)
  exact = ConvDecoder(8, 3, width=4, mix=mix)
  exact = jax.jit(exact.apply)(variables, x.astype(jnp.float32))
  assert image.dtype == jnp.float32 and np.any(image != exact)
  np.testing.assert_allclose(image, exact, rtol=0.1, atol=0.05)


# Hidden patches from visible ones.


def _decoder(**arguments):
  sizes = dict(out=7, width=16, depth=2, heads=2)
  return TransformerDecoder(**sizes | arguments)


@functools.cache
def _variables():
  # So large that attention peaks.
  inputs = _normal(2, 4, 6), VISIBLE, HIDDEN
  return _randomised(_decoder(), *inputs, scale=0.7, grid=GRID)


@functools.partial(jax.jit, static_argnames=("grid",))
def _decode(tokens, visible, hidden, grid=GRID):
  return _decoder().apply(_variables(), tokens, visible, hidden, grid)


def test_predictions_are_of_the_hidden_patches():
  predictions = _decode(_normal(2, 4, 6), VISIBLE, HIDDEN)
  assert predictions.shape == (2, 3, 7) and predictions.dtype == jnp.float32


def test_the_order_of_visible_patches_does_not_matter():
  tokens, order = _normal(2, 4, 6), np.array([2, 0, 3, 1])
  expected = _decode(tokens, VISIBLE, HIDDEN)
  np.testing.assert_allclose(
      _decode(tokens[:, order], VISIBLE[:, order], HIDDEN),
      expected,
      rtol=1e-4,
      atol=1e-4,
  )
  # It is the places that tell which patch is which.
  moved = _decode(tokens[:, order], VISIBLE, HIDDEN)
  assert np.max(np.abs(moved - expected)) > 0.1


def test_predictions_follow_the_order_of_hidden_patches():
  tokens, order = _normal(2, 4, 6), np.array([2, 0, 1])
  expected = _decode(tokens, VISIBLE, HIDDEN)
  np.testing.assert_allclose(
      _decode(tokens, VISIBLE, HIDDEN[:, order]),
      expected[:, order],
      rtol=1e-4,
      atol=1e-4,
  )
  assert np.max(np.abs(expected - expected[:, order])) > 0.1


def test_predictions_depend_on_the_places_of_visible_patches():
  tokens = _normal(2, 4, 6)
  expected = _decode(tokens, VISIBLE, HIDDEN)
  other = VISIBLE.copy()
  other[0, 0] = 6
  actual = _decode(tokens, other, HIDDEN)
  assert np.all(np.max(np.abs(actual - expected)[0], axis=-1) > 1e-2)
  # And each image has places of its own.
  np.testing.assert_array_equal(actual[1], expected[1])


def test_places_are_those_of_the_grid():
  tokens = _normal(2, 4, 6)
  wide, high = (_decode(tokens, VISIBLE, HIDDEN, x) for x in (GRID, (5, 3)))
  assert np.max(np.abs(wide - high)) > 0.1


def test_a_class_token_comes_first_and_has_no_place():
  tokens = _normal(2, 5, 6)
  predictions = _decode(tokens, VISIBLE, HIDDEN)
  assert predictions.shape == (2, 3, 7)
  order = np.array([2, 0, 3, 1])
  permuted = tokens[:, [0, *(1 + order)]]
  np.testing.assert_allclose(
      _decode(permuted, VISIBLE[:, order], HIDDEN),
      predictions,
      rtol=1e-4,
      atol=1e-4,
  )
  without = _decode(tokens[:, 1:], VISIBLE, HIDDEN)
  assert np.max(np.abs(without - predictions)) > 0.1


def test_gradient_reaches_every_parameter_and_token():
  weights = _normal(2, 3, 7, seed=2)

  def loss(variables, tokens):
    y = _decoder().apply(variables, tokens, VISIBLE, HIDDEN, GRID, train=True)
    return jnp.sum(y * weights)

  gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(
      _variables(), _normal(2, 5, 6)
  )
  for path, x in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.max(np.abs(x)) > 1e-4, jax.tree_util.keystr(path)
  assert np.all(np.any(gradients[1], axis=-1))


def test_transformer_decoder_takes_bfloat16_and_gives_float32():
  decoder = _decoder(dtype=jnp.bfloat16)
  tokens = jnp.asarray(_normal(2, 4, 6), jnp.bfloat16)
  apply = jax.jit(functools.partial(decoder.apply, grid=GRID))
  predictions = apply(_variables(), tokens, VISIBLE, HIDDEN)
  exact = _decode(tokens.astype(jnp.float32), VISIBLE, HIDDEN)
  assert predictions.dtype == jnp.float32 and np.any(predictions != exact)
  np.testing.assert_allclose(predictions, exact, rtol=0.1, atol=0.3)
