"""Siamese methods take the steps that the authors' code takes.

docs/fidelity.md says what each was compared with, and what differs on purpose.
"""

import functools

import numpy as np
import pytest

from jssl import optim
from jssl.methods import _one_net, METHODS
from jssl.nets import ResNet, ViT
import trajectories

pytestmark = pytest.mark.slow

# What the references train: torchvision's basic blocks. It is narrow, since
# rounding seldom turns a ReLU on or off where there are few.
NET = ResNet((1, 1, 1, 1), width=16)
PARAMS = {"params": lambda state: state.params}
TARGET = {"target_params": lambda state: state.carried.target_params}


def _check_schedule(expected, schedule):
  values = [schedule(step) for step in range(trajectories.STEPS)]
  np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-9)


def test_moco_v2():
  golden = trajectories.reference("moco_v2")
  views = trajectories.make_views(1)
  method = METHODS["moco_v2"](NET, dim=16, queue_size=32, momentum=0.99)
  learning_rate = optim.cosine(0.03, epochs=10, steps_per_epoch=1)
  _check_schedule(golden["learning_rate"], learning_rate)
  optimizer = optim.sgd(learning_rate, momentum=0.9, weight_decay=1e-4)
  trajectory = trajectories.run(
      method, optimizer, (views[:, 0], views[:, 1]), seed=1
  )
  carried = {
      "key_params": lambda state: state.carried.key_params,
      "queue": lambda state: {"keys": state.carried.queue.keys},
  }
  trajectories.check(trajectory, golden, PARAMS | carried)


def _moco_v3(
    golden, net, peak, make_optimizer, *, without_gradient=(), **arguments
):
  cosine = functools.partial(optim.cosine, epochs=3, steps_per_epoch=2)
  momentum = cosine(0.99, end=1.0)
  learning_rate = cosine(peak, warmup_epochs=1)
  _check_schedule(golden["momentum"], momentum)
  _check_schedule(golden["learning_rate"], learning_rate)
  method = METHODS["moco_v3"](
      net, dim=16, hidden_dim=32, momentum=momentum, **arguments
  )
  trajectory = trajectories.run(
      method, make_optimizer(learning_rate), trajectories.make_views(2), seed=2
  )
  trajectories.check(
      trajectory, golden, PARAMS | TARGET, without_gradient=without_gradient
  )


def test_moco_v3_resnet():
  _moco_v3(
      trajectories.reference("moco_v3_resnet"),
      NET,
      0.3,
      functools.partial(optim.lars, weight_decay=1e-4, momentum=0.9),
      projector_layers=2,
      predictor_norm=False,
      temperature=1.0,
  )


def test_moco_v3_vit():
  _moco_v3(
      trajectories.reference("moco_v3_vit"),
      ViT(48, depth=2, heads=3, patch_size=8, positions="sincos"),
      1e-3,
      functools.partial(optim.adamw, weight_decay=0.1, exclude_vectors=False),
      without_gradient=("net/norm/bias",),  # The head's BatchNorm undoes it.
  )


def test_simsiam():
  golden = trajectories.reference("simsiam")
  method = METHODS["simsiam"](NET, dim=128, predictor_dim=16)
  learning_rate = optim.cosine(0.02, epochs=8, steps_per_epoch=1)
  _check_schedule(golden["learning_rate"][:, 0], learning_rate)
  optimizer = optim.sgd(
      learning_rate,
      momentum=0.9,
      weight_decay=1e-4,
      constant_rate=("predictor",),
  )
  views = _one_net.Task(trajectories.make_views(3))
  trajectory = trajectories.run(method, optimizer, views, seed=3)
  trajectories.check(trajectory, golden, PARAMS)


def test_byol():
  golden = trajectories.reference("byol")
  imagenet = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
  net = ResNet((1, 1, 1, 1), width=16, **imagenet)
  cosine = functools.partial(optim.cosine, epochs=3, steps_per_epoch=2)
  momentum = cosine(0.9, end=1.0)
  learning_rate = cosine(0.2, warmup_epochs=1)
  _check_schedule(golden["momentum"], momentum)
  _check_schedule(golden["learning_rate"], learning_rate)
  method = METHODS["byol"](net, dim=16, hidden_dim=64, momentum=momentum)
  optimizer = optim.lars(learning_rate, weight_decay=1e-4, momentum=0.9)
  trajectory = trajectories.run(
      method, optimizer, trajectories.make_views(6), seed=6
  )
  trajectories.check(trajectory, golden, PARAMS | TARGET)


