"""Encoders of PyTorch libraries give the same features and gradients here."""

import argparse
import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import weights

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")
load_file = pytest.importorskip("safetensors.torch").load_file

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)


def _resnet(name):
  model = getattr(torchvision.models, name)()
  model.fc = torch.nn.Identity()
  return model


_timm = functools.partial(timm.create_model, num_classes=0)
_vit = functools.partial(_timm, dynamic_img_size=True)
_small = functools.partial(_vit, img_size=98)


def _gated():
  """A small one with the layers of DINOv2's giant."""
  return timm.models.vision_transformer.VisionTransformer(
      img_size=64,
      patch_size=16,
      embed_dim=192,
      depth=12,
      num_heads=3,
      num_classes=0,
      mlp_ratio=2 * 512 / 192,
      mlp_layer=timm.layers.SwiGLUPacked,
      act_layer=torch.nn.SiLU,
      init_values=0.1,
      dynamic_img_size=True,
  )


# What makes each model, and two sizes of images.
_MODELS = {
    "resnet18": (lambda: _resnet("resnet18"), (64, 97)),
    "resnet34": (lambda: _resnet("resnet34"), (64, 97)),
    "resnet50": (lambda: _resnet("resnet50"), (64, 97)),
    "resnet101": (lambda: _resnet("resnet101"), (64, 97)),
    "timm resnet50": (lambda: _timm("resnet50"), (64, 97)),
    "vit_tiny": (lambda: _vit("vit_tiny_patch16_224"), (224, 160)),
    "vit_small": (lambda: _vit("vit_small_patch32_224"), (224, 256)),
    "dinov2": (lambda: _small("vit_small_patch14_dinov2"), (98, 140)),
    "gated": (_gated, (64, 96)),
    "registers": (lambda: _small("vit_small_patch14_reg4_dinov2"), (98, 70)),
}


def _make(make):
  """Makes a model, in which nothing is constant.

  It changes what starts as a constant, so that it shows if it is mixed up.
  """
  torch.manual_seed(0)
  model = make()
  generator = torch.Generator().manual_seed(0)
  noise = lambda x: torch.randn(x.shape, generator=generator)
  with torch.no_grad():
    for name, x in (*model.named_parameters(), *model.named_buffers()):
      if name.endswith("running_var"):
        x.copy_(0.5 + noise(x).abs())
      elif x.ndim == 1 and x.is_floating_point():
        x.add_(0.1 * noise(x))
  return model.eval()


def _features_of_resnet(model, x):
  named = dict(model.named_children())
  activation = named.get("relu") or named["act1"]  # torchvision's, timm's.
  x = model.maxpool(activation(model.bn1(model.conv1(x))))
  features = {}
  for i in range(1, 5):
    x = getattr(model, f"layer{i}")(x)
    features[f"stage_{i}"] = x.permute(0, 2, 3, 1)
  return features | {"pooled": x.mean((2, 3))}


def _features_of_vit(model, x):
  outputs = []
  hooks = [
      block.register_forward_hook(lambda *a: outputs.append(a[2]))
      for block in model.blocks
  ]
  last = model.forward_features(x)
  for hook in hooks:
    hook.remove()
  ends = [len(outputs) * i // 4 - 1 for i in (1, 2, 3)]
  features = {}
  for i, tokens in enumerate([*(outputs[j] for j in ends), last], start=1):
    patches = tokens[:, model.num_prefix_tokens :]
    side = round(patches.shape[1] ** 0.5)
    features[f"stage_{i}"] = patches.unflatten(1, (side, side))
  return features | {"pooled": last[:, 0]}


def _assert_same(model, net, variables, size):
  """Compares features of all stages, and gradients of the images."""
  features_of = (
      _features_of_vit if hasattr(model, "blocks") else _features_of_resnet
  )
  random = np.random.default_rng(0)
  images = random.random((5, size, size, 3), np.float32)
  slope = None

  def run(dtype):
    nonlocal slope
    normalized = ((images.astype(dtype) - _MEAN) / _STD).transpose(0, 3, 1, 2)
    x = torch.tensor(normalized, requires_grad=True)
    features = features_of(model.to(x.dtype), x)
    if slope is None:
      slope = random.normal(size=features["pooled"].shape).astype(np.float32)
    (features["pooled"] * torch.tensor(slope.astype(dtype))).sum().backward()
    return features, x.grad.numpy().transpose(0, 2, 3, 1) / _STD

  _, exact = run("float64")
  expected, wanted = run("float32")

  def loss(images):
    features = net.apply(variables, images)
    return jnp.sum(features["pooled"] * slope), features

  gradient, found = jax.jit(jax.grad(loss, has_aux=True))(images)
  assert found.keys() == expected.keys()
  for name, theirs in expected.items():
    theirs = theirs.detach().numpy()
    error = np.abs(found[name] - theirs).max() / np.abs(theirs).max()
    assert error < 1e-5, name
  # Rounding decides at some ReLUs whether a gradient passes, there as here.
  norms = lambda x: np.linalg.norm(np.reshape(x, (len(x), -1)), axis=1)
  ours, theirs = (norms(x - exact) / norms(exact) for x in (gradient, wanted))
  assert np.median(ours) < max(1e-5, 3 * np.median(theirs)), (ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("name", _MODELS)
def test_features_and_gradients_are_those_of_the_source(name, tmp_path):
  make, sizes = _MODELS[name]
  model = _make(make)
  path = tmp_path / "weights.pth"
  torch.save({"state_dict": model.state_dict(), "epoch": 100}, path)
  net, variables = weights.load(path)
  for size in sizes:
    _assert_same(model, net, variables, size)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny", "registers"])
def test_what_is_saved_loads_strictly(name, tmp_path):
  model = _make(_MODELS[name][0])
  torch.save(model.state_dict(), tmp_path / "weights.pth")
  net, variables = weights.load(tmp_path / "weights.pth")
  layout = "timm" if hasattr(model, "blocks") else "torchvision"
  path = tmp_path / "saved.safetensors"
  weights.save(path, net, variables, layout=layout)
  state = load_file(path)
  expected = model.state_dict()
  model.load_state_dict(state, strict=True)
  for key, value in state.items():
    assert torch.equal(value, expected[key]), key


def test_a_checkpoint_with_other_objects_is_refused(tmp_path):
  path = tmp_path / "weights.pth"
  torch.save({"state_dict": {}, "more": collections.UserDict()}, path)
  with pytest.raises(ValueError, match="could run code when loaded"):
    weights.load(path)


def test_a_damaged_checkpoint_is_refused(tmp_path):
  path = tmp_path / "weights.pth"
  torch.save({"x": torch.ones(1000)}, path)
  path.write_bytes(path.read_bytes()[:-500])
  with pytest.raises(ValueError, match="weights.pth is not a PyTorch"):
    weights.load(path)
  path.write_bytes(b"not a checkpoint")
  with pytest.raises(ValueError, match="weights.pth"):
    weights.load(path)


def test_half_precision_and_arguments_are_read(tmp_path):
  model = _make(_MODELS["resnet18"][0])
  halved = {k: x.bfloat16() for k, x in model.state_dict().items()}
  content = {"state_dict": halved, "args": argparse.Namespace(lr=0.1)}
  torch.save(content, tmp_path / "weights.pth")
  _, variables = weights.load(tmp_path / "weights.pth")
  kernel = variables["params"]["stem"]["kernel"]
  assert kernel.dtype == np.float32
  np.testing.assert_array_equal(
      kernel, halved["conv1.weight"].float().numpy().transpose(2, 3, 1, 0)
  )
