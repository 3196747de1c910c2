"""Sets of TensorFlow Datasets, and digits: real files, no TensorFlow."""

import concurrent.futures
import hashlib
import io
import os
import shlex
import subprocess
import sys

from array_record.python import array_record_data_source
import numpy as np
from PIL import Image
import pytest
from sklearn import datasets
import tensorflow_datasets as tfds

from jssl.data import load, open_source


def _picture(index, height, width):
  pixels = np.full((height, width, 3), index, np.uint8)
  pixels[0, 0] = 255
  return Image.fromarray(pixels)


class JsslTiny(tfds.core.GeneratorBasedBuilder):
  """Pictures of 5 x 4; those of the test split have no label."""

  VERSION = tfds.core.Version("1.0.0")
  SHAPE = (5, 4, 3)
  SPLITS = {"train": (0, 20), "validation": (20, 27), "test": (27, 30)}
  SECRET = ("test",)

  def _info(self):
    features = {
        "image": tfds.features.Image(shape=self.SHAPE),
        "label": tfds.features.ClassLabel(names=["even", "odd"]),
        "mask": tfds.features.Image(shape=(None, None, 1)),
        "file_name": tfds.features.Text(),
    }
    return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {
        split: self._generate_examples(split, *bounds)
        for split, bounds in self.SPLITS.items()
    }

  def _size(self, index):
    del index
    return 5, 4

  def _generate_examples(self, split, start, stop):
    for i in range(start, stop):
      yield i, {
          "image": _picture(i, *self._size(i)),
          "label": -1 if split in self.SECRET else i % 2,
          "mask": Image.new("L", (3, 3)),
          "file_name": f"{i}.png",
      }


class JsslOpen(JsslTiny):
  """The same, with labels for all."""

  VERSION = tfds.core.Version("1.0.0")
  SECRET = ()


class JsslMixed(JsslTiny):
  """Pictures of different sizes, without a test split."""

  VERSION = tfds.core.Version("1.0.0")
  SHAPE = (None, None, 3)
  SPLITS = {"train": (0, 10), "validation": (10, 14)}

  def _size(self, index):
    return 10 + index, 30 - index


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  path = str(tmp_path_factory.mktemp("tfds"))
  for cls in (JsslTiny, JsslOpen, JsslMixed):
    cls(data_dir=path, file_format="array_record").download_and_prepare()
  load("digits", "train", data_dir=path)
  return path


def test_fixed_size(data_dir):
  images = load("jssl_tiny", "train", data_dir=data_dir)
  assert images.image.shape == (20, 5, 4, 3)
  assert images.image.dtype == np.uint8 and images.label.dtype == np.int32
  assert images.classes == ("even", "odd")
  assert images.extent is None and images.skipped == ()
  values = images.image[:, 2, 2, 0]
  assert sorted(values) == list(range(20))
  np.testing.assert_array_equal(images.label, values % 2)
  for value, image in zip(values, images.image):
    np.testing.assert_array_equal(image, np.asarray(_picture(value, 5, 4)))


def test_slices_are_those_of_tfds(data_dir):
  whole = load("jssl_tiny", "train", data_dir=data_dir)
  first = load("jssl_tiny:1.0.0", "train[:5]", data_dir=data_dir)
  last = load("jssl_tiny", "train[75%:]", data_dir=data_dir)
  both = load("jssl_tiny", "train[-1:]+validation", data_dir=data_dir)
  np.testing.assert_array_equal(first.image, whole.image[:5])
  np.testing.assert_array_equal(last.label, whole.label[15:])
  assert len(both.image) == 8
  np.testing.assert_array_equal(both.image[0], whole.image[-1])


def test_validation_replaces_a_test_split_without_labels(data_dir):
  for split, count in (("test", 7), ("test[:3]", 3), ("validation", 7)):
    images = load("jssl_tiny", split, data_dir=data_dir)
    assert len(images.image) == count
    assert set(images.image[:, 2, 2, 0]) <= set(range(20, 27))
    np.testing.assert_array_equal(images.label, images.image[:, 2, 2, 0] % 2)


def test_a_labelled_test_split_is_taken(data_dir):
  images = load("jssl_open", "test", data_dir=data_dir)
  values = images.image[:, 2, 2, 0]
  assert sorted(values) == [27, 28, 29]
  np.testing.assert_array_equal(images.label, values % 2)


def test_a_split_without_labels_is_unlabelled(data_dir):
  images = load("jssl_tiny", "train[:0%]+test[1:]", data_dir=data_dir)
  assert images.label is None and images.classes == ()
  assert set(images.image[:, 2, 2, 0]) <= {27, 28, 29}


def test_mixed_sizes_need_a_canvas(data_dir):
  differ = r"jssl_mixed \(train\) differ.*canvas=1"
  with pytest.raises(ValueError, match=differ):
    load("jssl_mixed", "train", data_dir=data_dir)
  images = load("jssl_mixed", "test", data_dir=data_dir, canvas=8)
  index = images.image[:, 6, 6, 0].astype(int)
  assert sorted(index) == [10, 11, 12, 13]
  expected = np.stack([10 + index, 30 - index], axis=1)
  np.testing.assert_array_equal(images.extent, expected)
  assert images.extent.dtype == np.int32
  np.testing.assert_array_equal(images.label, index % 2)


