"""The rules of the public interface."""

import ast
import importlib
import inspect
import pathlib
import pydoc
import re

import pytest

import jssl

ROOT = pathlib.Path(jssl.__file__).parent

# Modules whose functions people call from their own code.
PUBLIC = (
    "losses",
    "queue",
    "ema",
    "masking",
    "augment",
    "evals",
    "optim",
    "methods",
)

# Here `key` is an embedding, the positive of a query.
KEY_IS_AN_EMBEDDING = ("losses.batch_info_nce", "losses.info_nce")
# Agreed before the rule: an axis that comes by position.
DEFAULT_BY_POSITION = ("make_step",)

# Left imports from nothing, right from all before it; a package is one entry.
ORDER = (
    "files",
    "parallel",
    "embeddings",
    "ema",
    "queue",
    "losses",
    "masking",
    "augment",
    "data",
    "nets",
    "method",
    "methods",
    "optim",
    "step",
    "config",
    "weights",
    "checkpoint",
    "encoder",
    "experiment",
    "progress",
    "evals",
    "preemption",
    "recorder",
    "cli",
    "report",
    "loop",
    "train",
    "evaluate",
    "embed",
    "export",
    "bench",
    "__main__",
)


def public_names(module):
  """What a module exports, or else defines without an underscore."""
  return getattr(module, "__all__", None) or [
      key
      for key, value in vars(module).items()
      if getattr(value, "__module__", None) == module.__name__
      and not key.startswith("_")
  ]


def _functions():
  """`{"losses.info_nce": function}` of all public functions."""
  functions = {
      name: getattr(jssl, name)
      for name in jssl.__all__
      if inspect.isfunction(getattr(jssl, name))
  }
  for name in PUBLIC:
    module = importlib.import_module(f"jssl.{name}")
    for key in public_names(module):
      value = getattr(module, key)
      if key == "METHODS":
        functions |= {f"methods.{k}": method for k, method in value.items()}
      elif inspect.isfunction(value):
        functions[f"{name}.{key}"] = value
  return functions


FUNCTIONS = _functions()
each_function = pytest.mark.parametrize("name", FUNCTIONS)


def _parameters(name):
  return inspect.signature(FUNCTIONS[name]).parameters


def test_the_public_functions_are_found():
  expected = {
      "make_step",
      "load_encoder",
      "losses.info_nce",
      "queue.init",
      "queue.push",
      "ema.update",
      "augment.random_resized_crop",
      "augment.moco_v2",
      "evals.knn_predict",
      "evals.few_shot",
      "evals.rankme",
      "optim.sgd",
      "optim.cosine",
      "methods.moco_v1",
      "methods.moco_v2",
  }
  assert expected <= set(FUNCTIONS)


@each_function
def test_a_prng_key_comes_first_and_is_called_key(name):
  parameters = list(_parameters(name))
  assert not {"rng", "prng_key", "prng", "seed"} & set(parameters)
  if "key" in parameters and name not in KEY_IS_AN_EMBEDDING:
    assert parameters[0] == "key"


@each_function
def test_random_operations_take_a_key(name):
  if name.startswith("augment.random_"):
    assert list(_parameters(name))[:2] == ["key", "image"]


@each_function
def test_arguments_with_defaults_are_keyword_only(name):
  for parameter in _parameters(name).values():
    if parameter.default is not parameter.empty:
      assert (
          parameter.kind is parameter.KEYWORD_ONLY
          or name in DEFAULT_BY_POSITION
      ), parameter


@each_function
def test_an_axis_comes_last_and_is_none_by_default(name):
  parameters = _parameters(name)
  axes = [key for key in parameters if "axis" in key]
  if axes:
    assert axes == ["axis_name"] and list(parameters)[-1] == "axis_name"
    assert parameters["axis_name"].default is None


@each_function
def test_a_docstring_explains_every_argument(name):
  function = FUNCTIONS[name]
  function = getattr(function, "func", function)  # Of a functools.partial.
  text = inspect.getdoc(function)
  assert text and text[0].isupper() and text.split("\n")[0].endswith(".")
  arguments = inspect.signature(function).parameters
  if "\n" not in text:  # One line is enough for one argument.
    assert len(arguments) == 1
    return
  for argument in arguments:
    # Several may share an entry, which refers to the page that explains each.
    names = rf"(?:\w+, )*{argument}(?:, \w+)*"
    entry = re.search(rf"\n  ({names}): +(.*\n?.*)", text)
    assert entry, argument
    if ", " in entry[1]:
      page = re.search(r"See\s+`([\w.]+)`", entry[2])[1]
      text_of_page = pydoc.locate(page).__doc__
      assert re.search(rf"\n *(- `{argument}`|{argument}): ", text_of_page)
  assert "\nReturns:\n" in text or text.startswith("Returns")


