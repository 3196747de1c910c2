"""Residual networks."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import nets
from jssl.nets import resnet
import tiny

# Of torchvision's models without the last linear layer.
PUBLISHED = {
    "resnet18": 11_176_512,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
}


@functools.cache
def _shapes(name, size, **arguments):
  """Shapes of the features and variables; nothing is computed."""
  net = nets.NETS[name](**arguments)
  images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  return jax.eval_shape(net.init_with_output, jax.random.key(0), images)


def _count(tree):
  return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def _tiny(**arguments):
  return nets.ResNet((1, 1), width=8, stem="cifar", **arguments)


def _images():
  random = np.random.default_rng(0)
  return random.uniform(size=(4, 8, 8, 3)).astype(np.float32)


@functools.cache
def _variables():
  return jax.jit(_tiny().init)(jax.random.key(0), _images())


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name):
  _, variables = _shapes(name, 224)
  assert _count(variables["params"]) == PUBLISHED[name]


@pytest.mark.parametrize("name,factor", [("resnet18", 1), ("resnet50", 4)])
def test_stages_of_the_imagenet_stem_have_the_shapes_of_the_paper(name, factor):
  features, _ = _shapes(name, 224)
  assert {key: x.shape for key, x in features.items()} == {
      "stage_1": (2, 56, 56, 64 * factor),
      "stage_2": (2, 28, 28, 128 * factor),
      "stage_3": (2, 14, 14, 256 * factor),
      "stage_4": (2, 7, 7, 512 * factor),
      "pooled": (2, 512 * factor),
  }


def test_the_cifar_stem_keeps_the_size():
  features, variables = _shapes("resnet18", 32, stem="cifar")
  assert {key: x.shape for key, x in features.items()} == {
      "stage_1": (2, 32, 32, 64),
      "stage_2": (2, 16, 16, 128),
      "stage_3": (2, 8, 8, 256),
      "stage_4": (2, 4, 4, 512),
      "pooled": (2, 512),
  }
  # A 3x3 convolution in place of a 7x7 one.
  fewer = 64 * 3 * (49 - 9)
  assert _count(variables["params"]) == PUBLISHED["resnet18"] - fewer


def test_the_width_factor_scales_every_stage():
  features, _ = _shapes("resnet18", 32, stem="cifar", width=16)
  assert [features[f"stage_{i}"].shape[-1] for i in (1, 2, 3, 4)] == [
      16,
      32,
      64,
      128,
  ]
  assert features["pooled"].shape == (2, 128)


def test_images_of_one_channel_and_odd_size_are_taken():
  features = jax.eval_shape(
      lambda key, x: _tiny().init_with_output(key, x)[0],
      jax.random.key(0),
      jax.ShapeDtypeStruct((2, 9, 7, 1), jnp.float32),
  )
  assert features["stage_2"].shape == (2, 5, 4, 16)


def test_an_unknown_stem_is_refused():
  with pytest.raises(ValueError, match="'resnet'.*'imagenet', 'cifar'"):
    nets.ResNet((1,), stem="resnet").init(jax.random.key(0), _images())


def test_a_stage_is_the_equation_of_the_paper():
  """One residual block, in NumPy, against the net's stage 1."""
  images, variables = _images(), _variables()
  # Statistics and parameters that no default could stand in for.
  random = np.random.default_rng(1)
  variables = jax.tree.map(
      lambda x: random.uniform(0.5, 1.5, x.shape).astype(np.float32)
      if x.ndim == 1
      else np.asarray(x),
      variables,
  )

  def conv(x, kernel):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        padded[:, i : i + 8, j : j + 8] @ kernel[i, j]
        for i in range(3)
        for j in range(3)
    )

  def norm(x, params, statistics):
    x = (x - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5)
    return x * params["scale"] + params["bias"]

  params, statistics = variables["params"], variables["batch_stats"]
  x = conv((images - 0.5) / 0.25, params["stem"]["kernel"])
  x = np.maximum(norm(x, params["stem_norm"], statistics["stem_norm"]), 0)
  block, stats = (tree["stage_1_block_1"] for tree in (params, statistics))
  y = conv(x, block["conv_1"]["kernel"])
  y = np.maximum(norm(y, block["norm_1"], stats["norm_1"]), 0)
  y = norm(conv(y, block["conv_2"]["kernel"]), block["norm_2"], stats["norm_2"])
  features = jax.jit(_tiny().apply)(variables, images)
  np.testing.assert_allclose(
      features["stage_1"], np.maximum(x + y, 0), rtol=1e-4, atol=1e-4
  )
  np.testing.assert_allclose(
      features["pooled"], features["stage_2"].mean((1, 2)), rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize("side", [8, 7])
def test_the_shortcut_is_a_strided_convolution(side):
  """In value and gradient, on even and odd sides."""
  random = np.random.default_rng(0)
  x = random.normal(size=(2, side, side, 4)).astype(np.float32)
  conv = functools.partial(nn.Conv, use_bias=False)
  norm = lambda name, **_: lambda y, **_: y if "short" in name else 0 * y
  block = resnet.Block(
      8, stride=2, bottleneck=False, zero_init=False, conv=conv, norm=norm
  )
  apply = lambda variables, x: block.apply(variables, x, train=True, views=1)
  variables = block.init(jax.random.key(0), x, train=True, views=1)
  kernel = variables["params"]["shortcut"]["kernel"]
  assert kernel.shape == (1, 1, 4, 8)
  strided = lambda kernel, x: nn.relu(
      jax.lax.conv_general_dilated(
          x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
      )
  )
  np.testing.assert_allclose(
      apply(variables, x), strided(kernel, x), rtol=1e-5, atol=1e-6
  )
  loss = lambda f: lambda *arguments: jnp.sum(f(*arguments) ** 3)
  gradients = jax.grad(loss(apply), argnums=(0, 1))(variables, x)
  expected = jax.grad(loss(strided), argnums=(0, 1))(kernel, x)
  actual = gradients[0]["params"]["shortcut"]["kernel"], gradients[1]
  for a, b in zip(actual, expected):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("net", [tiny.resnet, tiny.vit])
@pytest.mark.parametrize(
    "statistics,message",
    [
        (dict(mean=(0.4, 0.5)), "mean has 2 numbers, .*the images have 3 chan"),
        (dict(std=(0.2,) * 4), "std has 4 numbers, .*the images have 3 chan"),
    ],
)
def test_statistics_of_other_channels_are_refused(net, statistics, message):
  images = jnp.zeros((1, 8, 8, 3))
  init = lambda **changes: jax.eval_shape(
      net(**changes).init, jax.random.key(0), images
  )
  with pytest.raises(ValueError, match=message):
    init(**statistics)
  init(mean=(0.4, 0.5, 0.6), std=0.2)


def test_three_statistics_do_not_make_colors_of_gray():
  with pytest.raises(ValueError, match="the images have 1 channel;"):
    jax.eval_shape(
        tiny.resnet(mean=(0.4, 0.5, 0.6)).init,
        jax.random.key(0),
        jnp.zeros((1, 8, 8, 1)),
    )


def test_images_are_normalised_by_mean_and_std():
  images = _images()
  mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
  apply = lambda net, images: jax.jit(net.apply)(_variables(), images)
  inside = apply(_tiny(mean=mean, std=std), images)
  outside = apply(
      _tiny(mean=0.0, std=1.0), (images - np.float32(mean)) / np.float32(std)
  )
  np.testing.assert_allclose(
      inside["pooled"], outside["pooled"], rtol=1e-4, atol=1e-5
  )


def test_bfloat16_keeps_parameters_statistics_and_pooled_float32():
  net = _tiny(dtype=jnp.bfloat16)
  features, variables = jax.eval_shape(
      functools.partial(net.init_with_output, train=True),
      jax.random.key(0),
      _images(),
  )
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.float32.dtype}
  assert features["stage_1"].dtype == features["stage_2"].dtype == jnp.bfloat16
  assert features["pooled"].dtype == jnp.float32


