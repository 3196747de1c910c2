"""What `load_encoder` promises: any number of images, any size, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import augment
from jssl import build
from jssl import encoder
from jssl import load_encoder
import tiny_run


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
  """The folder of a run, and its encoder."""
  path = tmp_path_factory.mktemp("run")
  tiny_run.save(path, tiny_run.config())
  return str(path), *load_encoder(str(path))


def _images(count, height=20, width=28):
  random = np.random.default_rng(0)
  return random.integers(0, 256, (count, height, width, 3), np.uint8)


def test_features_are_those_of_the_net_on_the_central_square(loaded):
  path, encode, params = loaded
  images = _images(3)
  square = jnp.asarray(images[:, :, 4:24] / 255, jnp.float32)
  resize = lambda x: augment.resized_crop(x, (0, 0, 20, 20), 16)
  seen = jax.jit(jax.vmap(resize))(square)
  trained = encoder.load(path)
  variables = {
      "params": trained.state.params["net"],
      "batch_stats": trained.state.carried.batch_stats["net"],
  }
  expected = jax.jit(build.net(trained.config).apply)(variables, seen)
  features = encode(params, images, stages=True)
  for name, value in expected.items():
    np.testing.assert_allclose(features[name], value, atol=1e-4, err_msg=name)


def test_features_do_not_depend_on_the_batch(loaded):
  _, encode, params = loaded
  images = _images(5)
  features = encode(params, images)
  for part in (images[:1], images[:3]):
    np.testing.assert_allclose(
        encode(params, part), features[: len(part)], atol=1e-5
    )


def test_a_shape_is_compiled_once(loaded):
  path, _, _ = loaded
  encode, params = load_encoder(path)
  for seed in range(3):
    encode(params, _images(2) + np.uint8(seed))
  assert encode._cache_size() == 1
  encode(params, _images(3))
  assert encode._cache_size() == 2


def test_floats_are_the_bytes_in_0_to_1(loaded):
  _, encode, params = loaded
  images = _images(2)
  features = encode(params, images)
  assert features.dtype == jnp.float32
  for dtype, close in ((np.float32, 1e-5), (np.float16, 1e-2)):
    floats = (images / 255).astype(dtype)
    np.testing.assert_allclose(
        encode(params, floats), features, atol=close, rtol=close
    )
  with pytest.raises(ValueError, match="int32"):
    encode(params, images.astype(np.int32))


@pytest.mark.parametrize("of", ["params", "images"])
def test_gradients_are_those_of_finite_differences(loaded, of):
  _, encode, (trained, carried) = loaded
  images = jnp.asarray(_images(2) / 255, jnp.float32)
  weights = jax.random.normal(jax.random.key(0), (2, 32))

  def value(net, images):
    params = {**trained, "net": net}
    return jnp.sum(weights * encode((params, carried), images))

  argument = 0 if of == "params" else 1
  point = (trained["net"], images)
  value = jax.jit(value)
  gradient = jax.jit(jax.grad(value, argument))(*point)
  leaves = jax.tree.leaves(gradient)
  assert all(np.abs(x).max() > 0 for x in leaves)
  norm = np.sqrt(sum(np.sum(np.square(x)) for x in leaves))

  def moved(distance):
    """The value a little further along the gradient."""
    step = jax.tree.map(lambda x: distance * x / norm, gradient)
    new = jax.tree.map(jnp.add, point[argument], step)
    return value(*[new if i == argument else x for i, x in enumerate(point)])

  slope = (moved(1e-2) - moved(-1e-2)) / 2e-2
  np.testing.assert_allclose(slope, norm, rtol=2e-2)
