"""Weights of other libraries: names, layouts, and what does not fit."""

import jax
import numpy as np
import pytest
import safetensors.numpy

from jssl import nets, weights
from jssl.weights import loading

_NETS = {
    "resnet18": nets.resnet18(width=4, mean=0.4, std=0.2),
    "resnet50": nets.resnet50(width=4, stem="cifar"),
    "vit": nets.vit_tiny(patch_size=32, image_size=64),
    "vit_dinov2": nets.vit_tiny(
        patch_size=32,
        image_size=64,
        registers=4,
        layer_scale=0.1,
        activation="swiglu",
    ),
    "vit_mean": nets.vit_tiny(
        patch_size=32, image_size=64, pooling="mean", positions="sincos"
    ),
}
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _random(net, size=64):
  """Variables of a net, none of which is constant."""
  images = np.zeros((1, size, size, 3), np.float32)
  shapes = jax.eval_shape(net.init, jax.random.key(0), images)
  random = np.random.default_rng(0)
  return jax.tree.map(
      lambda x: random.uniform(0.5, 1.5, x.shape).astype(np.float32), shapes
  )


def _assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def _as_timm(variables):
  """Adds the class token's position to it if there are registers."""
  params = dict(variables["params"])
  if "register_tokens" in params:
    params["class_token"] = params["class_token"] + params["class_position"]
    params["class_position"] = np.zeros_like(params["class_position"])
  return {**variables, "params": params}


@pytest.fixture(name="theirs")
def _theirs(tmp_path):
  """Saves a net and returns its arrays by their names, and the variables."""

  def save(name):
    net = _NETS[name]
    layout = "timm" if isinstance(net, nets.ViT) else "torchvision"
    variables = _random(net)
    weights.save(tmp_path / "x.safetensors", net, variables, layout=layout)
    return safetensors.numpy.load_file(tmp_path / "x.safetensors"), variables

  return save


@pytest.mark.parametrize("name", _NETS)
def test_what_is_saved_is_loaded(name, theirs, tmp_path):
  _, variables = theirs(name)
  net, loaded = weights.load(tmp_path / "x.safetensors")
  _assert_equal(loaded, _as_timm(variables))
  assert (net.mean, net.std) == _IMAGENET
  own = _NETS[name]
  same = ("stage_sizes", "bottleneck", "width", "stem", "depth", "heads")
  same += ("patch_size", "image_size", "pooling", "positions", "registers")
  for field in (*same, "activation"):
    assert getattr(net, field, None) == getattr(own, field, None), field
  assert bool(getattr(net, "layer_scale", 0)) == bool(
      getattr(own, "layer_scale", 0)
  )


@pytest.mark.parametrize("name", _NETS)
def test_the_own_layout_keeps_the_net(name, tmp_path):
  net, variables = _NETS[name], _random(_NETS[name])
  path = tmp_path / "x.safetensors"
  weights.save(path, net, variables, layout="jssl")
  loaded_net, loaded = weights.load(path)
  assert loaded_net == net
  _assert_equal(loaded, variables)


def test_names_and_shapes_are_torchvisions(theirs):
  arrays, variables = theirs("resnet18")
  params, statistics = variables["params"], variables["batch_stats"]
  assert len(arrays) == 20 + 4 * 20  # Convolutions and BatchNorms.
  expected = {
      "conv1.weight": params["stem"]["kernel"].transpose(3, 2, 0, 1),
      "bn1.running_var": statistics["stem_norm"]["var"],
      "layer1.1.bn2.weight": params["stage_1_block_2"]["norm_2"]["scale"],
      "layer2.0.downsample.0.weight": (
          params["stage_2_block_1"]["shortcut"]["kernel"].transpose(3, 2, 0, 1)
      ),
      "layer4.1.bn1.bias": params["stage_4_block_2"]["norm_1"]["bias"],
  }
  for name, array in expected.items():
    np.testing.assert_array_equal(arrays[name], array, err_msg=name)


def test_names_and_shapes_are_timms(theirs):
  arrays, variables = theirs("vit_dinov2")
  params = variables["params"]
  assert arrays["cls_token"].shape == (1, 1, 192)
  assert arrays["reg_token"].shape == (1, 4, 192)
  assert arrays["patch_embed.proj.weight"].shape == (192, 3, 32, 32)
  assert arrays["blocks.0.mlp.fc1.weight"].shape == (2 * 512, 192)
  token = params["class_token"] + params["class_position"]
  np.testing.assert_array_equal(arrays["cls_token"], token[None])
  positions = params["patch_positions"].reshape(1, 4, 192)
  np.testing.assert_array_equal(arrays["pos_embed"], positions)
  block = params["block_12"]
  expected = {
      "attn.qkv.weight": block["qkv"]["kernel"].T,
      "attn.proj.bias": block["out"]["bias"],
      "mlp.fc2.weight": block["mlp_2"]["kernel"].T,
      "norm2.weight": block["norm_2"]["scale"],
      "ls1.gamma": block["scale_1"],
  }
  for name, array in expected.items():
    np.testing.assert_array_equal(arrays[f"blocks.11.{name}"], array)


def test_a_convolution_is_pytorchs(theirs, tmp_path):
  arrays, _ = theirs("vit")
  net, variables = weights.load(tmp_path / "x.safetensors")
  image = np.random.default_rng(1).uniform(size=(64, 64, 3)).astype("f")
  mean, std = np.asarray(_IMAGENET, "f")
  pixels = ((image - mean) / std)[32:, :32]  # The second row's first patch.
  kernel = arrays["patch_embed.proj.weight"]
  expected = np.einsum("dchw,hwc->d", kernel, pixels)
  expected += arrays["patch_embed.proj.bias"]
  found = net.apply(variables, image[None], method="project")[0, 1, 0]
  np.testing.assert_allclose(found, expected, rtol=1e-4)


