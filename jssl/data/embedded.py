"""Data sets that come with scikit-learn: prepared without a network."""

from collections.abc import Iterator, Mapping, Sequence
import hashlib
from typing import Any

import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

_NAMES = ("china", "flower")
_SIDE = 32
_COLUMNS = 20

_DIGITS = """
1,797 scans of handwritten digits, 8x8 pixels in 17 grey levels: the test part
of the UCI set "Optical Recognition of Handwritten Digits", as it comes with
scikit-learn. The split into train and test is fixed.
"""

_PHOTOS = """
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


class Digits(tfds.core.GeneratorBasedBuilder):
  """Builds `digits`: 1,437 images to train on and 360 to test."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self) -> tfds.core.DatasetInfo:
    return _info(
        self,
        shape=(8, 8, 1),
        label=tfds.features.ClassLabel(num_classes=10),
        description=_DIGITS,
        homepage="https://archive.ics.uci.edu/dataset/80",
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    del dl_manager  # scikit-learn brings the data along.
    from sklearn import datasets  # Slow to import, and needed once.

    digits = datasets.load_digits()
    # Scales 0..16 to 0..255, rounding halves up.
    image = ((digits.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)
    label = digits.target

    def key(index: int) -> tuple[int, str]:
      return label[index], hashlib.sha256(image[index].tobytes()).hexdigest()

    # Ordered by class, then by hash of the pixels; every fifth is for test.
    order = sorted(range(len(image)), key=key)
    train = [index for place, index in enumerate(order) if place % 5]
    return {
        "train": self._generate_examples(image, label, train),
        "test": self._generate_examples(image, label, order[::5]),
    }

  def _generate_examples(
      self, image: np.ndarray, label: np.ndarray, indices: list[int]
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    for index in indices:
      # TFDS encodes a Pillow image itself, but calls TensorFlow for an array.
      yield index, {
          "image": Image.fromarray(image[index]),
          "label": int(label[index]),
      }


class Photos(tfds.core.GeneratorBasedBuilder):
  """Builds `photos`: 416 patches to train on and 104 to test."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self) -> tfds.core.DatasetInfo:
    return _info(
        self,
        shape=(_SIDE, _SIDE, 3),
        label=tfds.features.ClassLabel(names=list(_NAMES)),
        description=_PHOTOS,
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


def _info(builder, *, shape, label, **about):
  image = tfds.features.Image(
      shape=shape, dtype=np.uint8, encoding_format="png"
  )
  return tfds.core.DatasetInfo(
      builder=builder,
      features=tfds.features.FeaturesDict({"image": image, "label": label}),
      supervised_keys=("image", "label"),
      **about,
  )