def test_a_source_reads_encoded_records_in_any_order(data_dir):
  source = open_source("jssl_tiny", "train", data_dir=data_dir)
  assert (source.length, source.channels, source.size) == (20, 3, (5, 4))
  forward = source.read(range(20))
  assert source.read(np.array([3, 19, 3])) == [
      forward[3],
      forward[19],
      forward[3],
  ]
  assert forward[0].encoded.startswith(b"\x89PNG")
  assert forward[2].name == "jssl_tiny train #2"


def test_a_set_that_does_not_fit_is_refused_before_decoding(data_dir):
  with pytest.raises(ValueError, match=r"20 pictures.*1.12e-06 GiB.*slice"):
    load("jssl_tiny", "train", data_dir=data_dir, max_bytes=1199)
  load("jssl_tiny", "train", data_dir=data_dir, max_bytes=1200)


def test_unknown_splits_list_those_there_are(data_dir):
  for split in ("tset", "train[:99]", "train[:x]", ""):
    with pytest.raises(ValueError, match=r"train \(20 images\), validation"):
      load("jssl_tiny", split, data_dir=data_dir)
  with pytest.raises(ValueError, match="holds no pictures"):
    load("jssl_tiny", "train[:0]", data_dir=data_dir)


def test_unknown_names_bring_the_nearest(data_dir):
  for name, nearest in (
      ("cifa10", "cifar10,"),
      ("digit", "digits"),
      ("cifar10:9.9.9", "cifar10:3."),
      ("cifar10_corrupted/brightnes_1", "cifar10_corrupted/brightness_1"),
      ("a/b/c", "digits, cifar10, or folder:PATH"),
  ):
    with pytest.raises(ValueError, match=f"{name!r}.* {nearest}"):
      load(name, "train", data_dir=data_dir)


def _run_command_of(error):
  """Runs the Python code of the command that an error message proposes."""
  (line,) = [l for l in str(error.value).splitlines() if "python -c" in l]
  python, flag, code = shlex.split(line)
  assert (python, flag) == ("python", "-c")
  exec(code, {})  # The sets of this file are known to this process alone.


def test_an_unprepared_set_comes_with_the_command_that_prepares_it(tmp_path):
  absent = str(tmp_path / "it's here")
  with pytest.raises(FileNotFoundError, match="does not exist") as error:
    load("jssl_tiny", "train", data_dir=absent)
  assert "pip install 'jssl[tfds]'" in str(error.value)
  _run_command_of(error)
  assert len(load("jssl_tiny", "train", data_dir=absent).image) == 20
  with pytest.raises(FileNotFoundError) as error:
    load("mnist", "train", data_dir=absent)
  assert 'tfds.builder("mnist"' in str(error.value)
  assert "does not exist" not in str(error.value)


def test_a_set_prepared_as_tfrecord_is_prepared_again_elsewhere(tmp_path):
  root = tmp_path / "jssl_tiny" / "1.0.0"
  builder = JsslTiny(data_dir=str(tmp_path), file_format="array_record")
  builder.download_and_prepare()
  info = root / "dataset_info.json"
  info.write_text(info.read_text().replace("array_record", "tfrecord"))
  with pytest.raises(FileNotFoundError, match="only as tfrecord") as error:
    load("jssl_tiny", "train", data_dir=tmp_path)
  _run_command_of(error)
  elsewhere = str(tmp_path / "array_record")
  assert f"--data_dir={elsewhere}" in str(error.value)
  assert len(load("jssl_tiny", "train", data_dir=elsewhere).image) == 20


