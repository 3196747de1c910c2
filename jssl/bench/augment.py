"""How fast the views of a method are drawn."""

from typing import Any

import jax
import numpy as np

from jssl.bench import step
from jssl.bench._timing import median_seconds
from jssl.config import ConfigDict


def measure(config: ConfigDict) -> dict[str, Any]:
  """Times the compiled views of a batch, as the step draws them.

  Args:
    config: The config; its data set is not opened.

  Returns:
    "seconds" per batch (median of five), "images_per_second", "views".
  """
  exp = step.random_experiment(config)
  batch = exp.pipeline.batch(
      exp.pipeline.resident(), np.arange(config.batch_size)
  )
  views = jax.jit(exp.method.views)
  draw = lambda: views(jax.random.key(0), batch)
  seconds = median_seconds(draw)
  return {
      "seconds": seconds,
      "images_per_second": config.batch_size / seconds,
      "views": [list(x.shape) for x in jax.tree.leaves(draw())],
      "method": config.method.name,
      "batch_size": config.batch_size,
      "device": jax.devices()[0].device_kind,
  }
