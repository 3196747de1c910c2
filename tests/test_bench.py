"""The benchmarks, on digits and a tiny net."""

import csv
import io
import json
import pathlib

import jax
import numpy as np
from PIL import Image
import pytest

from benchmarks import imports, peers, start
import command
from jssl.bench import _program, augment, data, knn, methods, step
from jssl.config import base, of_method
from jssl.experiment import initial_state, make_call

_ROOT = pathlib.Path(__file__).parent.parent
_TINY = {"epochs": 3.0, "net.width": 8, "data.data_dir": ""}


def _measure(names, output, dataset="digits", **arguments):
  settings = dict(configs=_ROOT / "configs", seeds=2, overrides=_TINY)
  return methods.measure(names, dataset, output=output, **settings | arguments)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
  output = tmp_path_factory.mktemp("bench") / "new" / "folder"
  result = _measure(["simclr", "supcon"], output)
  return output, result


@pytest.mark.slow
def test_the_table_has_a_row_for_each_method_and_baseline(measured):
  output, _ = measured
  text = (output / "methods.md").read_text()
  rows = [line for line in text.splitlines() if line.startswith("| ")]
  names = [row.split("|")[1].strip() for row in rows]
  assert names == [
      "method",
      "---",
      "raw pixels",
      "untrained resnet8",
      "simclr",
      "supcon",
  ]
  assert "2 seeds" in text and "last epoch" in text
  assert "±" not in rows[2] and "| 128 | 3 | 33 |" in rows[4]


def test_the_csv_has_a_row_for_each_stage_and_seed(measured):
  output, result = measured
  with (output / "methods.csv").open() as file:
    rows = list(csv.DictReader(file))
  names = [
      "untrained resnet8",
      "simclr",
      "untrained simclr",
      "supcon",
      "untrained supcon",
  ]
  stages = ("pooled", "stage_1", "stage_2", "stage_3")
  assert [(row["name"], row["stage"], row["seed"]) for row in rows] == [
      ("raw pixels", "pooled", "0"),
      *((x, stage, seed) for x in names for stage in stages for seed in "01"),
  ]
  # The average of the last stage's map is what is pooled.
  by_stage = lambda stage: [
      float(row["knn"]) for row in rows if row["stage"] == stage
  ]
  assert by_stage("stage_3") == by_stage("pooled")[1:] != by_stage("stage_2")
  by_name = {
      name: [
          row
          for row in rows
          if row["name"] == name and row["stage"] == "pooled"
      ]
      for name in names
  }
  for name, own in by_name.items():
    scores = [float(row["one_shot"]) for row in own]
    assert scores[0] != scores[1]  # Seeds are seeds.
    if not name.startswith("untrained s"):
      assert result[name]["one_shot"] == pytest.approx(np.mean(scores))
    assert all(0 < score < 1 for score in scores)
  for row in by_name["simclr"]:
    assert float(row["seconds"]) > 0 and int(row["step_bytes"]) > 2**20
  # Each method is compared to its own nets before training.
  first = [row["one_shot"] for row in by_name["untrained resnet8"]]
  assert [row["one_shot"] for row in by_name["untrained simclr"]] == first


def test_labels_help_even_in_three_epochs(measured):
  _, result = measured
  trained, untrained = result["supcon"], result["untrained resnet8"]
  assert trained["five_shot"] > untrained["five_shot"] + 0.05


def _row(gains):
  before = [0.4] * len(gains)
  after = [0.4 + gain for gain in gains]
  return methods.Row(
      "x",
      {"pooled": {"one_shot": [0.2]}, "stage_1": {"one_shot": after}},
      {"pooled": {"one_shot": [0.0]}, "stage_1": {"one_shot": before}},
  )


def test_a_gain_within_the_variation_of_seeds_is_reported():
  assert methods.warning(_row([0.1, 0.12, 0.14])) == ""
  assert "gained 0.020" in methods.warning(_row([-0.04, 0.02, 0.08]))
  assert "gained -0.100" in methods.warning(_row([-0.1]))


def test_the_last_call_may_be_shorter(tmp_path):
  """A training of 11 steps in calls of 4 takes all of them."""
  overrides = _TINY | {"steps_per_dispatch": 4, "epochs": 1.0}
  config = methods._config(_ROOT / "configs", "supcon", "digits", overrides)
  exp = methods.experiment.make(config)
  assert [call.count for call in methods._calls(exp, exp.pipeline)] == [4, 4, 3]


@pytest.mark.parametrize(
    "name,dataset,epochs",
    [
        ("simclr", "digits", 15.0),
        ("jigsaw", "digits", 9.0),  # Its own, fewer.
        ("ijepa", "digits", 50.0),  # A transformer.
        ("simclr", "photos", 50.0),
    ],
)
def test_methods_get_a_small_budget_of_digits(name, dataset, epochs):
  make = lambda overrides: methods._config(
      _ROOT / "configs", name, dataset, overrides
  )
  assert make({}).epochs == epochs
  assert make({"epochs": 70.0}).epochs == 70.0


