"""How fast the views of a method are drawn, beside torchvision's transforms."""

import statistics
import time
from typing import Any

import jax
import numpy as np

from jssl.benchmarks import peers
from jssl.benchmarks import step
from jssl.benchmarks.timing import seconds_of
from jssl.config import ConfigDict

_WINDOWS = 5


def measure(config: ConfigDict, *, peer: bool = False) -> dict[str, Any]:
  """Times the compiled views of a batch, as the step draws them.

  Args:
    config: See `jssl.config.base`; its data set is not opened.
    peer: Whether torchvision draws the same views of the same images, image by
      image with parameters of its own, as a data loader does; in turn with the
      other. For SimCLR, with torchvision's operations on both sides.

  Returns:
    "seconds" a batch (median of five), "images_per_second", "views"; with a
    peer, "torchvision_seconds" and "speed_over_torchvision", the median ratio.

  Raises:
    ValueError: If the peer does not know the method.
    ImportError: If torchvision is not there.
  """
  if peer and "operations" in config.augment:
    config.augment.operations = "torchvision"
  exp = step.random_experiment(config)
  batch = dict(exp.pipeline.resident())
  views = jax.jit(exp.method.views)
  key = jax.random.key(0)
  draw = lambda: views(key, batch)
  other = None
  if peer:
    other = peers.transforms(config, np.asarray(batch["image"]))
  jax.block_until_ready(draw())
  own, others = [], []
  for _ in range(_WINDOWS):
    time.sleep(peers.SETTLE_SECONDS)
    own.append(seconds_of(draw))
    if other:
      others.append(seconds_of(other))
  seconds = statistics.median(own)
  result = {
      "seconds": seconds,
      "images_per_second": config.batch_size / seconds,
      "views": [list(x.shape) for x in jax.tree.leaves(draw())],
      "method": config.method.name,
      "batch_size": config.batch_size,
      "device": jax.devices()[0].device_kind,
  }
  if other:
    result |= {
        "torchvision_seconds": statistics.median(others),
        "speed_over_torchvision": statistics.median(
            b / a for a, b in zip(own, others)
        ),
        "torch_threads": peers.threads(),
    }
  return result
