"""The interface of a backbone: names of stages and of parameters."""

import jax
import jax.numpy as jnp
import pytest

from jssl import nets
from jssl.nets import backbone
import tiny

MAKE = {"resnet": tiny.resnet, "vit": tiny.vit}
IMAGES = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)


def _shapes(name):
  """The variables and the features of a net."""
  init = lambda key, images: MAKE[name]().init_with_output(key, images)
  features, variables = jax.eval_shape(init, jax.random.key(0), IMAGES)
  return variables, features


@pytest.mark.parametrize("name", MAKE)
def test_stages_are_maps_and_in_order(name):
  _, features = _shapes(name)
  stages = nets.stage_names(features)
  assert stages == ["stage_1", "stage_2"]
  assert set(features) == {"pooled", *stages}
  assert all(features[stage].ndim == 4 for stage in stages)
  many = [backbone.stage_name(i) for i in range(1, 13)]
  assert nets.stage_names(sorted(many)) == many


def _layers(name):
  """The layers of the parameters, by the first part of their path."""
  params = _shapes(name)[0]["params"]
  leaves = jax.tree_util.tree_leaves_with_path({"net": params})
  return {path[1].key: backbone.layer_of(path) for path, _ in leaves}


def test_parameters_of_a_transformer_have_layers():
  expected = {"patch": 0, "patch_positions": 0, "block_1": 1, "block_2": 2}
  assert _layers("vit") == expected | {"norm": None}
  assert backbone.PATCH_PROJECTION in expected


def test_parameters_of_a_resnet_have_none():
  assert set(_layers("resnet").values()) == {None}


@pytest.mark.parametrize("net", [nets.ResNet((1,), width=4), nets.vit_micro()])
def test_images_of_integers_are_refused(net):
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.uint8)
  with pytest.raises(ValueError, match="images are uint8.*divide them by 255"):
    jax.eval_shape(net.init, jax.random.key(0), images)
