"""What is installed: a wheel with all that jssl needs, and little else."""

import importlib.util
import os
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
  """The wheel."""
  folder = tmp_path_factory.mktemp("wheel")
  copy = folder / "copy"  # What a build leaves behind would be in the next.
  for name in ("jssl", "configs"):
    shutil.copytree(_ROOT / name, copy / name)
  for name in ("pyproject.toml", "README.md", "LICENSE"):
    shutil.copy(_ROOT / name, copy)
  command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
  subprocess.run([*command, "-w", folder, copy], check=True, timeout=300)
  (path,) = folder.glob("jssl-*.whl")
  return path


def test_every_package_is_listed():
  project = tomllib.loads((_ROOT / "pyproject.toml").read_text())
  listed = set(project["tool"]["setuptools"]["packages"])
  found = {
      path.parent.relative_to(_ROOT).as_posix().replace("/", ".")
      for path in (_ROOT / "jssl").rglob("*.py")
  }
  assert listed == found | {"jssl.configs"}


def test_the_wheel_holds_all_and_is_small(wheel):
  assert wheel.stat().st_size < 2**20
  with zipfile.ZipFile(wheel) as archive:
    names = set(archive.namelist())
  for folder, inside in (("jssl", "jssl"), ("configs", "jssl/configs")):
    for path in (_ROOT / folder).rglob("*"):
      if path.is_file() and "__pycache__" not in path.parts:
        name = path.relative_to(_ROOT / folder).as_posix()
        assert f"{inside}/{name}" in names


def test_what_is_installed_trains_from_any_folder(wheel, tmp_path, data_dir):
  installed, here = tmp_path / "installed", tmp_path / "here"
  command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
  subprocess.run([*command, "--target", installed, wheel], check=True)
  # Other projects have such a folder, too.
  (here / "configs").mkdir(parents=True)
  (here / "jssl").mkdir()  # As beside a clone, which is no package.
  (here / "configs" / "other.py").write_text("raise RuntimeError\n")

  def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(installed)},
        text=True,
        capture_output=True,
    )

  found = run("inspect", "jssl", "--details").stdout
  assert f"Origin: {installed}" in found
  done = run(
      *("jssl.train", "--config=moco_v2:digits", "--workdir=run"),
      *("--config.epochs=0.1", "--config.net.width=8"),
      f"--data_dir={data_dir}",
  )
  assert done.returncode == 0, done.stderr
  assert "untrained net" in done.stdout
  assert "--config=METHOD:DATASET" in run("jssl").stdout


@pytest.mark.parametrize("flag", ["--help", "--helpshort"])
def test_help_tells_what_to_type(flag):
  command = [sys.executable, "-m", "jssl.train", flag]
  told = subprocess.run(command, capture_output=True, text=True).stdout
  assert "--config=moco_v2:digits" in told and "--workdir" in told


def test_without_arguments_a_whole_command_is_shown():
  command = [sys.executable, "-m", "jssl.train"]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 1
  assert "python -m jssl.train --config=moco_v2:digits" in done.stderr
  assert len(done.stderr.splitlines()) <= 4


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