@pytest.mark.parametrize("name", PUBLIC)
def test_a_module_has_a_docstring(name):
  assert importlib.import_module(f"jssl.{name}").__doc__


def _modules():
  """All modules, as dotted names below jssl; a package by its own name."""
  for path in sorted(ROOT.rglob("*.py")):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts == ("__init__",):
      continue  # It gathers the names of the package.
    yield ".".join(p for p in parts if p != "__init__"), path


def _imports(path):
  """Modules below jssl that a file imports, also inside of functions."""
  every = {name for name, _ in _modules()}
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      for alias in node.names:
        assert not alias.name.startswith("jssl"), f"{path}: import from jssl"
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      if node.module == "jssl" or node.module.startswith("jssl."):
        below = node.module.removeprefix("jssl").removeprefix(".")
        for alias in node.names:
          if alias.name == "__version__":
            continue  # Is there before jssl imports anything.
          full = f"{below}.{alias.name}".lstrip(".")
          yield full if full in every else below


def _public_functions(tree):
  """Yields functions and methods that others call."""
  for node in tree.body:
    if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
      yield from _public_functions(node)
    elif isinstance(node, ast.FunctionDef):
      if not node.name.startswith("_") or node.name in ("__init__", "__call__"):
        yield node


@pytest.mark.parametrize("name,path", list(_modules()))
def test_parameters_of_public_functions_are_annotated(name, path):
  for function in _public_functions(ast.parse(path.read_text())):
    given = function.args
    for x in (*given.posonlyargs, *given.args, *given.kwonlyargs):
      assert x.annotation or x.arg == "self", f"{name}.{function.name}: {x.arg}"


def test_every_module_has_a_place_in_the_order():
  assert {name.split(".")[0] for name, _ in _modules()} <= set(ORDER)


@pytest.mark.parametrize("name,path", list(_modules()))
def test_a_module_imports_only_from_those_before_it(name, path):
  own = name.split(".")[0]
  for imported in _imports(path):
    other = imported.split(".")[0]
    assert other, f"{name} imports from jssl itself"
    if other != own:
      assert ORDER.index(other) < ORDER.index(own), imported


def test_modules_of_one_package_do_not_import_in_a_circle():
  graph = {name: set(_imports(path)) for name, path in _modules()}
  done = set()

  def visit(name, above):
    assert name not in above, f"{' -> '.join(above)} -> {name}"
    if name in done:
      return
    for imported in graph[name]:
      visit(imported, [*above, name])
    done.add(name)

  for name in graph:
    visit(name, [])
  assert done == set(graph)


# What runs code that a file holds.
_UNSAFE = set("pickle cloudpickle dill joblib marshal shelve yaml".split())


def _unsafe(tree):
  """Yields what of a module could run code from a file that others made."""
  for node in ast.walk(tree):
    if isinstance(node, (ast.Import, ast.ImportFrom)):
      names = [alias.name for alias in node.names]
      names.append(getattr(node, "module", None) or "")
      yield from _UNSAFE & {name.partition(".")[0] for name in names}
    elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
      yield node.arg
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
      yield from {"eval", "exec", "compile"} & {node.func.id}


def test_nothing_is_unpickled_or_run_from_a_file():
  for path in ROOT.rglob("*.py"):
    assert not list(_unsafe(ast.parse(path.read_text()))), path
  for text in ("import pickle", "np.load(x, allow_pickle=True)", "eval(x)"):
    assert list(_unsafe(ast.parse(text)))


# Traced, or run in a trace: what they ask must not depend on the host, since
# programs are lowered for other devices too.
_TRACED = (
    *("losses", "nets", "methods", "augment", "optim", "masking", "queue"),
    *("embeddings", "ema", "method", "step"),
)
_OF_THE_HOST = {"default_backend", "devices", "local_devices", "platform"}
# JAX does not tell which GPU a program is lowered for; without one at hand,
# attention has no kernel of a GPU.
_ASKED = {("attention.py", "local_devices")}


def _questions(tree):
  """Yields what of a module asks about the devices of this machine."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Attribute) and node.attr in _OF_THE_HOST:
      yield node.attr


def test_traced_code_does_not_ask_for_the_devices_of_the_host():
  paths = [p for name, p in _modules() if name.split(".")[0] in _TRACED]
  assert len(paths) > 50
  for path in paths:
    found = {(path.name, x) for x in _questions(ast.parse(path.read_text()))}
    found -= _ASKED
    assert not found, f"{path}: {found}; see jax.lax.platform_dependent"
  assert list(_questions(ast.parse("if jax.default_backend() == 'cpu': f()")))
