"""Builds README, docs and the API reference: `python .ci/docs.py FOLDER`.

Markdown is rendered at its own relative path, the README as the first page.
Relative links lead to the same things as on GitHub: those to a module lead to
its page of the reference. Every one of them is checked.
"""

import html
import pathlib
import posixpath
import re
import shutil
import sys
import warnings

import markdown2
import pdoc
import pdoc.render
from pdoc.render_helpers import formatter, lexer, markdown_extensions
import pygments

from jssl.methods import METHODS

_ROOT = pathlib.Path(__file__).parent.parent
_EXTRAS = {k: v for k, v in markdown_extensions.items() if k != "link-patterns"}
_LINK = re.compile(r'(href|src)="([^"#:]*)(#[^"]*)?"')


def main() -> None:
  """Builds all of it."""
  if len(sys.argv) != 2:
    sys.exit("python .ci/docs.py FOLDER")
  folder = pathlib.Path(sys.argv[1])
  pdoc.render.configure(
      docformat="google",
      footer_text="jssl",
      include_undocumented=False,
      math=True,
      mermaid=True,
      template_directory=pathlib.Path(__file__).parent / "templates",
  )
  # Fields that Flax annotates; modules that their package brings along.
  warnings.filterwarnings("ignore", message="Error parsing type annotation")
  warnings.filterwarnings("ignore", message="The module specification")
  pdoc.pdoc(*_modules(), output_directory=folder)
  _check_methods(folder)
  pages = _pages()
  for source in pages:
    _write_page(folder, source, pages)
  for source in sorted(_ROOT.glob("configs/*.py")):
    _write_config(folder, source, pages)
  _check_links(folder, [_target(source) for source in pages])


def _modules() -> list[str]:
  """Names of all modules but the command lines, whose flags would collide."""
  names = []
  for path in sorted((_ROOT / "jssl").rglob("*.py")):
    if "app.run(" in path.read_text() or path.name == "__main__.py":
      continue
    parts = path.relative_to(_ROOT).with_suffix("").parts
    names.append(".".join(x for x in parts if x != "__init__"))
  return names


def _check_methods(folder: pathlib.Path) -> None:
  """Each method shows its equation, figure and code."""
  for method in METHODS.values():
    function = getattr(method, "func", method)  # Of a partial one.
    page = folder / (function.__module__.replace(".", "/") + ".html")
    text = page.read_text()
    for part in ("$$", 'class="mermaid"', f'id="{function.__name__}"'):
      if part not in text:
        sys.exit(f"{page} lacks {part}")


def _pages() -> dict[str, str]:
  """Titles of all pages by their paths, in the order of the README's table."""
  linked = re.findall(r"\]\((docs/[\w.]+)\)", _read("README.zh.md"))
  found = sorted(
      path.relative_to(_ROOT).as_posix() for path in _ROOT.glob("docs/*.md")
  )
  # The table at its end comes last.
  order = [x for x in reversed(dict.fromkeys(reversed(linked))) if x in found]
  order += [x for x in found if x not in order]
  titles = {path: _read(path).partition("\n")[0].strip("# ") for path in order}
  return {"README.md": "Overview", "README.zh.md": "中文", **titles}


def _read(path: str) -> str:
  return (_ROOT / path).read_text()


class _Markdown(markdown2.Markdown):
  """Markdown whose headings have the anchors that GitHub gives them."""

  def header_id_from_text(self, text, prefix, n=None):
    del prefix, n
    text = html.unescape(re.sub(r"<[^>]*>", "", text))
    return re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-")


def _write_page(
    folder: pathlib.Path, source: str, pages: dict[str, str]
) -> None:
  """Renders a page of Markdown; copies the files that it links."""

  def linked(match):
    attribute, path, anchor = match.groups(default="")
    if path:
      here = posixpath.dirname(source)
      there = posixpath.normpath(posixpath.join(here, path))
      target = _target(there)
      if target == there and (_ROOT / there).is_file():
        (folder / there).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(_ROOT / there, folder / there)
      path = posixpath.relpath(target, here or ".")
    return f'{attribute}="{path}{anchor}"'

  text = _Markdown(extras=_EXTRAS).convert(_read(source))
  body = _LINK.sub(linked, text)
  _write(folder, _target(source), pages[source], body, pages, text.toc_html)


def _write_config(
    folder: pathlib.Path, source: pathlib.Path, pages: dict[str, str]
) -> None:
  """Shows a config's code."""
  path = source.relative_to(_ROOT).as_posix()
  code = pygments.highlight(source.read_text(), lexer, formatter)
  _write(folder, _target(path), path, f"<h1>{path}</h1>{code}", pages)


def _write(
    folder: pathlib.Path,
    target: str,
    title: str,
    body: str,
    pages: dict[str, str],
    toc: str = "",
) -> None:
  """Writes a page with the list of all pages at its side."""
  text = pdoc.render.env.get_template("page.html.jinja2").render(
      title=title if target != "index.html" else "jssl",
      text=body,
      toc=toc,
      pages=[(_target(path), name) for path, name in pages.items()],
      root="../" * target.count("/"),
      math="$$" in body,
  )
  path = folder / target
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)


def _target(path: str) -> str:
  """Where the site has a file or folder of the project."""
  if path == "README.md":
    return "index.html"
  if path == "configs":
    return "configs/moco_v2.html"
  source = path.removesuffix("/__init__.py")
  if source.endswith((".md", ".py")) or path.startswith("jssl/"):
    return re.sub(r"\.(md|py)$", "", source) + ".html"
  return path


def _check_links(folder: pathlib.Path, targets: list[str]) -> None:
  """Every relative link of a page leads to a file, and an anchor in it."""
  for target in targets:
    for _, path, anchor in _LINK.findall((folder / target).read_text()):
      file = (folder / target).parent / path if path else folder / target
      if not file.is_file():
        sys.exit(f"{target} links to {path}, which is not there")
      if anchor and f'id="{anchor[1:]}"' not in file.read_text():
        sys.exit(f"{target} links to {path}{anchor}, which is not there")


if __name__ == "__main__":
  main()
