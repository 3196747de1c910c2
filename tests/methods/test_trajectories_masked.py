"""Masked image models take the steps that their authors' code takes.

docs/fidelity.md says what each was compared with, and what differs on purpose.
"""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import masking, optim
from jssl.method import Keys
from jssl.methods import _one_net, METHODS
from jssl.nets import ViT
import trajectories

pytestmark = pytest.mark.slow

# The package shows the constructors under the modules' names.
ijepa_file = importlib.import_module("jssl.methods.ijepa")
simmim_file = importlib.import_module("jssl.methods.simmim")
mae_file = importlib.import_module("jssl.methods.mae")
_MOMENTS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_VIT = functools.partial(ViT, 48, depth=2, heads=3, patch_size=8, **_MOMENTS)
KEYS = Keys(jax.random.key(1), jax.random.key(2))
params = lambda state: state.params


def _random(name, seed):
  return trajectories._random(name, seed)


@pytest.mark.parametrize("normalize", [True, False])
def test_mae(normalize):
  golden = trajectories.reference("mae" if normalize else "mae_pixels")
  images = trajectories.make_views(11, count=1)[:, 0]
  order = np.argsort(_random("noise", 11).uniform(size=(5, 16, 16)), axis=-1)
  split = masking.Split(order[..., :4], order[..., 4:])
  inputs = mae_file.Inputs(images, split)
  method = METHODS["mae"](
      _VIT(image_size=32, positions="sincos"),
      normalize=normalize,
      decoder_width=32,
      decoder_depth=2,
      decoder_heads=2,
  )
  schedule = optim.cosine(1e-2, epochs=4, steps_per_epoch=2, warmup_epochs=1)
  np.testing.assert_allclose(
      golden["learning_rate"], [schedule(i) for i in range(5)], rtol=1e-6
  )
  optimizer = optim.adamw(schedule, weight_decay=0.05, b2=0.95)
  trajectory = trajectories.run(
      method, optimizer, _one_net.Task(inputs, None), seed=11
  )
  trajectories.check(trajectory, golden, {"params": params})


def _patches(index):
  """Patches of which -1 are not there."""
  return masking.Patches(np.maximum(index, 0).astype(np.int32), index >= 0)


def test_ijepa():
  golden = trajectories.reference("ijepa")
  images = trajectories.make_views(12, count=1, batch=8, size=48)[:, 0]
  views = ijepa_file.Views(
      images, _patches(golden["context"]), _patches(golden["targets"])
  )
  assert not np.all(views.context.valid) and not np.all(views.targets.valid)
  momentum = optim.linear(1.0, epochs=3, steps_per_epoch=2, start=0.9)
  method = METHODS["ijepa"](
      _VIT(image_size=48, positions="sincos", pooling="mean"),
      predictor_width=24,
      predictor_depth=2,
      predictor_heads=3,
      momentum=momentum,
  )
  # The authors' code asks for the values of a step after counting it.
  later = lambda schedule: lambda step: schedule(step + 1)
  cosine = functools.partial(optim.cosine, epochs=3, steps_per_epoch=2)
  rate = later(cosine(1e-2, warmup_epochs=1, start=2e-3, end=1e-6))
  decay = later(cosine(0.04, end=0.4))
  schedules = {
      "momentum": momentum,
      "learning_rate": rate,
      "weight_decay": decay,
  }
  for name, schedule in schedules.items():
    np.testing.assert_allclose(
        golden[name], [schedule(i) for i in range(5)], rtol=1e-6
    )
  trajectory = trajectories.run(
      method, optim.adamw(rate, weight_decay=decay), views, seed=12
  )
  trees = {
      "params": params,
      "target_params": lambda state: state.carried.target_params,
  }
  trajectories.check(trajectory, golden, trees)


def _simmim():
  """The net of BEiT, and views with the authors' masks."""
  net = _VIT(
      image_size=48,
      positions="relative",
      pooling="patches",
      layer_scale=0.1,
      key_bias=False,
  )
  images = trajectories.make_views(13, count=1, batch=8, size=48)[:, 0]
  random = np.random.RandomState(13)
  hidden = np.zeros((5 * 8, 9), bool)
  for row in hidden:
    row[random.permutation(9)[: masking.hidden_count(9, 0.6)]] = True
  hidden = hidden.reshape(5, 8, 3, 3).repeat(2, axis=2).repeat(2, axis=3)
  return net, _one_net.Task(simmim_file.Inputs(images, hidden), None)


def test_simmim():
  golden = trajectories.reference("simmim")
  net, views = _simmim()
  schedule = optim.staircase(
      1e-2,
      epochs=3,
      steps_per_epoch=2,
      drops=(0.5,),
      warmup_epochs=1,
      start=1e-3,
  )
  # The authors' code sets what comes next by the step that was taken.
  schedule = lambda step, made=schedule: made(jnp.maximum(step - 1, 0))
  np.testing.assert_allclose(
      golden["learning_rate"], [schedule(i) for i in range(5)], rtol=1e-6
  )
  optimizer = optim.adamw(
      schedule,
      weight_decay=0.05,
      clip_norm=0.5,
      exclude_names=("class_token",),
  )
  trajectory = trajectories.run(
      METHODS["simmim"](net), optimizer, views, seed=13
  )
  trajectories.check(trajectory, golden, {"params": params})


def test_features_and_gradients_of_simmim():
  golden = trajectories.reference("simmim")
  net, views = _simmim()
  method = METHODS["simmim"](net)
  first = jax.tree.map(lambda x: jnp.asarray(x[0]), views)
  start, carried = method.init(jax.random.key(0), first)
  start = trajectories.draw(start, 13)
  images, hidden = first.inputs

  def features(net, images):
    patches = jnp.where(
        hidden[..., None], start["mask_token"], net.project(images)
    )
    tokens = patches.reshape(8, 36, 48)
    return net.blocks(tokens, grid=(6, 6), train=False)[-1][:, 1:]

  actual = net.apply({"params": start["net"]}, images, method=features)
  np.testing.assert_allclose(
      actual.reshape(8, 6, 6, 48)[:2], golden["features"], atol=1e-5
  )
  loss = lambda params: method.loss(params, carried, first, KEYS, 0)
  gradients, _ = jax.grad(loss, has_aux=True)(start)
  expected = dict(zip(golden["gradients_paths"].tolist(), golden["gradients"]))
  leaves = trajectories._leaves(gradients)
  assert sorted(leaves) == sorted(expected)
  for path, x in leaves.items():
    np.testing.assert_allclose(
        trajectories.checksum(x),
        expected[path],
        atol=1e-5 * np.linalg.norm(x),
        err_msg=path,
    )
