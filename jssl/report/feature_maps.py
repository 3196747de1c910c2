"""Feature maps as images: similar patches have similar colors."""

import dataclasses

import jax
import numpy as np

from jssl import data
from jssl.data import Images
from jssl.encoder import Encoder, prepare
from jssl.evals.features import extract
from jssl.nets import stage_names
from jssl.report import thumbnails
from jssl.report.thumbnails import Thumbnail

_IMAGES = 8
_SMALLEST = 4  # Smaller maps show too little.


@dataclasses.dataclass(frozen=True)
class FeatureMaps:
  """Feature maps of some images.

  Attributes:
    stage: The stage of the net.
    size: Their height and width.
    share: Fraction of the variance that the three colors show, in [0, 1].
    pairs: Each image as the net gets it, and its map.
  """

  stage: str
  size: tuple[int, int]
  share: float
  pairs: list[tuple[Thumbnail, Thumbnail]]


def make_feature_maps(encoder: Encoder, images: Images) -> FeatureMaps | None:
  """Draws the last stage of a net whose maps are 4 x 4 or larger.

  The features at all positions of all images are projected together to their
  three principal components, which become red, green and blue. So a color means
  the same in every image.

  Args:
    encoder: The encoder.
    images: Held-out images, of which eight are drawn.

  Returns:
    The maps; None if no stage has such maps, or they do not vary.
  """
  index = data.evenly(len(images.image), _IMAGES)
  images = images.take(index)
  # Maps of a whole batch would fill the memory of the host.
  stages = extract(
      lambda x, extent: encoder.encode(encoder.params, x, extent, stages=True),
      images.image,
      extent=images.extent,
      batch_size=len(index),
  )
  stage = _last_map(stages)
  colored = to_colors(stages[stage]) if stage else None
  if colored is None:
    return None
  colors, share = colored
  size = encoder.config.image_size
  crop = jax.jit(prepare, static_argnums=(2, 3))
  fraction = encoder.config.eval.crop_fraction
  crops = np.asarray(crop(images.image, images.extent, size, fraction))
  pairs = [
      (
          thumbnails.make(image, f"test image {i}"),
          thumbnails.make(color, f"features of test image {i} as colors"),
      )
      for i, image, color in zip(index, crops, colors)
  ]
  return FeatureMaps(stage, colors.shape[1:3], share, pairs)


def to_colors(x: np.ndarray) -> tuple[np.ndarray, float] | None:
  """Projects the features of each position to red, green and blue.

  Args:
    x: Features, `[B, h, w, D]`.

  Returns:
    float `[B, h, w, 3]` in [0, 1], each color from its 1st to 99th percentile,
    and the fraction of the variance that is shown; None if the features are not
    finite or do not vary.
  """
  # Slow to import.
  from sklearn.decomposition import PCA

  shape = (*x.shape[:-1], 3)
  x = x.reshape(-1, x.shape[-1])
  if not np.isfinite(x).all() or np.ptp(x, axis=0).max() < 1e-6:
    return None
  pca = PCA(min(3, *x.shape), random_state=0)
  x = pca.fit_transform(x)
  x = np.pad(x, ((0, 0), (0, 3 - x.shape[1])))
  low, high = np.percentile(x, (1, 99), axis=0)
  x = np.clip((x - low) / np.maximum(high - low, 1e-9), 0, 1)
  share = float(pca.explained_variance_ratio_.sum())
  return x.reshape(shape), share


def _last_map(stages):
  """Returns the name of the last stage with a map of useful size, or None."""
  for name in reversed(stage_names(stages)):
    x = stages[name]
    if x.ndim == 4 and min(x.shape[1:3]) >= _SMALLEST:
      return name
  return None