def test_bfloat16_features_are_near_those_of_float32():
  apply = lambda net: jax.jit(net.apply)(_variables(), _images())["pooled"]
  exact, rough = apply(_tiny()), apply(_tiny(dtype=jnp.bfloat16))
  # Eight bits of mantissa, through six layers.
  np.testing.assert_allclose(rough, exact, rtol=0.05, atol=0.02)
  assert not np.allclose(rough, exact, rtol=1e-5, atol=1e-6)


def test_training_updates_every_statistic_and_evaluation_none():
  net, variables = _tiny(), _variables()
  for train, changes in ((True, True), (False, False)):
    apply = functools.partial(net.apply, train=train, mutable=["batch_stats"])
    _, new = jax.jit(apply)(variables, _images())
    changed = jax.tree.map(
        lambda a, b: bool(np.any(a != b)),
        new["batch_stats"],
        variables["batch_stats"],
    )
    assert set(jax.tree.leaves(changed)) == {changes}


@pytest.mark.parametrize("bottleneck", [False, True])
def test_zero_init_makes_each_block_the_identity_at_first(bottleneck):
  net = nets.ResNet(
      (2,), bottleneck, width=4, stem="cifar", zero_init_residual=True
  )
  images = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))
  variables = net.init(jax.random.key(0), images)
  last = "norm_3" if bottleneck else "norm_2"
  for block in ("stage_1_block_1", "stage_1_block_2"):
    assert not np.any(variables["params"][block][last]["scale"])
    assert np.all(variables["params"][block]["norm_1"]["scale"] == 1)
  one = net.clone(stage_sizes=(1,))
  np.testing.assert_array_equal(
      net.apply(variables, images)["pooled"],
      one.apply(variables, images)["pooled"],
  )
