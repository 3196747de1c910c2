"""Features of many images."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jssl import parallel


def extract(
    encode: Callable[[jax.Array, jax.Array | None], Any],
    images: np.ndarray,
    *,
    extent: np.ndarray | None = None,
    batch_size: int = 512,
) -> Any:
  """Encodes images batch by batch, split over the local devices.

  Args:
    encode: Jitted, `(images, extent) -> features`, `[B, D]` or a tree of such;
      `extent` is None where the images have none.
    images: `[N, H, W, C]`.
    extent: True heights and widths, `[N, 2]`, see `jssl.data.Images`.
    batch_size: Images at a time; rounded up to the number of devices.

  Returns:
    Features, float32 `[N, D]`, or the tree of them.
  """
  devices = jax.local_device_count()
  batch_size = -(-batch_size // devices) * devices
  rows = []
  for start in range(0, len(images), batch_size):
    # The last batch is filled up, so that one size is compiled.
    index = np.arange(start, start + batch_size) % len(images)
    batch = parallel.shard(images[index])
    extents = None if extent is None else parallel.shard(extent[index])
    features = jax.device_get(encode(batch, extents))
    rows.append(
        jax.tree.map(
            lambda x: np.asarray(x, np.float32)[: len(images) - start],
            features,
        )
    )
  return jax.tree.map(lambda *x: np.concatenate(x), *rows)


def evenly(length: int, count: int) -> np.ndarray:
  """Returns at most `count` indices below `length`, evenly spread.

  Folders are sorted by class, so all classes are among them.
  """
  count = min(count, length)
  return np.linspace(0, length - 1, count).round().astype(int)
