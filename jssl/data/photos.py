"""The photos data set: real, in colour, and prepared without a network."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

_NAMES = ("china", "flower")
_SIDE = 32
_COLUMNS = 20

_DESCRIPTION = """
520 patches of 32x32 pixels, in colour: a grid of 13 rows and 20 columns on each
of the two photographs that come with scikit-learn, china.jpg and flower.jpg.
The 11 lowest rows of pixels are left out. The label is the photograph.

The split into train and test is fixed: every fifth column of the grid is for
test, from the first on. A test patch touches patches of train on its left and
right only, but it is from the same photograph, so results on it do not show how
well an encoder handles other pictures.
"""

# Quoted from the README of sklearn/datasets/images, credits included.
_LICENSE = """
Both photographs: "Released under a creative commons license",
https://creativecommons.org/licenses/by/2.0/; "Some rights reserved by
danielbuechele"; retrieved 21st August, 2011 by Robert Layton.
china.jpg: https://www.flickr.com/photos/danielbuechele/,
https://www.flickr.com/photos/danielbuechele/6061409035/sizes/z/in/photostream/
flower.jpg: https://www.flickr.com/photos/vultilion/,
https://www.flickr.com/photos/vultilion/6056698931/sizes/z/in/photostream/
"""


class Photos(tfds.core.GeneratorBasedBuilder):
  """Builds `photos`: 416 patches to train on and 104 to test."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=self,
        description=_DESCRIPTION,
        features=tfds.features.FeaturesDict({
            "image": tfds.features.Image(
                shape=(_SIDE, _SIDE, 3), dtype=np.uint8, encoding_format="png"
            ),
            "label": tfds.features.ClassLabel(names=list(_NAMES)),
        }),
        supervised_keys=("image", "label"),
        homepage=(
            "https://scikit-learn.org/stable/datasets/loading_other_datasets"
            ".html#sample-images"
        ),
        license=_LICENSE,
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    del dl_manager  # scikit-learn brings the photographs along.
    from sklearn import datasets  # Slow to import, and needed once.

    photos = {n: datasets.load_sample_image(f"{n}.jpg") for n in _NAMES}
    # Whole columns: single patches would touch train on all four sides.
    test = range(0, _COLUMNS, 5)
    train = [column for column in range(_COLUMNS) if column not in test]
    return {
        "train": self._generate_examples(photos, train),
        "test": self._generate_examples(photos, test),
    }

  def _generate_examples(
      self, photos: Mapping[str, np.ndarray], columns: Sequence[int]
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, photo in photos.items():
      for row in range(len(photo) // _SIDE):
        for column in columns:
          top, left = row * _SIDE, column * _SIDE
          patch = photo[top : top + _SIDE, left : left + _SIDE]
          # TFDS sorts by hash of the key, which mixes the two photographs, and
          # calls TensorFlow to encode an array, but not for a Pillow image.
          yield f"{name} {row} {column}", {
              "image": Image.fromarray(patch),
              "label": name,
          }