def test_a_requested_net_does_not_replace_a_transformer():
  overrides = {"net.name": "resnet18", "batch_size": 8}
  make = lambda name: methods._config(
      _ROOT / "configs", name, "digits", overrides
  )
  assert make("byol").net.name == "resnet18"
  assert make("mae").net.name == "vit_micro"
  assert make("byol").batch_size == make("mae").batch_size == 8


def test_the_chart_is_a_picture(measured):
  output, _ = measured
  with Image.open(output / "methods.png") as image:
    assert min(image.size) > 300
    assert (
        len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0))
        > 3
    )


def test_data_without_labels_are_refused(tmp_path):
  folder = tmp_path / "pictures"
  folder.mkdir()
  for i in range(20):
    pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(folder / f"{i}.png")
  overrides = _TINY | {"batch_size": 8, "image_size": 8, "data.canvas": 8}
  with pytest.raises(ValueError, match="no labels to evaluate with"):
    _measure(
        ["simclr"],
        tmp_path / "out",
        f"folder:{folder}",
        overrides=overrides,
    )


@pytest.mark.slow
def test_a_wrong_name_is_reported_before_anything_starts(tmp_path):
  output = f"--output={tmp_path / 'out'}"
  for arguments, message in (
      (["--methods=simcrl"], "Did you mean 'simclr'"),
      (["--seeds=0"], "--seeds is 0"),
      ([f"--configs={tmp_path}"], "contains no configs; give their folder"),
  ):
    done = command.run("bench", "methods", output, *arguments, code=1)
    assert message in done.stderr


@pytest.mark.slow
def test_the_last_line_is_json(tmp_path):
  options = ("--seeds=1", "--epochs=1", "--width=8", "--net=resnet8")
  output = f"--output={tmp_path}"
  done = command.run(
      "bench", "methods", "--methods=vicreg", *options, output, devices=8
  )
  result = json.loads(done.stdout.splitlines()[-1])
  assert set(result) == {"raw pixels", "untrained resnet8", "vicreg"}
  assert 0 < result["vicreg"]["knn"] < 1


@pytest.mark.slow
def test_knn_and_the_grid_of_probes_are_timed():
  result = knn.measure(queries=8, bank=512, dim=4, k=3, windows=1)
  assert result["probe_settings"] >= 20
  assert result["knn_seconds"] > 0 and result["probe_seconds_an_epoch"] > 0
  assert result["probe_grid_over_one_setting"] > 0.5


def _picture(height, width, *, detailed):
  """A JPEG of even color, or of detail down to single pixels."""
  random = np.random.default_rng(0)
  pixels = np.full((height, width, 3), 128.0)
  if detailed:
    pixels += 40 * random.normal(size=(height, width, 1))
  buffer = io.BytesIO()
  picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
  picture.save(buffer, "JPEG", quality=95)
  return buffer.getvalue()


@pytest.mark.slow
def test_detail_grows_with_the_canvas():
  pictures = [_picture(60, 80, detailed=True), _picture(80, 60, detailed=True)]
  kept = {c: data.detail(pictures, c, 28) for c in (30, 70, 80)}
  names = {"0.08", "0.2", "local_0.05", "evaluation"}
  assert set(kept[80]) == {f"detail_of_{name}" for name in names}
  # A canvas as long as the picture keeps every pixel; others less and less.
  for name in kept[80]:
    assert kept[80][name] == pytest.approx(1.0, abs=1e-4)
    assert kept[30][name] < kept[70][name] < 0.95
  assert kept[30]["detail_of_0.08"] < 0.3
  assert data.detail([_picture(60, 80, detailed=False)], 30, 28)


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["imagenet2012", "folder:x"])
def test_the_default_canvas_keeps_the_detail_of_the_papers_crops(dataset):
  """At least three quarters, for pictures of ImageNet's sizes."""
  config = base(dataset)
  pictures = data._detailed_pictures()[:4]
  kept = data.detail(pictures, config.data.canvas, config.image_size)
  assert min(kept.values()) >= 0.75, kept
  # Evaluation's crop is not enlarged.
  assert config.data.canvas >= config.image_size / config.eval.crop_fraction