def test_the_data_dir_comes_from_the_environment(data_dir, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", data_dir)
  assert len(load("jssl_tiny", "train").image) == 20
  monkeypatch.setenv("TFDS_DATA_DIR", os.path.join(data_dir, "absent"))
  with pytest.raises(FileNotFoundError, match="absent"):
    load("jssl_tiny", "train")


def test_digits_are_those_of_scikit_learn(data_dir):
  train = load("digits", "train", data_dir=data_dir)
  test = load("digits", "test", data_dir=data_dir)
  assert train.image.shape == (1437, 8, 8, 1)
  assert test.image.shape == (360, 8, 8, 1)
  assert train.classes == tuple("0123456789")
  digits = datasets.load_digits()
  expected = np.floor(digits.images * 255 / 16 + 0.5).astype(np.uint8)
  assert (expected.min(), expected.max()) == (0, 255)

  def pairs(images, labels):
    return sorted(
        (image.tobytes(), int(label)) for image, label in zip(images, labels)
    )

  # All there, none twice: the splits are disjoint.
  found = pairs(
      np.concatenate([train.image, test.image]),
      np.concatenate([train.label, test.label]),
  )
  assert found == pairs(expected, digits.target)


def test_digits_split_is_fixed_and_stratified(data_dir):
  test = load("digits", "test", data_dir=data_dir)
  counts = np.bincount(load("digits", "train", data_dir=data_dir).label)
  share = np.bincount(test.label) / (counts + np.bincount(test.label))
  assert share.min() > 0.195 and share.max() < 0.205
  rows = sorted(image.tobytes() for image in test.image)
  digest = hashlib.sha256(b"".join(rows)).hexdigest()
  assert digest[:16] == "02fa634ad65530b9"


def test_digits_prepared_twice_are_the_same(data_dir, tmp_path):
  first = load("digits", "train", data_dir=data_dir)
  second = load("digits", "train", data_dir=tmp_path)
  np.testing.assert_array_equal(first.image, second.image)
  np.testing.assert_array_equal(first.label, second.label)


def test_digits_name_data_dir_where_nothing_can_be_written(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(OSError, match="digits.*file.*--data_dir"):
    load("digits", "train", data_dir=tmp_path / "file" / "data")


_CHILD = """
import sys
from jssl.data import load
assert "tensorflow_datasets" not in sys.modules
assert "sklearn" not in sys.modules and "matplotlib" not in sys.modules
images = load("digits", "train", data_dir=sys.argv[1])
assert images.image.shape == (1437, 8, 8, 1)
assert "tensorflow" not in sys.modules
"""


@pytest.mark.slow
def test_first_use_is_silent_safe_and_without_tensorflow(tmp_path):
  # Three processes prepare at once, with a TensorFlow that must not be loaded.
  trap = tmp_path / "trap" / "tensorflow"
  trap.mkdir(parents=True)
  (trap / "__init__.py").write_text("raise SystemExit('TensorFlow imported')")
  path = os.pathsep.join([str(trap.parent), os.getcwd()])
  environment = {**os.environ, "PYTHONPATH": path}

  def child(_):
    return subprocess.run(
        [sys.executable, "-c", _CHILD, str(tmp_path / "data")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

  with concurrent.futures.ThreadPoolExecutor(3) as pool:
    for result in pool.map(child, range(3)):
      assert result.returncode == 0, result.stdout + result.stderr
      assert result.stdout == "" and result.stderr == ""
  assert os.listdir(tmp_path / "data" / "digits") == ["1.0.0"]


def test_a_broken_record_does_not_spoil_the_others(data_dir, monkeypatch):
  source = open_source("jssl_tiny", "train", data_dir=data_dir)
  whole = source.read([2, 5, 7])
  reader = array_record_data_source.ArrayRecordDataSource
  getitems = reader.__getitems__

  def broken(self, indices):
    if 5 in indices:
      raise ValueError("checksum")
    return getitems(self, indices)

  monkeypatch.setattr(reader, "__getitems__", broken)
  first, lost, last = source.read([2, 5, 7])
  assert [first, last] == [whole[0], whole[2]]
  assert (lost.encoded, lost.label) == (b"", -1)
  assert lost.name == "jssl_tiny train #5"


_NO_FILES = """
import os, resource, sys, time
from jssl import data

path, tries = sys.argv[1], int(sys.argv[2])
first, source = (
    data.open_source("digits", "train", data_dir=path) for _ in range(2)
)
known = [record.encoded for record in first.read([1, 2])]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
opened = []
try:
  while True:
    opened.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
  pass

def wait(seconds):
  global tries
  tries -= 1
  if not tries:
    for file in opened:
      os.close(file)

time.sleep = wait
try:
  assert [x.encoded for x in source.read([1, 2])] == known
  print("read")
except OSError as error:
  for file in opened[:9]:
    os.close(file)
  print(error)
"""


@pytest.mark.parametrize("tries", [2, 9])
def test_a_lack_of_open_files_is_no_broken_record(data_dir, tries):
  done = subprocess.run(
      [sys.executable, "-c", _NO_FILES, data_dir, str(tries)],
      capture_output=True,
      text=True,
      check=False,
  )
  assert done.returncode == 0, done.stderr
  if tries == 2:
    assert done.stdout == "read\n"
  else:
    assert "digits could not be read, in 5 tries" in done.stdout
    assert "Too many open files" in done.stdout and "ulimit" in done.stdout


def test_gray_sets_show_no_hidden_colors(tmp_path):
  builder = JsslAlpha(data_dir=str(tmp_path), file_format="array_record")
  builder.download_and_prepare()
  images = load("jssl_alpha", "train", data_dir=tmp_path)
  assert images.image.shape == (3, 5, 4, 1)
  assert (images.image == 255).all()


class JsslAlpha(JsslTiny):
  """Gray pictures, wholly transparent, of colors that differ."""

  VERSION = tfds.core.Version("1.0.0")
  SHAPE = (5, 4, 1)
  SPLITS = {"train": (0, 3)}

  def _generate_examples(self, split, start, stop):
    for key, example in super()._generate_examples(split, start, stop):
      hidden = Image.new("LA", (4, 5), (50 * key, 0))
      file = io.BytesIO()
      hidden.save(file, "PNG")
      file.seek(0)
      yield key, {**example, "image": file}
