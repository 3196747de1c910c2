"""Judging a finished run, as a user does."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
from PIL import Image
import pytest

from jssl import config as configs
from jssl import encoder
from jssl import evaluation
from jssl import loop
from jssl.evals import evaluations

_ROOT = pathlib.Path(__file__).parent.parent


def _config(name, dataset, **changes):
  config = configs.of_method(name, dataset)
  config.update(changes)
  return config


def _run(folder, dataset, data_dir, epochs=1.0, **data):
  """A run of a few steps."""
  config = _config(
      "rotation",
      dataset,
      epochs=epochs,
      batch_size=16,
      image_size=16,
      net={"width": 8, "name": "resnet8", "stem": "cifar"},
      data={"data_dir": str(data_dir), **data},
  )
  loop.train(config, str(folder))
  return str(folder)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, data_dir):
  """A run on some digits."""
  part = dict(train="train[:320]", test="test[:200]")
  return _run(tmp_path_factory.mktemp("run"), "digits", data_dir, 0.1, **part)


@pytest.fixture(scope="module")
def content(workdir):
  """What the default protocols find."""
  return evaluation.evaluate(workdir, say=lambda text: None)


def _json(workdir, name="digits"):
  path = pathlib.Path(workdir, "evaluation", f"{name}.json")
  return json.loads(path.read_text())


def _limit(monkeypatch, **arguments):
  """Makes fine-tuning short."""
  tune = evaluation.tuning.fine_tune
  monkeypatch.setattr(
      evaluation.tuning,
      "fine_tune",
      lambda *a, **k: tune(*a, **{**k, **arguments}),
  )


def test_every_stage_stands_beside_the_baselines(workdir, content):
  assert content == _json(workdir)
  assert content["dataset"] == "digits"
  assert (content["train_images"], content["test_images"]) == (320, 200)
  stages = ["pooled", "stage_1", "stage_2", "stage_3"]
  assert {name: sorted(x) for name, x in content["results"].items()} == {
      "trained": stages,
      "untrained": stages,
      "raw pixels": ["pooled"],
  }
  for results in content["results"].values():
    for row in results.values():
      for name in ("knn", "linear", "one_shot", "five_shot", "ten_shot"):
        low, high = row[name]["interval"]
        assert 0.1 < low < row[name]["accuracy"] < high <= 1
      assert 1 <= row["rank"] <= 256
      assert 0 <= row["alignment"] <= 4 and row["uniformity"] <= 0
  pixels = content["results"]["raw pixels"]["pooled"]
  assert pixels["knn"]["accuracy"] > 0.9
  assert pixels["linear"]["accuracy"] > 0.85


def test_trained_and_untrained_are_two_encoders(workdir, content):
  trained = encoder.load(workdir)
  fresh = trained.init(jax.random.key(trained.config.seed))
  images = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 1), np.uint8)
  one = trained.encode(trained.params, images)
  other = trained.encode((fresh.params, fresh.carried), images)
  assert np.max(np.abs(one - other)) > 1e-3
  results = content["results"]
  assert results["trained"] != results["untrained"]


def test_the_table_has_every_row_and_measure(workdir, content):
  text = pathlib.Path(workdir, "evaluation", "digits.md").read_text()
  assert text == evaluations.markdown(content)
  lines = text.splitlines()
  assert lines[0].startswith("digits: 320 training and 200 test images")
  head = [cell.strip() for cell in lines[2].strip("| ").split("|")]
  assert head[:6] == [
      "encoder",
      "knn",
      "linear",
      "one shot",
      "five shot",
      "ten shot",
  ]
  names = [line.split("|")[1].strip() for line in lines[4:]]
  assert names[0] == "trained" and names[-1] == "raw pixels"
  assert "untrained, stage_2" in names and len(names) == 9
  knn = content["results"]["trained"]["pooled"]["knn"]
  low, high = knn["interval"]
  assert f"| {knn['accuracy']:.3f} ({low:.3f} to {high:.3f}) |" in lines[4]


def test_other_protocols_are_added_to_what_is_there(
    workdir, content, monkeypatch
):
  _limit(monkeypatch, epochs=1)
  say = []
  more = evaluation.evaluate(
      workdir, protocols=["semi_supervised"], say=say.append
  )
  assert say[0] == "trained: semi_supervised on digits"
  row = more["results"]["trained"]["pooled"]
  assert row["knn"] == content["results"]["trained"]["pooled"]["knn"]
  # At least one of each class; a tenth.
  assert row["1% of labels"]["labels"] == 10
  assert 28 < row["10% of labels"]["labels"] < 37
  assert "1% of labels" not in more["results"]["raw pixels"]["pooled"]
  # Not to those of another state.
  path = pathlib.Path(workdir, "evaluation", "digits.json")
  path.write_text(json.dumps({**more, "step": 7}))
  last = evaluation.evaluate(workdir, protocols=["label_free"], say=say.append)
  assert set(last["results"]["raw pixels"]["pooled"]) == {
      "rank",
      "alpha_req",
      "alignment",
      "uniformity",
      "feature_std",
  }


def test_augmented_probes_know_digits_at_every_stage(workdir, monkeypatch):
  probe = evaluation.augmented_linear_probe
  short = functools.partial(probe, epochs=30, batch_size=32)
  monkeypatch.setattr(evaluation, "augmented_linear_probe", short)
  more = evaluation.evaluate(
      workdir, protocols=["linear_augmented"], say=lambda text: None
  )
  for name, stages in more["results"].items():
    for stage, row in stages.items():
      found = row["linear_augmented"]
      low, high = found["interval"]
      assert low < found["accuracy"] < high, (name, stage)
      assert found["learning_rate"] > 0 and found["weight_decay"] >= 0
  trained = more["results"]["trained"]["pooled"]["linear_augmented"]
  assert trained["accuracy"] > 0.6


def test_fine_tuning_learns_digits(workdir, monkeypatch):
  _limit(monkeypatch, epochs=12, learning_rate=4e-3)
  more = evaluation.evaluate(
      workdir, protocols=["fine_tune"], say=lambda text: None
  )
  for name in ("trained", "untrained"):
    row = more["results"][name]["pooled"]["fine_tune"]
    assert row["labels"] == 320
    assert row["accuracy"] > 0.5


def _folder(path, channels="RGB", classes=("cat", "dog"), count=6):
  random = np.random.default_rng(0)
  for split in ("train", "test"):
    for name in classes:
      (path / split / name).mkdir(parents=True)
      for i in range(count):
        size = random.integers(17, 30, 2)
        pixels = random.integers(0, 255, (*size, 3), np.uint8)
        Image.fromarray(pixels).convert(channels).save(
            path / split / name / f"{i}.png"
        )
  return f"folder:{path}"


def test_another_data_set_of_other_sizes(tmp_path, data_dir):
  # Trained on pictures without classes, judged on those of two.
  pictures = tmp_path / "flat"
  pictures.mkdir()
  for i in range(20):
    pixels = np.random.default_rng(i).integers(0, 255, (20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(pictures / f"{i}.png")
  workdir = _run(tmp_path / "run", f"folder:{pictures}", data_dir)
  with pytest.raises(ValueError, match="has no labels, which knn, few_shot"):
    evaluation.evaluate(workdir, protocols=["knn", "few_shot", "label_free"])
  free = evaluation.evaluate(
      workdir, protocols=["label_free"], say=lambda text: None
  )
  assert free["classes"] == 0
  assert free["results"]["trained"]["pooled"]["rank"] >= 1
  other = _folder(tmp_path / "classes")
  content = evaluation.evaluate(
      workdir,
      protocols=["knn", "few_shot"],
      dataset=other,
      say=lambda text: None,
  )
  row = content["results"]["trained"]["pooled"]
  assert content["classes"] == 2 and content["test_images"] == 12
  assert row["five_shot"] is not None and row["ten_shot"] is None
  assert len(list(pathlib.Path(workdir, "evaluation").glob("*.json"))) == 2


def test_images_of_other_channels_are_refused(workdir, tmp_path):
  with pytest.raises(ValueError, match="3 channels, and .* trained on 1"):
    evaluation.evaluate(workdir, dataset=_folder(tmp_path))


def test_a_protocol_that_does_not_exist_is_refused(workdir):
  with pytest.raises(ValueError, match="'knm'.* Did you mean 'knn'"):
    evaluation.evaluate(workdir, protocols=["knm"])


def _command(*arguments):
  return subprocess.run(
      [sys.executable, "-m", "jssl.evaluate", *arguments],
      cwd=_ROOT,
      env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
      capture_output=True,
      text=True,
      check=False,
  )


def test_the_command_prints_a_table(workdir, content):
  result = _command(f"--workdir={workdir}", "--protocols=knn")
  assert result.returncode == 0, result.stderr
  assert "| raw pixels" in result.stdout
  knn = content["results"]["trained"]["pooled"]["knn"]["accuracy"]
  assert f"| {knn:.3f} |" in result.stdout
  assert f"In {workdir}/evaluation" in result.stdout


@pytest.mark.parametrize(
    "arguments,message",
    [
        (
            (),
            (
                "--workdir is missing; a command looks like\n  python -m"
                " jssl.evaluate"
            ),
        ),
        (("--workdir=nowhere",), "is not the folder of a run"),
    ],
)
def test_the_command_tells_what_is_wrong(arguments, message):
  result = _command(*arguments)
  assert result.returncode == 1
  assert message in result.stderr and "Traceback" not in result.stderr
