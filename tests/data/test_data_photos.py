"""The photos that need no network: patches of scikit-learn's photographs."""

import hashlib
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from sklearn import datasets

from jssl.data import load, open_source
from jssl.data.embedded import Photos

NAMES = ("china", "flower")
TEST_COLUMNS = (0, 5, 10, 15)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  path = str(tmp_path_factory.mktemp("tfds"))
  load("photos", "train", data_dir=path)
  return path


def _places():
  """Maps the bytes of every patch to its (photograph, row, column)."""
  places = {}
  for name in NAMES:
    photo = datasets.load_sample_image(f"{name}.jpg")
    assert photo.shape == (427, 640, 3) and photo.dtype == np.uint8
    grid = photo[:416].reshape(13, 32, 20, 32, 3).swapaxes(1, 2)
    for row, column in np.ndindex(13, 20):
      places[grid[row, column].tobytes()] = name, row, column
  assert len(places) == 520  # No two patches are alike.
  return places


def _found(split, data_dir):
  """Returns the place of each picture of a split, in the order of the split."""
  places = _places()
  images = load("photos", split, data_dir=data_dir)
  found = [places[image.tobytes()] for image in images.image]
  labels = [images.classes[label] for label in images.label]
  assert labels == [name for name, _, _ in found]
  return found


@pytest.mark.parametrize("split,each", [("train", 208), ("test", 52)])
def test_the_splits_hold_as_much_of_either_photograph(data_dir, split, each):
  images = load("photos", split, data_dir=data_dir)
  assert images.image.shape == (2 * each, 32, 32, 3)
  assert images.image.dtype == np.uint8
  assert images.classes == NAMES
  assert np.bincount(images.label).tolist() == [each, each]
  assert images.extent is None and images.skipped == ()


def test_every_fifth_column_is_for_test_and_the_others_for_train(data_dir):
  train, test = _found("train", data_dir), _found("test", data_dir)
  everything = {(n, r, c) for n in NAMES for r, c in np.ndindex(13, 20)}
  expected = {place for place in everything if place[2] in TEST_COLUMNS}
  assert len(test) == len(expected) and set(test) == expected
  assert len(train) == 416 and set(train) == everything - expected


# Of places, not of pixels: another libjpeg may decode a pixel differently.
@pytest.mark.parametrize(
    "split,digest",
    [("train", "8aad880f278384b8"), ("test", "a180ecbb9597c742")],
)
def test_the_order_is_fixed(data_dir, split, digest):
  order = repr(_found(split, data_dir)).encode()
  assert hashlib.sha256(order).hexdigest()[:16] == digest


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_order_mixes_photographs_and_columns(data_dir, split):
  found = _found(split, data_dir)
  china = np.array([name == "china" for name, _, _ in found])
  columns = np.array([column for _, _, column in found])
  for step in (1, 2, 4):
    for start in range(step):
      part = slice(start, None, step)
      assert abs(china[part].mean() - 0.5) < 0.2
      assert set(columns[part]) == set(columns)
  for run in np.array_split(china, len(china) // 26):
    assert 0.2 < run.mean() < 0.8


def test_photos_prepared_twice_are_the_same(data_dir, tmp_path):
  first = load("photos", "train", data_dir=data_dir)
  second = load("photos", "train", data_dir=tmp_path)
  np.testing.assert_array_equal(first.image, second.image)
  np.testing.assert_array_equal(first.label, second.label)


def test_photos_are_prepared_once_and_without_a_network(tmp_path, monkeypatch):
  prepared, called = [], []
  prepare = Photos.download_and_prepare

  def counted(self, *args, **kwargs):
    prepared.append(self.name)
    return prepare(self, *args, **kwargs)

  def refused(*args, **kwargs):
    called.append((args, kwargs))
    raise OSError("There is no network.")

  monkeypatch.setattr(Photos, "download_and_prepare", counted)
  for function in ("connect", "connect_ex"):
    monkeypatch.setattr(socket.socket, function, refused)
  monkeypatch.setattr(socket, "getaddrinfo", refused)
  for name, split in (("photos", "train"), ("photos:1.0.0", "test[:10]")):
    load(name, split, data_dir=tmp_path)
  assert prepared == ["photos"] and called == []
  assert os.listdir(tmp_path / "photos") == ["1.0.0"]


def test_the_source_declares_small_pictures_in_color(data_dir):
  source = open_source("photos", "test", data_dir=data_dir)
  assert (source.length, source.channels, source.size) == (104, 3, (32, 32))
  (record,) = source.read([3])
  assert record.encoded.startswith(b"\x89PNG")
  assert record.name == "photos test #3"


def test_the_license_is_kept_with_the_data(data_dir):
  text = Photos(data_dir=data_dir).info.redistribution_info.license
  source = datasets.load_sample_images().DESCR
  for line in source.splitlines():
    if "http" in line:
      assert line.partition("] ")[2] in text


def test_photos_name_data_dir_where_nothing_can_be_written(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(OSError, match="photos cannot.*file.*--data_dir"):
    load("photos", "train", data_dir=tmp_path / "file" / "data")


def test_an_almost_right_name_brings_photos(data_dir):
  with pytest.raises(ValueError, match="'photo'.* photos"):
    load("photo", "train", data_dir=data_dir)


_CHILD = """
import sys
from jssl.data import load
images = load("photos", "train", data_dir=sys.argv[1])
assert images.image.shape == (416, 32, 32, 3)
assert "tensorflow" not in sys.modules
"""


def test_first_use_is_silent_and_without_tensorflow(tmp_path):
  trap = tmp_path / "trap" / "tensorflow"
  trap.mkdir(parents=True)
  (trap / "__init__.py").write_text("raise SystemExit('TensorFlow imported')")
  path = os.pathsep.join([str(trap.parent), os.getcwd()])
  result = subprocess.run(
      [sys.executable, "-c", _CHILD, str(tmp_path / "data")],
      env={**os.environ, "PYTHONPATH": path},
      capture_output=True,
      text=True,
      check=False,
  )
  assert result.returncode == 0, result.stdout + result.stderr
  assert result.stdout == "" and result.stderr == ""