# From a layout to the name of a net and what comes before its arrays.
_PREFIXES = {
    "moco": ("resnet18", "state_dict.module.encoder_q."),
    "moco_v3": ("vit", "state_dict.module.base_encoder."),
    "dino": ("vit", "teacher.backbone."),
    "ijepa": ("vit_mean", "target_encoder.module."),
    "barlow_twins": ("resnet50", "model.module.backbone."),
    "byol": ("resnet50", "online_network_state_dict.encoder."),
    "simsiam": ("resnet50", "state_dict.module.encoder."),
    "lightning": ("resnet18", "state_dict.backbone."),
    "mae": ("vit_mean", "model."),
    "swav": ("resnet50", "module."),
    "torchvision": ("resnet50", ""),
    "timm": ("vit", "model."),
    "dinov2": ("vit", ""),
    "dinov2_registers": ("vit_dinov2", "teacher.backbone."),
}
# What else their files hold, some of it below the prefix.
_MORE = {
    "moco": ["queue", "module.encoder_k.conv1.weight", "encoder_q.fc.0.weight"],
    "mae": ["model.decoder_embed.weight", "model.mask_token"],
    "swav": ["module.prototypes.weight", "module.projection_head.0.weight"],
    "torchvision": ["fc.weight", "bn1.num_batches_tracked"],
    "timm": ["model.head.weight"],
    "dinov2": ["mask_token"],
    "dinov2_registers": ["teacher.backbone.mask_token"],
}


def test_every_layout_is_recognised_below():
  alone = {"jssl", "simclr"}  # By metadata, and by name only.
  assert set(_PREFIXES) | alone == set(weights.LAYOUTS)


@pytest.mark.parametrize("layout", _PREFIXES)
def test_a_layout_is_recognised(layout, theirs, tmp_path):
  name, prefix = _PREFIXES[layout]
  arrays, variables = theirs(name)
  if layout == "dinov2_registers":
    arrays["register_tokens"] = arrays.pop("reg_token")
    arrays = {
        key.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): x
        for key, x in arrays.items()
    }
  file = {prefix + key: x for key, x in arrays.items()}
  file |= {key: np.ones((3, 2), "f") for key in _MORE.get(layout, ())}
  path = tmp_path / "theirs.safetensors"
  safetensors.numpy.save_file(file, path)
  found = weights.read(path)
  assert found.layout == layout
  _assert_equal(found.variables, _as_timm(variables))


def test_layers_may_be_numbered(theirs, tmp_path):
  arrays, variables = theirs("resnet50")
  numbers = {"conv1": "0", "bn1": "1"}
  numbers |= {f"layer{i}": str(3 + i) for i in range(1, 5)}
  file = {}
  for key, x in arrays.items():
    first, rest = key.split(".", 1)
    file[f"backbone.{numbers[first]}.{rest}"] = x
  path = tmp_path / "theirs.safetensors"
  safetensors.numpy.save_file(file, path)
  _assert_equal(weights.load(path)[1], variables)


def test_images_of_simclr_are_not_normalised(theirs, tmp_path):
  theirs("resnet18")
  net, _ = weights.load(tmp_path / "x.safetensors", layout="simclr")
  assert (net.mean, net.std) == ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: x.pop("conv1.weight"), "missing: conv1.weight"),
        (lambda x: x.update(new=np.ones(2)), "left over: new"),
        (
            lambda x: x.update({"bn1.bias": np.ones(5, "f")}),
            r"of another shape: bn1.bias \(5,\)",
        ),
        (
            lambda x: x.update({"layer1.0.conv2.weight": np.ones(5, "f")}),
            r"of another shape: layer1.0.conv2.weight \(5,\)",
        ),
        (
            lambda x: x.update({"layer1.7.conv1.weight": x["conv1.weight"]}),
            r"\(8, 2, 2, 2\) basic blocks; expected one of resnet8",
        ),
        (lambda x: [x.pop(k) for k in list(x) if "layer1" in k], "any layout"),
    ],
)
def test_what_does_not_fit_is_named(change, message, theirs, tmp_path):
  arrays, _ = theirs("resnet18")
  change(arrays)
  path = tmp_path / "theirs.safetensors"
  safetensors.numpy.save_file(arrays, path)
  with pytest.raises(ValueError, match=message):
    weights.load(path)


def test_a_long_list_is_cut():
  assert loading._some(list("abcdefg")) == "a, b, c, d, e and 2 more"


def test_files_that_are_none_are_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match="nowhere.pth does not exist"):
    weights.load(tmp_path / "nowhere.pth")
  (tmp_path / "x.txt").write_text("text")
  with pytest.raises(ValueError, match="'.txt'; expected one of .safetensors"):
    weights.load(tmp_path / "x.txt")
  (tmp_path / "x.safetensors").write_text("text")
  with pytest.raises(ValueError, match="is not a .safetensors file"):
    weights.load(tmp_path / "x.safetensors")


def test_unknown_layouts_are_refused(theirs, tmp_path):
  theirs("resnet18")
  path = tmp_path / "x.safetensors"
  with pytest.raises(ValueError, match="'moc'.*Did you mean 'moco'"):
    weights.load(path, layout="moc")
  with pytest.raises(ValueError, match="does not have the layout moco_v3"):
    weights.load(path, layout="moco_v3")
  net = _NETS["resnet18"]
  with pytest.raises(ValueError, match="expected 'jssl', 'torchvision'"):
    weights.save(path, net, _random(net), layout="moco")
  with pytest.raises(ValueError, match="torchvision has no names for a ViT"):
    weights.save(path, _NETS["vit"], {}, layout="torchvision")
