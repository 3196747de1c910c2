"""Siamese methods take the steps that the authors' code takes.

docs/fidelity.md says what each was compared with, and what differs on purpose.
"""

import functools

import numpy as np

from jssl import optim
from jssl.methods import METHODS
from jssl.nets import ResNet
import trajectories

# What the reference trains: torchvision's basic blocks, one in each stage.
NET = ResNet((1, 1, 1, 1))
params = lambda state: state.params


def test_moco_v2():
  golden = trajectories.reference("moco_v2")
  views = trajectories.make_views(1)
  method = METHODS["moco_v2"](NET, dim=16, queue_size=32, momentum=0.99)
  schedule = functools.partial(optim.cosine, epochs=10, steps_per_epoch=1)
  np.testing.assert_allclose(
      golden["learning_rate"], [schedule(0.03)(i) for i in range(5)], rtol=1e-6
  )
  optimizer = optim.sgd(schedule(0.03), momentum=0.9, weight_decay=1e-4)
  trajectory = trajectories.run(
      method, optimizer, (views[:, 0], views[:, 1]), seed=1
  )
  trees = {
      "params": params,
      "key_params": lambda state: state.carried.key_params,
      "queue": lambda state: {"keys": state.carried.queue.keys},
  }
  trajectories.check(trajectory, golden, trees)
