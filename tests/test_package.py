"""What is installed: a wheel with all that jssl needs, and little else."""

import importlib.util
import pathlib
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

from jssl.methods import METHODS

_ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  """The names in the wheel, and its size in bytes."""
  folder = tmp_path_factory.mktemp("wheel")
  copy = folder / "copy"  # What a build leaves behind would be in the next.
  for name in ("jssl", "configs"):
    shutil.copytree(_ROOT / name, copy / name)
  for name in ("pyproject.toml", "README.md", "LICENSE"):
    shutil.copy(_ROOT / name, copy)
  command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
  subprocess.run([*command, "-w", folder, copy], check=True, timeout=300)
  (path,) = folder.glob("jssl-*.whl")
  with zipfile.ZipFile(path) as archive:
    return set(archive.namelist()), path.stat().st_size


def test_every_package_is_listed():
  project = tomllib.loads((_ROOT / "pyproject.toml").read_text())
  listed = set(project["tool"]["setuptools"]["packages"])
  found = {
      path.parent.relative_to(_ROOT).as_posix().replace("/", ".")
      for path in (_ROOT / "jssl").rglob("*.py")
  }
  assert listed == found | {"jssl.configs"}


def test_the_wheel_holds_all_and_is_small(wheel):
  names, size = wheel
  assert size < 2**20
  for folder, inside in (("jssl", "jssl"), ("configs", "jssl/configs")):
    for path in (_ROOT / folder).rglob("*"):
      if path.is_file() and "__pycache__" not in path.parts:
        name = path.relative_to(_ROOT / folder).as_posix()
        assert f"{inside}/{name}" in names


def test_importing_jssl_is_quick_and_brings_little():
  code = (
      "import sys, jssl;"
      "print(*[m for m in ('matplotlib', 'sklearn', 'tensorflow_datasets',"
      "'tensorflow', 'orbax', 'grain', 'PIL') if m in sys.modules])"
  )
  done = subprocess.run(
      [sys.executable, "-c", code], text=True, capture_output=True, check=True
  )
  assert done.stdout.split() == []


def test_the_package_tells_what_it_can_do():
  command = [sys.executable, "-m", "jssl"]
  told = subprocess.run(command, capture_output=True, text=True, check=True)
  words = set(told.stdout.replace(",", " ").split())
  assert set(METHODS) <= words
  modules = {word for word in words if word.startswith("jssl.")}
  assert len(modules) == 6
  for module in modules:
    assert importlib.util.find_spec(module), module
  assert max(map(len, told.stdout.splitlines())) <= 80
