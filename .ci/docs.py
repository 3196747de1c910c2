"""Builds the reference from the docstrings: `python .ci/docs.py FOLDER`."""

import pathlib
import sys
import warnings

import pdoc
import pdoc.render

from jssl.methods import METHODS

_PACKAGE = pathlib.Path(__file__).parent.parent / "jssl"


def _modules() -> list[str]:
  """Names of all modules but the command lines, whose flags would collide."""
  names = []
  for path in sorted(_PACKAGE.rglob("*.py")):
    if "app.run(" in path.read_text() or path.name == "__main__.py":
      continue
    parts = path.relative_to(_PACKAGE.parent).with_suffix("").parts
    names.append(".".join(x for x in parts if x != "__init__"))
  return names


def main() -> None:
  """Builds it."""
  if len(sys.argv) != 2:
    sys.exit("python .ci/docs.py FOLDER")
  pdoc.render.configure(
      docformat="google",
      footer_text="jssl",
      include_undocumented=False,
      math=True,
      mermaid=True,
  )
  # Fields that Flax annotates; modules that their package brings along.
  warnings.filterwarnings("ignore", message="Error parsing type annotation")
  warnings.filterwarnings("ignore", message="The module specification")
  folder = pathlib.Path(sys.argv[1])
  pdoc.pdoc(*_modules(), output_directory=folder)
  for method in METHODS.values():
    function = getattr(method, "func", method)  # Of a partial one.
    page = folder / (function.__module__.replace(".", "/") + ".html")
    text = page.read_text()
    # Equation, figure and code of the method.
    for part in ("$$", 'class="mermaid"', f'id="{function.__name__}"'):
      if part not in text:
        sys.exit(f"{page} lacks {part}")


if __name__ == "__main__":
  main()
