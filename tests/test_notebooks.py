"""The notebooks run from top to bottom, and show what they made."""

import base64
from importlib import metadata
import io
import pathlib
import types

from IPython.core.interactiveshell import InteractiveShell
import nbformat
import numpy as np
import papermill
from PIL import Image
import pytest

pytestmark = pytest.mark.slow

_FOLDER = pathlib.Path(__file__).parent.parent / "colab"
_TINY = {"net.width": 8}
# What makes each small: parameters of its cell.
SETTINGS = {
    "quickstart": dict(
        epochs=2,
        settings=_TINY
        | {"method.queue_size": 256, "checkpoint.every_epochs": 0.25},
        dataset="digits",
    ),
    "your_own_images": dict(
        epochs=1,
        settings={
            "batch_size": 64,
            "image_size": 16,
            "data.canvas": 32,
            "optimizer.schedule.warmup_epochs": 0,
            "net.name": "resnet8",
            "net.stem": "cifar",
            "net.width": 8,
            "method.queue_size": 128,
        },
    ),
    "building_blocks": dict(steps=4, batch_size=64, queue_size=256, width=8),
    "three_families": dict(
        epochs=2, batch_size=128, settings=_TINY, dataset="digits"
    ),
}
_MOST_BYTES = 650_000


@pytest.fixture(autouse=True)
def _two_devices(monkeypatch):
  """The kernels' devices: several, as on a TPU, but few for these cores."""
  monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")


def _read(path):
  return nbformat.read(path, as_version=4)


def _outputs(notebook):
  return [
      output
      for cell in notebook.cells
      if cell.cell_type == "code"
      for output in cell.outputs
  ]


def _pictures(notebook):
  """Every picture that a notebook shows, as pixels."""
  pictures = []
  for output in _outputs(notebook):
    shown = output.get("data", {})
    encoded = shown.get("image/png") or shown.get("image/jpeg")
    if encoded:
      with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        pictures.append(np.asarray(image.convert("L")))
  return pictures


def _first_cell(name):
  cells = _read(_FOLDER / f"{name}.ipynb").cells
  return next(cell.source for cell in cells if cell.cell_type == "code")


def _run_first_cell(monkeypatch, installed, fitting):
  """Runs it in a runtime.

  Args:
    monkeypatch: The fixture.
    installed: The versions of what the runtime has.
    fitting: Which calls of pip succeed in installing jssl.

  Returns:
    The arguments of each call of pip, and what the cell printed.
  """
  shell = InteractiveShell.instance()
  calls, printed = [], []

  def pip(line):
    calls.append(line)
    if len(calls) in fitting:
      installed["jssl"] = "0.1.0"

  monkeypatch.setitem(shell.magics_manager.magics["line"], "pip", pip)
  monkeypatch.setattr(
      metadata,
      "distributions",
      lambda: [
          types.SimpleNamespace(name=name, version=version)
          for name, version in installed.items()
      ],
  )
  monkeypatch.setattr("builtins.print", printed.append)
  shell.run_cell(_first_cell("quickstart")).raise_error()
  monkeypatch.undo()
  return calls, printed


def test_the_first_cell_is_the_same_everywhere():
  assert len({_first_cell(name) for name in SETTINGS}) == 1


