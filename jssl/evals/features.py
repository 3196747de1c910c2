"""Features of many images: computed once per encoder state, then reused."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from jssl import parallel
from jssl.data import Images, labels_of
from jssl.encoder import Encoder, pool_stages


@dataclasses.dataclass(frozen=True)
class Features:
  """Features of one encoder state.

  Attributes:
    train: "pooled" and every stage ("stage_1", ...), averaged over its map, of
      the training images, float32 `[M, D]` each; None if they were not encoded.
    test: The same of the test images, `[N, D]`.
  """

  train: dict[str, np.ndarray] | None
  test: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Labelled:
  """Features of one stage, of the images whose label is known.

  Attributes:
    train: float32 `[M, D]`, M at least 1.
    train_label: int `[M]`, 0 or more.
    test: float32 `[N, D]`, N at least 1.
    test_label: int `[N]`, 0 or more.
    classes: Names of the classes.
  """

  train: np.ndarray
  train_label: np.ndarray
  test: np.ndarray
  test_label: np.ndarray
  classes: tuple[str, ...]


def compute(
    encoder: Encoder, train: Images | None, test: Images, *, batch_size: int
) -> Features:
  """Encodes the images of both splits.

  Args:
    encoder: The encoder, or a baseline.
    train: Training images; None if no measure needs them.
    test: Test images.
    batch_size: Images per batch; rounded up to the number of devices.
  """
  stages = functools.partial(_pooled_stages, encoder.encode, encoder.params)

  def split(images):
    return extract(
        stages, images.image, extent=images.extent, batch_size=batch_size
    )

  return Features(None if train is None else split(train), split(test))


def compute_for_scores(
    encoder: Encoder, train: Images, test: Images
) -> Features:
  """Encodes what `jssl.evals.scores` needs: no training images without labels.

  Args:
    encoder: The encoder, or a baseline.
    train: Training images.
    test: Test images.
  """
  labels = train.label is not None and test.label is not None
  bank = train if labels else None
  return compute(encoder, bank, test, batch_size=encoder.config.batch_size)


# One program: its outputs are pooled, so that no map of a stage is kept.
@functools.partial(jax.jit, static_argnums=0)
def _pooled_stages(encode, params, images, extent):
  return pool_stages(encode(params, images, extent, stages=True))


def labelled(
    features: Features, train: Images, test: Images, *, stage: str = "pooled"
) -> Labelled | None:
  """Selects the features of images with a known label.

  Args:
    features: The features of both splits.
    train: The images of `features.train`.
    test: The images of `features.test`.
    stage: Name of the features.

  Returns:
    The features and labels; None if a split has no labelled images, or the
    training images were not encoded.
  """
  known, test_known = train.labelled(), test.labelled()
  if features.train is None or not len(known) or not len(test_known):
    return None
  return Labelled(
      features.train[stage][known],
      labels_of(train)[known],
      features.test[stage][test_known],
      labels_of(test)[test_known],
      train.classes,
  )


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
      `extent` is None if the images have none.
    images: `[N, H, W, C]`.
    extent: True heights and widths, `[N, 2]`, see `jssl.data.Images`.
    batch_size: Images per batch; rounded up to the number of devices.

  Returns:
    Features, float32 `[N, D]`, or the tree of them.
  """
  devices = jax.local_device_count()
  batch_size = -(-batch_size // devices) * devices
  rows = []
  for start in range(0, len(images), batch_size):
    # The last batch is filled up, so that only one size is compiled.
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
