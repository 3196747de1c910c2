"""The encoder: any number of images, any size, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from jssl import augment, encoder, load_encoder, optim
from jssl.config import build, save_config
from jssl.methods import METHODS
from jssl.step import init_state
import test_contract
import tiny
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


@pytest.mark.slow
def test_features_are_those_of_the_net_on_the_central_square(loaded):
  path, encode, params = loaded
  images = _images(3)
  square = jnp.asarray(images[:, :, 4:24] / 255, jnp.float32)
  resize = lambda x: augment.resized_crop(x, (0, 0, 20, 20), 16)
  seen = jax.jit(jax.vmap(resize))(square)
  trained = encoder.load(path)
  variables = {
      "params": trained.params[0]["net"],
      "batch_stats": trained.params[1].batch_stats["net"],
  }
  expected = jax.jit(build.net(trained.config).apply)(variables, seen)
  features = encode(params, images, stages=True)
  for name, value in expected.items():
    np.testing.assert_allclose(features[name], value, atol=1e-4, err_msg=name)


def test_an_encoder_does_not_need_its_optimizer(tmp_path):
  """The optimizer may be that of another version: here, another optimizer."""
  made = tiny_run.config()
  tiny_run.save(tmp_path / "run", made)
  expected = encoder.load(str(tmp_path / "run"))
  made.optimizer.name = "lars" if made.optimizer.name != "lars" else "adamw"
  made.optimizer.former = 1.0
  save_config(made, str(tmp_path / "run"))
  trained = encoder.load(str(tmp_path / "run"))
  for a, b in zip(
      jax.tree.leaves(trained.params),
      jax.tree.leaves(expected.params),
      strict=True,
  ):
    np.testing.assert_array_equal(a, b)
  assert trained.step == expected.step == 7
  fresh = encoder.untrained(trained)
  assert fresh.step == 0
  assert jax.tree.structure(fresh.params) == jax.tree.structure(trained.params)


def test_features_do_not_depend_on_the_batch(loaded):
  _, encode, params = loaded
  images = _images(5)
  features = encode(params, images)
  for part in (images[:1], images[:3]):
    np.testing.assert_allclose(
        encode(params, part), features[: len(part)], atol=1e-5
    )


def test_images_of_another_kind_are_refused(loaded):
  _, encode, params = loaded
  with pytest.raises(ValueError, match="1 channels.*trained on 3"):
    encode(params, _images(2)[..., :1])
  with pytest.raises(ValueError, match="28 channels; .*moveaxis"):
    encode(params, np.moveaxis(_images(2), -1, 1))
  with pytest.raises(ValueError, match="leading dimension"):
    encode(params, _images(2)[0])


def test_a_shape_is_compiled_once(loaded):
  path, _, _ = loaded
  encode, params = load_encoder(path)
  for seed in range(3):
    encode(params, _images(2) + np.uint8(seed))
  compiled = encode.__wrapped__
  assert compiled._cache_size() == 1
  encode(params, _images(3))
  assert compiled._cache_size() == 2


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


@pytest.mark.parametrize(
    "wrong,held",
    [
        (lambda x: np.float32(x), "values from 0 to 255.*divide them by 255"),
        (lambda x: jnp.asarray(x, jnp.float32), "values from 0 to 255"),
        (lambda x: np.float64(x) / 255 * 2, "values from 0 to 2"),
        (lambda x: (np.float32(x) / 255 - 0.45) / 0.22, "values from -2.0"),
        (lambda x: np.where(x == 0, np.nan, np.float32(x) / 255), "NaN"),
    ],
)
def test_floats_outside_of_0_to_1_are_refused(loaded, wrong, held):
  _, encode, params = loaded
  images = _images(2)
  assert images.min() == 0 and images.max() == 255
  with pytest.raises(ValueError, match=f"images hold {held}"):
    encode(params, wrong(images))
  # Tracers have no values to check.
  jax.eval_shape(encode, params, jnp.asarray(wrong(images)))
  encode(params, np.float32(images) / 255 * 1.0001)  # Rounding is tolerated.


@pytest.mark.parametrize(
    "wrong,remedy",
    [
        (lambda x: list(x), "images are a list; .*np.stack"),
        (lambda x: Image.fromarray(x[0]), "PIL.Image.Image; .*np.asarray"),
    ],
)
def test_other_types_than_arrays_are_refused(loaded, wrong, remedy):
  _, encode, params = loaded
  with pytest.raises(ValueError, match=remedy):
    encode(params, wrong(_images(2)))


def test_views_and_floats_check_their_values():
  images = np.float32(_images(2))
  recipes = (tiny.plain,)
  with pytest.raises(ValueError, match="values from 0 to 255"):
    augment.make_views(jax.random.key(0), {"image": images}, recipes)
  with pytest.raises(ValueError, match="values from 0 to 255"):
    augment.to_float(images)


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
    """The value a small step along the gradient."""
    step = jax.tree.map(lambda x: distance * x / norm, gradient)
    new = jax.tree.map(jnp.add, point[argument], step)
    return value(*[new if i == argument else x for i, x in enumerate(point)])

  slope = (moved(1e-2) - moved(-1e-2)) / 2e-2
  np.testing.assert_allclose(slope, norm, rtol=2e-2)


# DINO and I-JEPA encode with an average in what they carry, and the input of
# the nets of colorization and jigsaw is not the image itself.
_ENCODERS = ("moco_v2", "byol", "dino", "ijepa", "colorization", "jigsaw")


def _watched(net):
  """The same net, and a list of its inputs."""
  inputs = []

  class Watched(type(net)):

    def __call__(self, images, *, train=False):
      inputs.append(images)
      return super().__call__(images, train=train)

  own = set(net.__dataclass_fields__) - {"parent", "name"}
  return Watched(**{key: getattr(net, key) for key in own}), inputs


def _net(name):
  return tiny.vit() if name == "ijepa" else tiny.Net(grid=2)


def _trained(name, net):
  """A trained encoder of random numbers."""
  method = METHODS[name](net, **test_contract.ARGUMENTS[name])
  optimizer, batch = optim.sgd(0.1), {"image": tiny.images(4)}
  state = jax.jit(lambda key: init_state(method, optimizer, key, batch))(
      jax.random.key(0)
  )
  params = tiny_run.shaken(jax.random.key(1), (state.params, state.carried))
  made = tiny_run.config(image_size=8)
  return encoder.Encoder(made, method, step=1, params=params, encode=None)


@pytest.mark.slow
@pytest.mark.parametrize("name", _ENCODERS)
def test_the_backbone_is_the_one_that_encodes(name):
  net, inputs = _watched(_net(name))
  trained = _trained(name, net)
  method, found = trained.method, encoder.backbone(trained)

  @jax.jit
  def both(params, variables, images):
    inputs.clear()
    encoded = method.encode(*params, images)["pooled"]
    (seen,) = inputs
    assert seen.shape[1:] == found.input_shape
    return encoded, net.apply(variables, seen)["pooled"]

  images = augment.to_float(tiny.images(2))
  encoded, alone = both(trained.params, found.variables, images)
  if name == "jigsaw":  # Its features are the mean of nine tiles.
    alone = alone.reshape(-1, 9, alone.shape[-1]).mean(axis=1)
  np.testing.assert_allclose(alone, encoded, atol=1e-5)


@pytest.mark.parametrize("name", _ENCODERS)
def test_a_trainable_encoder_is_the_same_until_it_trains(name, monkeypatch):
  net = _net(name)
  monkeypatch.setattr(encoder.build, "net", lambda config: net)
  trained = _trained(name, net)
  variables = encoder.backbone(trained).variables
  encode = encoder.make_trainable(trained)
  images = augment.to_float(tiny.images(4))
  expected = jax.jit(trained.method.encode)(*trained.params, images)["pooled"]
  features, statistics = jax.jit(encode)(variables, images)
  np.testing.assert_allclose(features, expected, atol=1e-5)
  old = variables.get("batch_stats", {})
  jax.tree.map(np.testing.assert_array_equal, statistics, old)
  # Gradients reach every parameter.
  loss = lambda params: jnp.sum(
      jnp.square(encode({**variables, "params": params}, images)[0])
  )
  gradient = jax.jit(jax.grad(loss))(variables["params"])
  assert all(np.max(np.abs(x)) > 0 for x in jax.tree.leaves(gradient))
  if not old:
    return
  # In training, BatchNorm uses the statistics of the batch.
  train = jax.jit(lambda *x: encode(*x, key=jax.random.key(0)))
  trained_features, moved = train(variables, images)
  assert np.max(np.abs(trained_features - features)) > 0.01
  other = {**variables, "batch_stats": jax.tree.map(lambda x: x + 1, old)}
  same, moved_elsewhere = train(other, images)
  np.testing.assert_allclose(same, trained_features, atol=1e-5)
  jax.tree.map(
      lambda new, old, elsewhere: np.testing.assert_allclose(
          elsewhere - new, 0.9 * np.ones_like(old), atol=1e-5
      ),
      moved,
      old,
      moved_elsewhere,
  )


@pytest.mark.slow
def test_training_takes_the_batch_as_one_group(tmp_path):
  made = tiny_run.config()
  assert made.net.groups > 1
  tiny_run.save(tmp_path, made)
  trained = encoder.load(str(tmp_path))
  variables = encoder.backbone(trained).variables
  images = jnp.asarray(_images(8, 16, 16) / 255, jnp.float32)
  features, _ = jax.jit(encoder.make_trainable(trained))(
      variables, images, key=jax.random.key(0)
  )
  alone = dict(train=True, mutable=["batch_stats"])
  net = build.net(trained.config)
  expected, _ = net.clone(groups=1).apply(variables, images, **alone)
  np.testing.assert_allclose(features, expected["pooled"], atol=1e-4)
  apart, _ = net.apply(variables, images, **alone)
  assert np.max(np.abs(features - apart["pooled"])) > 0.01
