"""Examples in docstrings hold, and no public function or net lacks one."""

import doctest
import importlib
import inspect
import pathlib

import pytest

import jssl
from jssl import embeddings, nets, parallel
from test_api import FUNCTIONS, public_names

_ROOT = pathlib.Path(jssl.__file__).parent
# Found by their text: to import command lines would define their flags.
_MODULES = [
    ".".join(path.relative_to(_ROOT.parent).with_suffix("").parts)
    for path in sorted(_ROOT.rglob("*.py"))
    if ">>> " in path.read_text()
]


def _documented():
  """`{"losses.info_nce": function}` of all that people call, classes too."""
  # What a method is called with is in docs and configs.
  found = {k: v for k, v in FUNCTIONS.items() if not k.startswith("methods.")}
  found |= {name: getattr(jssl, name) for name in jssl.__all__}
  del found["__version__"]  # A string.
  # Helpers of a step take their axis by position, unlike the rest of the API.
  for module in (embeddings, nets, parallel):
    for name in public_names(module):
      value = getattr(module, name)
      if inspect.isfunction(value) or inspect.isclass(value):
        found[f"{module.__name__.removeprefix('jssl.')}.{name}"] = value
  return found


_DOCUMENTED = _documented()


@pytest.mark.parametrize("name", _MODULES)
def test_examples_give_what_they_say(
    name, data_dir, whole, tmp_path, monkeypatch
):
  monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
  (tmp_path / "runs").mkdir()
  (tmp_path / "runs" / "first").symlink_to(whole[0])
  monkeypatch.chdir(tmp_path)
  result = doctest.testmod(importlib.import_module(name))
  assert result.attempted > 0 and result.failed == 0


def test_what_needs_an_example_is_found():
  expected = {
      "Method",
      "TrainState",
      "load_encoder",
      "losses.info_nce",
      "masking.random_mask",
      "nets.ResNet",
      "parallel.all_gather",
      "queue.push",
  }
  assert expected <= set(_DOCUMENTED)


@pytest.mark.parametrize("name", _DOCUMENTED)
def test_it_has_an_example(name):
  text = inspect.getdoc(_DOCUMENTED[name])
  assert text and "\nExample:\n" in text and "\n  >>> " in text
