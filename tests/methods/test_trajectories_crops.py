"""Methods of multi-crop take the steps that the authors' code takes.

docs/fidelity.md says what each was compared with, and what differs on purpose.
"""

import functools

import numpy as np
import optax
import pytest

from jssl import optim
from jssl.embeddings import l2_normalize
from jssl.methods import _views, METHODS
from jssl.nets import ResNet, ViT
import trajectories

pytestmark = pytest.mark.slow

NET = ResNet((1, 1, 1, 1), width=8)
PARAMS = {"params": lambda state: state.params}
# Twelve steps, one in each epoch.
_cosine = functools.partial(optim.cosine, steps_per_epoch=1)


def _crops(seed, *, batch, small):
  make = functools.partial(trajectories.make_views, seed, batch=batch)
  return _views.Crops(
      make(name="large"), make(count=small, size=16, name="small")
  )


def _warmed(golden, peak, *, end):
  """A warm-up of three steps that reaches the peak at the last of them.

  The cosine begins at the peak again; that of `optim.cosine` does not.
  """
  line = optim.linear(
      peak, epochs=12, steps_per_epoch=1, start=0.0, warmup_epochs=2
  )
  schedule = optax.join_schedules([line, _cosine(peak, epochs=9, end=end)], [3])
  _check_schedule(golden["learning_rate"], schedule)
  return schedule


def _check_schedule(expected, schedule):
  values = [schedule(step) for step in range(trajectories.STEPS)]
  np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "name, small, arguments",
    [
        ("swav", 3, {"frozen_steps": 2}),
        ("swav_queue", 2, {"queue_size": 32, "queue_start_steps": 1}),
    ],
)
def test_swav(name, small, arguments):
  golden = trajectories.reference(name)
  method = METHODS["swav"](
      NET, dim=32, hidden_dim=64, prototypes=24, **arguments
  )
  learning_rate = _warmed(golden, 4.0, end=4e-3)
  optimizer = optim.larc(learning_rate, weight_decay=1e-2)
  trajectory = trajectories.run(
      method,
      optimizer,
      _crops(19, batch=16, small=small),
      seed=19,
      adapt=lambda params: {
          **params,
          "prototypes": l2_normalize(params["prototypes"]),
      },
  )
  queue = {"queue": lambda state: {"keys": state.carried.queue.keys}}
  trajectories.check(
      trajectory, golden, PARAMS | queue if "queue" in golden else PARAMS
  )


def _dino(golden, net, make_optimizer, peak, *, decay, batch, **arguments):
  momentum = _cosine(0.9, end=1.0, epochs=12)
  weight_decay = _cosine(decay[0], end=decay[1], epochs=12)
  _check_schedule(golden["momentum"], momentum)
  _check_schedule(golden["weight_decay"], weight_decay)
  method = METHODS["dino"](
      net,
      dim=32,
      hidden_dim=64,
      prototypes=24,
      teacher_temperature=optim.linear(
          0.07, epochs=12, steps_per_epoch=1, start=0.04, warmup_epochs=2
      ),
      momentum=momentum,
      frozen_steps=2,
      **arguments,
  )
  optimizer = make_optimizer(
      _warmed(golden, peak, end=peak / 100),
      weight_decay=weight_decay,
      clip_per_parameter=True,
  )

  def adapt(params):
    lengths = params.get("prototype_lengths")
    return (
        params
        if lengths is None
        else {**params, "prototype_lengths": 1 + lengths}
    )

  trajectory = trajectories.run(
      method, optimizer, _crops(22, batch=batch, small=3), seed=22, adapt=adapt
  )
  carried = {
      "target": lambda state: state.carried.target_params,
      "center": lambda state: {"center": state.carried.center},
  }
  trajectories.check(trajectory, golden, PARAMS | carried)


def test_dino_vit():
  _dino(
      trajectories.reference("dino_vit"),
      ViT(48, depth=2, heads=3, patch_size=8, image_size=32),
      functools.partial(optim.adamw, clip_norm=1.3),
      2e-3,
      decay=(0.04, 0.4),
      batch=8,
      norm_last_layer=False,
  )


def test_dino_resnet():
  _dino(
      trajectories.reference("dino_resnet"),
      NET,
      functools.partial(optim.lars, clip_norm=0.5),
      2.0,
      decay=(1e-2, 1e-2),
      batch=16,
      projector_norm=True,
  )