def test_the_first_cell_installs_nothing_where_jssl_is(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  installed = {"jax": "0.7.2", "jssl": "0.1.0"}
  assert _run_first_cell(monkeypatch, installed, ()) == ([], [])


@pytest.mark.parametrize("folder", ["clone/colab", ".", "elsewhere"])
def test_the_first_cell_keeps_the_runtimes_jax(monkeypatch, tmp_path, folder):
  # In the clone's own folder, next to a clone, and without one.
  clone = tmp_path / ("jssl" if folder == "." else "clone")
  (clone / "colab").mkdir(parents=True)
  (clone / "pyproject.toml").touch()
  (tmp_path / "elsewhere").mkdir()
  monkeypatch.chdir(tmp_path / folder)
  installed = {"jax": "0.7.2", "libtpu": "0.0.21", "numpy": "2.1.3", "pip": "1"}
  calls, printed = _run_first_cell(monkeypatch, installed, (1,))
  source = {"clone/colab": "..", ".": clone, "elsewhere": "jssl"}[folder]
  assert calls == [f"install -q {source} -c runtime.txt"] and not printed
  kept = (tmp_path / folder / "runtime.txt").read_text()
  assert kept.split() == ["jax==0.7.2", "libtpu==0.0.21", "numpy==2.1.3"]


@pytest.mark.parametrize(
    "installed, kind",
    [
        ({"jax": "0.5.0", "libtpu": "0.0.11"}, "tpu"),
        ({"jax": "0.5.0", "jax-cuda12-plugin": "0.5.0"}, "cuda12"),
        ({"numpy": "2.0.0"}, ""),
    ],
)
def test_the_first_cell_replaces_a_jax_that_is_too_old(
    monkeypatch, tmp_path, installed, kind
):
  monkeypatch.chdir(tmp_path)
  calls, printed = _run_first_cell(monkeypatch, installed, (2,))
  assert calls[1] == f'install -q jssl "jax[{kind}]"'
  assert "restart the runtime" in printed[0]


def test_the_first_cell_says_where_jssl_is_missing(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  calls, printed = _run_first_cell(monkeypatch, {"jax": "0.7.2"}, ())
  assert len(calls) == 2 and "Clone its repository" in printed[0]


def test_every_notebook_is_known():
  assert {path.stem for path in _FOLDER.glob("*.ipynb")} == set(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_notebook_runs_from_top_to_bottom(name, tmp_path, data_dir):
  source = _read(_FOLDER / f"{name}.ipynb")
  known = papermill.inspect_notebook(_FOLDER / f"{name}.ipynb")
  parameters = dict(SETTINGS[name])
  if "data_dir" in known:
    parameters["data_dir"] = str(data_dir)
  assert set(parameters) <= set(known)
  papermill.execute_notebook(
      str(_FOLDER / f"{name}.ipynb"),
      str(tmp_path / "executed.ipynb"),
      parameters=parameters,
      cwd=str(tmp_path),
      progress_bar=False,
  )
  executed = _read(tmp_path / "executed.ipynb")
  shown = _pictures(executed)
  assert len(shown) == len(_pictures(source))
  for picture in shown:
    assert min(picture.shape) > 100 and picture.std() > 10
  # What was trained before the runtime was lost is not trained again.
  resumed = "resuming from step" in str(_outputs(executed))
  assert resumed == (name == "quickstart")


@pytest.mark.parametrize("name", SETTINGS)
def test_a_set_that_is_downloaded_is_prepared(name):
  code = [x.source for x in _read(_FOLDER / f"{name}.ipynb").cells]
  assert ("'cifar10'" in str(code)) == ("download_and_prepare()" in str(code))


def test_few_pictures_of_ones_own_are_enough(tmp_path):
  folder = tmp_path / "my photos"
  folder.mkdir()
  rng = np.random.default_rng(0)
  for i in range(40):
    pixels = rng.integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(folder / f"photo {i}.jpg")
  (folder / "notes.txt").write_text("not a picture")
  settings = SETTINGS["your_own_images"]["settings"]
  small = {"batch_size": 8, "method.queue_size": 16, "method.shuffle": False}
  papermill.execute_notebook(
      str(_FOLDER / "your_own_images.ipynb"),
      str(tmp_path / "executed.ipynb"),
      parameters={
          "folder": str(folder),
          "epochs": 1,
          "settings": settings | small,
      },
      cwd=str(tmp_path),
      progress_bar=False,
  )
  shown = str(_outputs(_read(tmp_path / "executed.ipynb")))
  assert "Nearest to" in shown and "my photos/photo" in shown
  assert "held-out images are too few to evaluate" in shown


@pytest.mark.parametrize("name", SETTINGS)
def test_a_notebook_keeps_its_real_outputs(name):
  path = _FOLDER / f"{name}.ipynb"
  assert path.stat().st_size < _MOST_BYTES
  cells = [x for x in _read(path).cells if x.cell_type == "code"]
  assert [x.execution_count for x in cells] == list(range(1, len(cells) + 1))
  tags = [x.metadata.get("tags", []) for x in cells]
  assert tags.count(["parameters"]) == 1 and ["injected-parameters"] not in tags
  for output in _outputs(_read(path)):
    assert output.output_type != "error"
    assert "/tmp" not in str(output) and "Traceback" not in str(output)
