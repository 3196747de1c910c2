"""Facts about data sets."""

import subprocess
import sys

import pytest

from jssl.data import datasets


@pytest.mark.parametrize(
    "name,row",
    [
        ("cifar10", "cifar10"),
        ("cifar10:3.0.2", "cifar10"),
        ("mnist_corrupted/shot_noise:1.0.0", "mnist_corrupted"),
        ("digits", "digits"),
    ],
)
def test_a_config_or_version_does_not_hide_the_row(name, row):
  assert datasets.facts(name) is datasets.DATASETS[row]


@pytest.mark.parametrize("name", ["folder:digits", "stl10", "folder:cifar10"])
def test_a_set_without_a_row_gets_the_defaults(name):
  assert datasets.facts(name) == datasets.Dataset()


def test_only_a_known_source_is_split_off():
  split = datasets.split_source
  assert split("folder:a:b/c") == ("folder", "a:b/c")
  assert split("folder:") == ("folder", "")
  for name in ("folder", "cifar10:3.0.2", "emnist/letters:3.1.0", "folders:x"):
    assert split(name) == ("tfds", name)


def test_embedded_sets_are_those_that_need_no_network():
  embedded = {k for k, v in datasets.DATASETS.items() if v.embedded}
  assert embedded == {"digits", "photos"}


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_rows_are_in_range(name):
  row = datasets.DATASETS[name]
  assert row.image_size > 0 and row.batch_size > 0 and row.canvas >= 0
  assert 0 < row.crop_fraction <= 1
  if row.crop_scale is None:
    assert not row.flips
  else:
    low, high = row.crop_scale
    assert 0 < low <= high <= 1


@pytest.mark.slow
def test_facts_need_no_slow_library():
  code = (
      "import sys; from jssl.data import datasets; datasets.facts('digits');"
      " assert 'tensorflow_datasets' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