@pytest.mark.slow
def test_a_stream_is_timed_against_the_bare_decoder(tmp_path):
  for i in range(20):
    Image.new("RGB", (40, 30 + i), (i, 0, 0)).save(tmp_path / f"{i}.jpg")
  settings = dict(canvas=16, batch_size=4, workers=0, image_size=14)
  result = data.measure(f"folder:{tmp_path}", **settings)
  assert result["images_per_second"] > 0
  assert result["bytes_per_image"] == 16 * 16 * 3
  assert 0 <= result["detail_of_0.08"] < 1
  assert result["fraction_of_bare"] == pytest.approx(
      result["images_per_second"] / result["bare_images_per_second"], rel=1.0
  )
  assert result["workers"] == 0 and result["replaced"] == 0
  (tmp_path / "3.jpg").write_bytes(b"")  # Another one takes its place.
  settings["cache"] = str(tmp_path / "5.jpg")  # A file, where folders go.
  result = data.measure(f"folder:{tmp_path}", **settings)
  assert result["replaced"] > 0
  assert any("no more pictures can be kept" in note for note in result["notes"])
  with pytest.raises(ValueError, match="workers is -2"):
    data.measure(f"folder:{tmp_path}", **settings | {"workers": -2})
  with pytest.raises(ValueError, match="20 images, fewer than one batch of 64"):
    data.measure(f"folder:{tmp_path}", canvas=16, batch_size=64)


@pytest.fixture(scope="module")
def step_config():
  """A tiny step on random images."""
  config = of_method("simclr", "cifar10")
  config.update(batch_size=8, image_size=8)
  config.net.update(name="resnet8", width=4)
  return config


@pytest.mark.slow
def test_a_step_is_timed_and_counted(step_config, monkeypatch):
  monkeypatch.setattr(step, "_WINDOW_SECONDS", 0.05)
  hits = []
  jax.monitoring.register_event_listener(
      lambda event, **_: event.endswith("/cache_hits") and hits.append(event)
  )
  result = step.measure(step_config)
  assert result["recompiles"] == 0
  assert hits  # Compiling again found what the first time left.
  assert result["images_per_second"] == pytest.approx(
      8 / result["seconds_per_step"]
  )
  assert 0 < result["fraction_of_peak"] < 1
  assert 0 < result["fraction_of_bandwidth"]
  assert result["peak_memory_bytes"] > 0
  assert min(result["warm_compile_seconds"], result["compile_seconds"]) > 0
  json.dumps(result)
  larger = step_config.copy_and_resolve_references()
  larger.batch_size = 16
  twice = step.measure(larger)["flops_per_step"] / result["flops_per_step"]
  assert 1.6 < twice < 2.4


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_operations_of_micro_batches_are_those_of_the_whole(precision):
  config = of_method("simclr", "cifar10")
  config.update_from_flattened_dict({
      "net.name": "vit_micro",
      "net.depth": 1,
      "batch_size": 8 * jax.device_count(),
      "precision": precision,
  })
  results = []
  for parts in (1, 4):
    config.net.micro_batches = parts
    exp = step.random_experiment(config)
    call = make_call(exp)
    batch = next(exp.pipeline.batches(0, 1, 1))
    state = initial_state(exp)
    compiled = call.lower(state, exp.pipeline.resident(), batch.inputs)
    program, devices = compiled.compile(), jax.device_count()
    results.append(_program.count(config, program, devices=devices))
  (whole_flops, whole_bytes), (flops, traffic) = results
  np.testing.assert_allclose(flops, whole_flops, rtol=0.1)
  assert whole_bytes > 0 and traffic is None


def test_views_are_timed(step_config):
  result = augment.measure(step_config)
  assert result["views"] == [[2, 8, 8, 8, 3]] and result["seconds"] > 0


def test_a_failed_start_reports_why(tmp_path):
  with pytest.raises(ValueError, match="no_such.py does not exist"):
    start.measure([f"--config={tmp_path}/no_such.py:digits"])


@pytest.mark.slow
def test_bench_step_takes_flags(tmp_path):
  options = ("--net=resnet8", "--width=4", "--batch_size=8", "--image_size=8")
  method = ("--method=moco_v2", "--precision=bfloat16")
  done = command.run("bench", "step", *method, *options)
  result = json.loads(done.stdout.splitlines()[-1])
  assert (result["method"], result["net"]) == ("moco_v2", "resnet8")
  assert (result["precision"], result["batch_size"]) == ("bfloat16", 8)


def test_without_pytorch_the_message_has_the_remedy(step_config):
  with pytest.raises(ImportError, match="needs no_such: pip install torch"):
    peers._torch("no_such.module")
  step_config = step_config.copy_and_resolve_references()
  step_config.augment.name = "moco_v2"
  with pytest.raises((ValueError, ImportError), match="config=simclr|torch"):
    peers.transforms(step_config, np.zeros((1, 8, 8, 3), np.uint8))


def test_importing_is_compared_with_the_libraries_below(monkeypatch):
  assert imports._seconds("pass") > 0
  times, started = iter([9, 3, 2, 9, 3, 6, 4]), []

  def seconds(code):
    started.append(code)
    return next(times)

  monkeypatch.setattr(imports, "_seconds", seconds)
  monkeypatch.setattr(imports, "_RUNS", 3)
  result = imports.measure()
  # In turn, after one that is not counted.
  assert started[1::2] == ["import jssl"] * 3 and len(set(started)) == 2
  assert result == {"jssl_seconds": 6, "without_seconds": 3, "ratio": 1.5}