def test_simclr():
  golden = trajectories.reference("simclr")
  schedule = optim.cosine(0.05, epochs=3, steps_per_epoch=2, warmup_epochs=1)
  _check_schedule(golden["learning_rate"], schedule)
  net = ResNet((1, 1, 1, 1), True, 16, stem="cifar", mean=0.0, std=1.0)
  method = METHODS["simclr"](net, dim=16, temperature=0.5)
  # The reference adds the losses of the two views, which are averaged here. Its
  # learning rate is constant, as it enters the velocity there.
  optimizer = optim.lars(
      0.05, weight_decay=1e-4 / 2, momentum=0.9, vector_scale=2.0
  )
  views = _one_net.Task(trajectories.make_views(11, size=8))
  trajectory = trajectories.run(method, optimizer, views, seed=11)
  golden["loss"] /= 2
  trajectories.check(trajectory, golden, PARAMS)


def test_supcon():
  golden = trajectories.reference("supcon")
  schedule = optim.cosine(0.02, epochs=10, steps_per_epoch=1, end=0.02e-3)
  # Epochs count from 1 there.
  _check_schedule(golden["learning_rate"], lambda step: schedule(step + 1))
  method = METHODS["supcon"](
      ResNet((1, 1, 1, 1), width=16, stem="cifar"), dim=16
  )
  # The authors' loss is 0.1 / 0.07 times the paper's.
  golden["loss"] *= 0.7
  optimizer = optim.sgd(
      lambda step: schedule(step + 1) / 0.7, weight_decay=1e-4 * 0.7
  )
  label = np.arange(5 * 16).reshape(5, 16) * 7 % 5
  views = _one_net.Task(trajectories.make_views(4, size=8), label)
  trajectory = trajectories.run(method, optimizer, views, seed=4)
  trajectories.check(trajectory, golden, PARAMS)


def _siamese(name, method, optimizer, seed):
  views = _one_net.Task(trajectories.make_views(seed))
  trajectory = trajectories.run(method, optimizer, views, seed=seed)
  trajectories.check(trajectory, trajectories.reference(name), PARAMS)


def test_barlow_twins():
  golden = trajectories.reference("barlow_twins")
  net = ResNet((1, 1, 1, 1), bottleneck=True, width=8)
  method = METHODS["barlow_twins"](net, dim=64, off_diagonal_weight=0.0051)
  learning_rate = _warmed(80 * 16 / 256)
  _check_schedule(golden["learning_rate"], learning_rate)
  _check_schedule(golden["vector_learning_rate"] * 80 / 0.004, learning_rate)
  optimizer = optim.lars(
      learning_rate, weight_decay=1e-2, vector_scale=0.004 / 80
  )
  _siamese("barlow_twins", method, optimizer, 27)


def test_vicreg():
  golden = trajectories.reference("vicreg")
  net = ResNet((1, 1, 1, 1), width=8)
  method = METHODS["vicreg"](net, dim=64)
  learning_rate = _warmed(0.04 * 16 / 256)
  _check_schedule(golden["learning_rate"], learning_rate)
  optimizer = optim.lars(
      learning_rate, weight_decay=1e-2, trust_coefficient=2.0
  )
  _siamese("vicreg", method, optimizer, 18)


def _warmed(peak):
  """Two steps of warm-up, the ten epochs of the authors, and ten of cosine."""
  return optim.cosine(
      peak, epochs=60, steps_per_epoch=0.2, warmup_epochs=10, end=peak / 1000
  )


def test_nnclr():
  golden = trajectories.reference("nnclr")
  method = METHODS["nnclr"](
      ResNet((1, 1, 1, 1), width=8),
      dim=32,
      hidden_dim=64,
      predictor_dim=48,
      queue_size=64,
  )
  learning_rate = optim.cosine(0.003, epochs=12, steps_per_epoch=1)
  _check_schedule(golden["learning_rate"], learning_rate)
  optimizer = optim.sgd(learning_rate, momentum=0.9, weight_decay=5e-4)
  views = trajectories.make_views(21)
  trajectory = trajectories.run(method, optimizer, views, seed=21)
  queue = {"queue": lambda state: {"keys": state.carried.queue.keys}}
  trajectories.check(trajectory, golden, PARAMS | queue)
