"""Examples in docstrings hold, and no public function lacks one."""

import doctest
import importlib
import pathlib

import pytest

import jssl
from test_api import FUNCTIONS

_ROOT = pathlib.Path(jssl.__file__).parent
_MODULES = [
    ".".join(path.relative_to(_ROOT.parent).with_suffix("").parts)
    for path in sorted(_ROOT.rglob("*.py"))
    if ">>> " in path.read_text()
]
# It wants an encoder, its parameters, and images: its own test shows them.
_WITHOUT = {"evals.augmented_linear_probe"}


@pytest.mark.parametrize("name", _MODULES)
def test_examples_give_what_they_say(
    name, data_dir, whole, tmp_path, monkeypatch
):
  monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
  (tmp_path / "runs").mkdir()
  (tmp_path / "runs" / "first").symlink_to(whole[0])
  monkeypatch.chdir(tmp_path)
  result = doctest.testmod(importlib.import_module(name))
  assert result.attempted and not result.failed


def test_every_public_function_has_an_example():
  # What a method is called with stands in README and configs.
  names = {name for name in FUNCTIONS if not name.startswith("methods.")}
  with_example = {x for x in names if ">>> " in (FUNCTIONS[x].__doc__ or "")}
  assert names - with_example == _WITHOUT
