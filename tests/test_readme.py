"""What the README points at is there."""

import ast
import pathlib
import re
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from jssl import augment
from jssl import data
from jssl import evals
from jssl import make_step
from jssl import optim
from jssl.methods import METHODS
from jssl.methods.branch import Embedding
from jssl.step import init_state
import tiny

_ROOT = pathlib.Path(__file__).parent.parent
_TEXT = (_ROOT / "README.md").read_text()
_CHINESE = (_ROOT / "README.zh.md").read_text()
_PROMISES = re.findall(r"`([\w/]+\.py)::(\w+)`", _TEXT)


@pytest.mark.parametrize("file,name", _PROMISES)
def test_a_promise_has_its_test(file, name):
  tree = ast.parse((_ROOT / "tests" / file).read_text())
  names = {x.name for x in tree.body if isinstance(x, ast.FunctionDef)}
  assert name in names


def test_every_promise_names_one():
  section = _TEXT.partition("## Promises")[2].partition("\n## ")[0]
  rows = [x for x in section.splitlines() if x.startswith("| ")][2:]
  assert len(rows) > 15
  for row in rows:
    assert "::test_" in row or "jssl.bench" in row, row


@pytest.mark.parametrize("text,count", [(_TEXT, 20), (_CHINESE, 7)])
def test_links_within_the_project_lead_somewhere(text, count):
  links = re.findall(r"\]\(([^)#\s]+)\)", text)
  local = [link for link in links if "://" not in link]
  assert len(local) > count
  for link in local:
    assert (_ROOT / link).exists(), link


def test_the_page_on_fidelity_has_a_row_for_every_trajectory():
  page = (_ROOT / "docs/fidelity.md").read_text()
  rows = re.findall(r"^\| [^|]*\(`(\w+)`\) \|", page, re.MULTILINE)
  files = (_ROOT / "tests/golden/trajectories").glob("*.npz")
  assert sorted(rows) == sorted(path.stem for path in files)


def test_links_within_the_page_lead_somewhere():
  heads = re.findall(r"^#+ (.*)$", _TEXT, re.MULTILINE)
  anchors = {re.sub(r"[^\w -]", "", x.lower()).replace(" ", "-") for x in heads}
  links = set(re.findall(r"\]\(#([^)]+)\)", _TEXT))
  assert links and links <= anchors


_BATCH = {"image": tiny.images(8)}


@pytest.fixture
def example():
  """The module that the README writes as an example."""
  (code,) = re.findall(r"```python\n(\"\"\"Align.*?)```", _TEXT, re.DOTALL)
  module = types.ModuleType("align_uniform")
  exec(code, vars(module))
  return module


def test_the_loss_of_the_example_is_that_of_its_paper(example, monkeypatch):
  take_criterion = lambda branch, views, criterion, *, axis_name: criterion
  monkeypatch.setattr(example.siamese, "make", take_criterion)
  criterion = example.align_uniform(tiny.Net(), weight=0.5)
  z = jax.random.normal(jax.random.key(0), (2, 7, 3))
  value, metrics = criterion(Embedding(z, z), None)
  align = evals.alignment(z[0], z[1])
  uniform = (evals.uniformity(z[0]) + evals.uniformity(z[1])) / 2
  np.testing.assert_allclose(metrics["align"], align, rtol=1e-5)
  np.testing.assert_allclose(metrics["uniform"], uniform, rtol=1e-5)
  np.testing.assert_allclose(value, align + 0.5 * uniform, rtol=1e-5)


def test_the_method_of_the_example_learns_on_any_number_of_devices(example):
  losses = {}
  for devices in (1, 2):
    method = example.align_uniform(
        tiny.Net(axis_name="devices"), augment=tiny.recipe, axis_name="devices"
    )
    optimizer = optim.sgd(0.1, weight_decay=0.0)
    state = init_state(method, optimizer, jax.random.key(0), _BATCH)
    step = jax.jit(
        jax.vmap(
            make_step(method, optimizer, "devices"),
            in_axes=(None, 0),
            out_axes=None,
            axis_name="devices",
        )
    )
    losses[devices] = []
    for _ in range(8):
      state, metrics = step(state, tiny.shards(_BATCH, devices))
      losses[devices].append(float(metrics["loss"]))
  np.testing.assert_allclose(losses[1], losses[2], rtol=1e-4)
  assert losses[1][-1] < losses[1][0] - 0.1


def test_a_part_is_taken_as_it_says():
  devices = jax.local_device_count()
  images = np.zeros((devices, 16, 8, 8, 3), np.uint8)
  names = {"images": images}
  exec(_block("net = nets.resnet18"), names)
  assert names["metrics"]["loss"] > 0 and names["state"].step == 1


def test_an_encoder_is_used_as_it_says(whole, tmp_path, monkeypatch):
  workdir, _ = whole
  (tmp_path / "runs").mkdir()
  (tmp_path / "runs" / "first").symlink_to(workdir)
  monkeypatch.chdir(tmp_path)
  images = data.load("digits", "test").image[:4]
  names = {"images": images}
  exec(_block("encode, params = load_encoder"), names)
  expected = names["features"]
  assert expected.shape[:-1] == (4,) and np.std(expected) > 0
  for file in ("encoder.stablehlo", "encoder.safetensors"):
    command = [sys.executable, "-m", "jssl.export", "--workdir=runs/first"]
    subprocess.run([*command, f"--output={file}"], check=True)
  # Cut and resized before, both say.
  prepare = jax.vmap(lambda x: augment.evaluation(augment.to_float(x), 16))
  prepared = np.asarray(prepare(images))
  names["images"] = prepared
  exec(_block("net, variables = load_safetensors"), names)
  np.testing.assert_allclose(names["features"], expected, atol=1e-4)
  names["images"] = np.round(255 * prepared).astype(np.uint8)
  exec(_block("jax.export.deserialize"), names)
  np.testing.assert_allclose(names["features"], expected, atol=0.1)


def _block(part):
  """The one block of Python in the README that has a part."""
  blocks = re.findall(r"```python\n(.*?)```", _TEXT, re.DOTALL)
  (block,) = (block for block in blocks if part in block)
  return block


def test_what_the_chinese_readme_explains_holds():
  blocks = re.findall(r"```python\n(.*?)```", _CHINESE, re.DOTALL)
  assert len(blocks) > 5
  names: dict[str, object] = {}
  for block in blocks:
    assert "assert" in block
    exec(block, names)


def test_both_readmes_tell_the_same_methods_and_commands():
  named = re.compile(r"python -m jssl\.train --config=\w+:\S+")
  assert set(METHODS) >= {
      x.partition("=")[2].partition(":")[0] for x in named.findall(_CHINESE)
  }
  assert named.findall(_TEXT)[0] == named.findall(_CHINESE)[0]
