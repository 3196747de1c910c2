"""What README and docs show is true: links, commands, settings and code."""

import ast
import json
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib
import types
from typing import Any

import jax
import numpy as np
import pytest

from jssl import augment, config, data, evals, make_step, optim
from jssl.config import build
from jssl.method import Method
from jssl.methods import METHODS
from jssl.methods._branch import Embedding
from jssl.report import conclusions
import tiny

_ROOT = pathlib.Path(__file__).parent.parent
_PATHS = [*sorted(_ROOT.glob("README*.md")), *sorted(_ROOT.glob("docs/*.md"))]
_PAGES = {x.relative_to(_ROOT).as_posix(): x.read_text() for x in _PATHS}
# The text of a notebook's cells that hold no code.
_NOTEBOOKS = {
    path.relative_to(_ROOT).as_posix(): "\n\n".join(
        "".join(cell["source"])
        for cell in json.loads(path.read_text())["cells"]
        if cell["cell_type"] == "markdown"
    )
    for path in sorted(_ROOT.glob("colab/*.ipynb"))
}
_TEXTS = {**_PAGES, **_NOTEBOOKS}
_README = _PAGES["README.md"]
_CHINESE = _PAGES["README.zh.md"]
_PROMISES = _PAGES["docs/promises.md"]
_FENCE = re.compile(r"^(`{3,})(\w*)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
# What a reader fills in.
_PLACEHOLDERS = {"METHOD": "moco_v2", "[test]": ""}


@pytest.mark.parametrize(
    "file,name", re.findall(r"`([\w/]+\.py)::(\w+)`", _PROMISES)
)
def test_a_promise_has_its_test(file, name):
  tree = ast.parse((_ROOT / "tests" / file).read_text())
  names = {x.name for x in tree.body if isinstance(x, ast.FunctionDef)}
  assert name in names


def test_every_promise_names_its_test():
  promises = re.findall(r"^- (?:.+\n)(?:  .+\n)*", _PROMISES, re.MULTILINE)
  assert len(promises) > 20
  for promise in promises:
    assert re.search(r"::test_|jssl\.bench|tests/benchmarks/", promise), promise


def _without_code(text):
  return _FENCE.sub("", text)


def _anchors(text):
  """Anchors of a page's headings, as GitHub makes them."""
  heads = re.findall(r"^#+ (.*)$", _without_code(text), re.MULTILINE)
  heads = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", x) for x in heads]
  return [re.sub(r"[^\w -]", "", x.lower()).replace(" ", "-") for x in heads]


@pytest.mark.parametrize("page", _TEXTS)
def test_links_within_the_project_lead_somewhere(page):
  links = re.findall(r"\]\(([^)\s]+)\)", _without_code(_TEXTS[page]))
  local = [link for link in links if "://" not in link]
  assert len(local) >= {"README.md": 40, "README.zh.md": 40}.get(page, 0)
  for link in local:
    file, _, anchor = link.partition("#")
    path = (_ROOT / page).parent / file if file else _ROOT / page
    assert path.exists(), link
    if anchor:
      name = path.resolve().relative_to(_ROOT).as_posix()
      assert anchor in _anchors(_PAGES[name]), link


@pytest.mark.parametrize("page", _PAGES)
def test_headings_of_a_page_differ(page):
  anchors = _anchors(_PAGES[page])
  assert anchors and len(set(anchors)) == len(anchors)


def test_the_readmes_lead_to_every_page():
  for page in _PAGES:
    assert f"]({page})" in _README + _CHINESE
    if not page.endswith(("README.md", ".zh.md")):
      assert f"]({page})" in _README and f"]({page})" in _CHINESE


def test_the_readme_is_short():
  assert len(_README.splitlines()) <= 250
  assert "not measured" not in _README


def test_tables_have_no_empty_rows_and_even_columns():
  for page, text in _PAGES.items():
    for table in re.findall(
        r"(?:^\|.*\|\n)+", _without_code(text), re.MULTILINE
    ):
      rows = [x.split("|")[1:-1] for x in table.splitlines()]
      assert len({len(row) for row in rows}) == 1, (page, table)
      for row in rows[2:]:
        assert "".join(row[1:]).strip(), (page, row)


@pytest.mark.parametrize(
    "text,head", [(_README, "Methods"), (_CHINESE, "方法")]
)
def test_a_readme_lists_methods_once_and_counts_them(text, head):
  section = text.partition(f"\n## {head}\n")[2].partition("\n## ")[0]
  listed = re.findall(r"\]\(configs/(\w+)\.py\)", section)
  listed.remove("moco_v3_vit")  # Another recipe of moco_v3.
  # Not all of METHODS: a method is complete with its file, config and test.
  assert len(listed) == len(set(listed)) and set(listed) <= set(METHODS)
  assert re.search(rf"\b{len(listed)}( methods| 种方法)", text)
  assert set(config.config_files()) >= {*listed, "moco_v3_vit"}
  for row in section.splitlines():
    names = re.findall(r"\]\(configs/(\w+)\.py\)", row)
    if names:  # The file next to it makes that method.
      (file,) = re.findall(r"\]\(jssl/methods/(\w+)\.py\)", row)
      function = METHODS[names[0]]
      module = getattr(function, "func", function).__module__
      assert module == f"jssl.methods.{file}"


def _commands():
  """`(page, arguments of python)` of every command of jssl on a page."""
  for page, text in _TEXTS.items():
    lines = []
    for _, language, block in _FENCE.findall(text):
      if not language:
        lines += block.replace("\\\n", " ").splitlines()
    lines += _INLINE.findall(_without_code(text))
    for line in lines:
      for command in line.split(" && "):
        words = shlex.split(command, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S+", words[0]):
          words.pop(0)  # A variable of the environment.
        if words[:1] == ["jssl"]:
          words[:1] = ["python", "-m", "jssl"]
        script = words[:1] == ["python"] and words[1].startswith("tests/")
        if not script and words[:2] != ["python", "-m"]:
          continue
        if words[-1].endswith("..."):
          continue
        for name, value in _PLACEHOLDERS.items():
          words = [word.replace(name, value) for word in words]
        yield page, words[1 if script else 2 :]
  # Tables of commands whose head has what they begin with.
  table = re.compile(r"^\| `python (.+?)\.\.\.`.*\n((?:\|.*\n)+)", re.M)
  for start, rows in table.findall(_PAGES["docs/speed.md"]):
    for row in re.findall(r"^\| `([^`]+)`", rows, re.M):
      yield "docs/speed.md", shlex.split(start + row)[start.startswith("-m") :]


# Parses each command in a process of its own, as `python -m` would.
_PARSER = """
import json, os, runpy, sys
from absl import app
import jssl.cli  # What takes long to import.

def parse(main, flags_parser):
  flags_parser(sys.argv)

app.run = parse
for name, *arguments in json.load(sys.stdin):
  if not os.fork():
    sys.argv = [name, *arguments]
    run = runpy.run_path if name.endswith(".py") else runpy.run_module
    run(name, run_name="__main__")
    os._exit(0)
  _, status = os.wait()
  if status:
    sys.exit(f"{name} {arguments}")
"""


@pytest.mark.slow
def test_commands_are_understood():
  commands = list(_commands())
  pages = {page for page, _ in commands}
  assert len(commands) > 60 and len(pages) > 8
  unique = sorted({tuple(words) for _, words in commands})
  benchmarks = {words[1] for words in unique if words[0] == "jssl.bench"}
  listed = (_ROOT / "jssl/bench/__main__.py").read_text()  # In its help.
  for name in benchmarks:
    assert f"python -m jssl.bench {name}" in listed
  result = subprocess.run(
      [sys.executable, "-c", _PARSER],
      input=json.dumps(unique),
      text=True,
      capture_output=True,
      cwd=_ROOT,
  )
  assert result.returncode == 0, result.stdout + result.stderr


def test_settings_exist():
  known = {"resolved"}
  for name in config.config_files():
    for dataset in ("digits", "cifar10", "imagenet2012", "folder:photos"):
      known |= set(_entries(config.of_method(name, dataset).to_dict()))
  mentioned = re.compile(r"(?:--config|`(?:--)?config)\.((?:\w+\.)*\w+)")
  count = 0
  for page, text in _TEXTS.items():
    for entry in mentioned.findall(text):
      if entry not in ("KEY", "json", "method.NAME"):
        assert entry in known, (page, entry)
        count += 1
  assert count > 30


def _entries(tree, prefix=""):
  for name, value in tree.items():
    yield f"{prefix}{name}"
    if isinstance(value, dict):
      yield from _entries(value, f"{prefix}{name}.")


def test_the_report_says_what_is_quoted():
  rows = re.findall(r"^\| [a-z ]+ \| (0\.\d+) .* (\d+\.\d) \|$", _README, re.M)
  encoder, untrained, raw_pixels = (
      {"knn": float(knn), "rank": float(rank)} for knn, rank in rows
  )
  baselines = {"untrained": untrained, "raw_pixels": raw_pixels}
  summary = {**encoder, "baselines": baselines, "images": {"test": 360}}
  sentence = conclusions.finished(summary, classes=10)
  assert f'"{sentence}"' in " ".join(_PAGES["docs/training.md"].split())


def test_extras_that_pages_install_exist():
  project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
  text = "".join(_PAGES.values())
  extras = set(re.findall(r"(?:\.|jssl)\[(\w+)\]", text))
  assert {"test", "dev", "docs", "parquet", "compilers"} == extras
  assert extras <= set(project["optional-dependencies"])


def test_the_page_on_fidelity_has_a_row_for_every_trajectory():
  page = _PAGES["docs/fidelity.md"]
  rows = re.findall(r"^\| [^|]*\(`(\w+)`\) \|", page, re.MULTILINE)
  files = (_ROOT / "tests/golden/trajectories").glob("*.npz")
  assert sorted(rows) == sorted(path.stem for path in files)


def test_the_config_of_the_example_makes_its_method(example, monkeypatch):
  monkeypatch.setitem(METHODS, "align_uniform", example.align_uniform)
  names: dict[str, Any] = {}
  exec(_block("--config=align_uniform:digits"), names)
  for dataset in ("digits", "cifar10", "imagenet2012"):
    config = names["get_config"](dataset)
    assert isinstance(build.method(config), Method)
  assert not names["get_config"]("cifar10").augment.blur_probability


_BATCH = {"image": tiny.images(8)}


@pytest.fixture
def example():
  """The module of the page on adding a method."""
  code = _block('r"""Align')
  module = types.ModuleType("align_uniform")
  exec(code, vars(module))
  return module


@pytest.mark.slow
def test_the_loss_of_the_example_is_that_of_its_paper(example, monkeypatch):
  take_criterion = lambda branch, views, criterion, *, axis_name: criterion
  monkeypatch.setattr(example._one_net, "make", take_criterion)
  criterion = example.align_uniform(tiny.Net(), weight=0.5)
  z = jax.random.normal(jax.random.key(0), (2, 7, 3))
  value, metrics = criterion(Embedding(z, z), None)
  align = evals.alignment(z[0], z[1])
  uniform = (evals.uniformity(z[0]) + evals.uniformity(z[1])) / 2
  np.testing.assert_allclose(metrics["align"], align, rtol=1e-5)
  np.testing.assert_allclose(metrics["uniform"], uniform, rtol=1e-5)
  np.testing.assert_allclose(value, align + 0.5 * uniform, rtol=1e-5)


@pytest.mark.slow
def test_the_method_of_the_example_learns_on_any_number_of_devices(example):
  losses = {}
  for devices in (1, 2):
    method = example.align_uniform(
        tiny.Net(axis_name="devices"), augment=tiny.recipe, axis_name="devices"
    )
    optimizer = optim.sgd(0.1, weight_decay=0.0)
    state = tiny.start(method, optimizer, _BATCH)
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


@pytest.mark.slow
def test_a_part_is_taken_as_it_says():
  devices = jax.local_device_count()
  images = np.zeros((devices, 16, 8, 8, 3), np.uint8)
  names = {"images": images}
  exec(_block("net = nets.resnet18"), names)
  assert names["metrics"]["loss"] > 0 and names["state"].step == 1


@pytest.mark.slow
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


# Each has a test of its own, with images that suit it.
_TESTED = (
    'r"""Align',
    "net = nets.resnet18",
    "encode, params = load_encoder",
    "net, variables = load_safetensors",
    "jax.export.deserialize",
)


def _blocks(page):
  return [
      x
      for _, language, x in _FENCE.findall(_PAGES[page])
      if language == "python"
  ]


def _block(part):
  """The block of Python with a part, the same on every page that shows it."""
  found = {x for page in _PAGES for x in _blocks(page) if part in x}
  (block,) = found
  return block


@pytest.mark.slow
@pytest.mark.parametrize("page", [x for x in _PAGES if _blocks(x)])
def test_the_other_code_of_a_page_runs(page):
  names: dict[str, object] = {}
  for block in _blocks(page):
    if not any(part in block for part in _TESTED):
      exec(block, names)


def test_what_the_chinese_tutorial_explains_holds():
  blocks = _blocks("docs/tutorial.zh.md")
  assert len(blocks) > 5
  for block in blocks:  # Run by the test above.
    assert "assert" in block


def test_both_readmes_show_the_same_methods_commands_and_figures():
  named = re.compile(r"python -m jssl\.train --config=\w+:\S+")
  assert set(METHODS) >= {
      x.partition("=")[2].partition(":")[0] for x in named.findall(_CHINESE)
  }
  assert named.findall(_README) == named.findall(_CHINESE)
  assert re.findall("^#+ ", _README, re.M) == re.findall("^#+ ", _CHINESE, re.M)
  figures = [re.findall(r"\| (\d[\d.]+)", x) for x in (_README, _CHINESE)]
  assert len(figures[0]) >= 12 and figures[0] == figures[1]
