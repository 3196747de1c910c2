"""The notebooks run from top to bottom, and show what they made."""

import base64
import io
import pathlib

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
