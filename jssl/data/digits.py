"""The digits data set: real, small, and prepared without a network."""

from collections.abc import Iterator
import hashlib
from typing import Any

import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

_DESCRIPTION = """
1,797 scans of handwritten digits, 8x8 pixels in 17 grey levels: the test part
of the UCI set "Optical Recognition of Handwritten Digits", as it comes with
scikit-learn. The split into train and test is fixed.
"""


class Digits(tfds.core.GeneratorBasedBuilder):
  """Builds `digits`: 1,437 images to train on and 360 to test."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=self,
        description=_DESCRIPTION,
        features=tfds.features.FeaturesDict({
            "image": tfds.features.Image(
                shape=(8, 8, 1), dtype=np.uint8, encoding_format="png"
            ),
            "label": tfds.features.ClassLabel(num_classes=10),
        }),
        supervised_keys=("image", "label"),
        homepage="https://archive.ics.uci.edu/dataset/80",
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    del dl_manager  # scikit-learn brings the data along.
    from sklearn import datasets  # Slow to import, and needed once.

    digits = datasets.load_digits()
    # Scales 0..16 to 0..255, rounding halves up.
    image = ((digits.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)
    train, test = _split(image, digits.target)
    return {
        "train": self._generate_examples(image, digits.target, train),
        "test": self._generate_examples(image, digits.target, test),
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


def _split(image: np.ndarray, label: np.ndarray) -> tuple[list[int], list[int]]:
  """Orders by class, then by hash of the pixels; every fifth is for test."""

  def key(index: int) -> tuple[int, str]:
    return label[index], hashlib.sha256(image[index].tobytes()).hexdigest()

  order = sorted(range(len(image)), key=key)
  test = set(order[::5])
  return [i for i in order if i not in test], order[::5]
