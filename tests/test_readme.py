"""What the README points at is there."""

import ast
import pathlib
import re

import pytest

_ROOT = pathlib.Path(__file__).parent.parent
_TEXT = (_ROOT / "README.md").read_text()
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


def test_links_within_the_project_lead_somewhere():
  links = re.findall(r"\]\(([^)#\s]+)\)", _TEXT)
  local = [link for link in links if "://" not in link]
  assert len(local) > 20
  for link in local:
    assert (_ROOT / link).exists(), link


def test_links_within_the_page_lead_somewhere():
  heads = re.findall(r"^#+ (.*)$", _TEXT, re.MULTILINE)
  anchors = {re.sub(r"[^\w -]", "", x.lower()).replace(" ", "-") for x in heads}
  links = set(re.findall(r"\]\(#([^)]+)\)", _TEXT))
  assert links and links <= anchors
