"""What is installed: a wheel with all that jssl needs, and little else."""

import ast
import importlib.util
import itertools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

import jssl
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


@pytest.mark.slow
def test_what_is_installed_trains_from_any_folder(wheel, tmp_path, data_dir):
  installed, here = tmp_path / "installed", tmp_path / "here"
  command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
  subprocess.run([*command, "--target", installed, wheel], check=True)
  # Other projects have such a folder, too.
  (here / "configs").mkdir(parents=True)
  (here / "jssl").mkdir()  # As next to a clone, which is no package.
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
      *("jssl", "train", "--config=moco_v2:digits", "--workdir=run"),
      *("--config.epochs=0.1", "--config.net.width=8"),
      f"--data_dir={data_dir}",
  )
  assert done.returncode == 0, done.stderr
  assert "untrained net" in done.stdout
  assert "--config=METHOD:DATASET" in run("jssl").stdout
  script = [sys.executable, installed / "bin" / "jssl", "--version"]
  path = {**os.environ, "PYTHONPATH": str(installed)}
  done = subprocess.run(script, text=True, capture_output=True, env=path)
  assert done.stdout == f"jssl {jssl.__version__}\n"


_COMMANDS = ("train", "evaluate", "embed", "report", "export", "bench")


def _run(*arguments):
  """Runs `python -m` and returns the finished process."""
  return subprocess.run(
      [sys.executable, "-m", *arguments], capture_output=True, text=True
  )


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpfull"])
def test_help_shows_what_to_type(flag):
  done = _run("jssl.train", flag)
  output = done.stdout
  assert done.returncode == 0 and not done.stderr
  assert "--config=moco_v2:digits" in output and "--workdir" in output
  assert "--config.epochs=100" in output and "60" in output
  assert ("--verbosity" in output) == (flag == "--helpfull")
  if flag != "--helpfull":
    assert max(map(len, output.splitlines())) <= 80
    assert str(_ROOT) not in output and "None" not in output


@pytest.mark.parametrize("name", _COMMANDS)
def test_a_command_is_a_word_after_jssl(name):
  done = _run("jssl", name, "--help")
  assert done.returncode == 0 and not done.stderr
  assert f"python -m jssl.{name}" in done.stdout
  assert "--[no]debug" in done.stdout


def test_a_command_finds_its_flags_after_jssl():
  done = _run("jssl", "train", "--workdirr=x")
  assert done.returncode == 1 and "workdirr" in done.stderr
  assert "Traceback" not in done.stderr


def test_the_nearest_to_an_unknown_command_is_suggested():
  done = _run("jssl", "evalute", "--workdir=x")
  assert done.returncode == 1 and not done.stdout
  assert "'evalute'" in done.stderr and "evaluate" in done.stderr


def test_the_version_is_that_of_the_package(wheel):
  assert wheel.name.startswith(f"jssl-{jssl.__version__}-")
  done = _run("jssl.train", "--version")
  assert done.returncode == 0
  assert done.stdout == f"jssl {jssl.__version__}\n"


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


def _flags_with_values(text):
  """Yields names and expressions of `--name={expression}` in f-strings."""
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.JoinedStr):
      for before, value in itertools.pairwise(node.values):
        if isinstance(before, ast.Constant) and isinstance(
            value, ast.FormattedValue
        ):
          flag = re.search(r"--([\w.]+)=$", str(before.value))
          if flag:
            yield flag[1], ast.unparse(value.value)


def test_paths_in_hints_can_be_pasted_into_a_shell():
  """Those that name folders: with blanks, quotes, $ or in Chinese."""
  hints = [
      (flag, value)
      for path in (_ROOT / "jssl").rglob("*.py")
      # An argument of `subprocess` needs no shell.
      if path.name != "start.py"
      for flag, value in _flags_with_values(path.read_text())
      if flag in ("workdir", "data_dir", "dataset", "neighbours")
  ]
  assert len(hints) >= 4
  assert not [x for x in hints if not x[1].startswith("shlex.quote(")]


def test_the_package_lists_methods_and_commands():
  command = [sys.executable, "-m", "jssl"]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  words = set(done.stdout.replace(",", " ").split())
  assert set(METHODS) <= words
  modules = {word for word in words if word.startswith("jssl.")}
  assert len(modules) == 6
  for module in modules:
    assert importlib.util.find_spec(module), module
  assert max(map(len, done.stdout.splitlines())) <= 80
