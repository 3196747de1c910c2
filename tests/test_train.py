"""The command line that trains, as a user runs it."""

import html
import json
import re

import jax
import numpy as np
import pytest

import command
import jssl
from jssl import experiment, loop
from jssl.config import of_method
from jssl.data import pipeline
from jssl.step import make_step


def test_a_run_has_the_files_that_the_readme_lists(whole):
  workdir, _ = whole
  names = {path.name for path in workdir.iterdir()}
  assert {
      "checkpoints",
      "config.json",
      "curves.png",
      "metrics.jsonl",
      "report.html",
      "summary.json",
  } <= names
  assert any(name.startswith("events.out.tfevents") for name in names)
  assert (workdir / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_summary_has_its_baselines(whole):
  workdir, output = whole
  summary = json.loads((workdir / "summary.json").read_text())
  for values in (summary, *summary["baselines"].values()):
    assert 0.1 < values["one_shot"] < values["five_shot"] <= 1
    assert 0.1 < values["knn"] <= 1
  assert set(summary["baselines"]) == {"raw_pixels", "untrained"}
  assert summary["steps"] == 33
  assert summary["seconds"] > 0 and summary["images_per_second"] > 0
  assert summary["devices"] == ["cpu"]
  assert summary["versions"]["jax"] == jax.__version__
  assert "untrained net" in output and "raw pixels" in output
  assert summary["versions"]["jssl"] == jssl.__version__


def test_a_log_file_has_a_line_for_each_stage_and_the_conclusion(whole):
  workdir, output = whole
  lines = [line for line in output.splitlines() if "WARNING" not in line]
  stages = [
      "loading digits",
      "initializing the parameters",
      "compiling",
      *(f"evaluating after epoch {i}" for i in (1, 2, 3)),
      "evaluating (1 of 3: trained)",
      "evaluating (2 of 3: untrained)",
      "evaluating (3 of 3: raw pixels)",
      "writing curves.png",
      "writing report.html",
  ]
  assert [line for line in lines if line in stages] == stages
  assert "\r" not in output
  (sentence,) = re.findall(r"^.*: kNN accuracy .* chance\.$", output, re.M)
  assert html.escape(sentence) in (workdir / "report.html").read_text()


def test_metrics_have_a_row_per_log_step_and_evaluation(whole):
  rows = command.rows(whole[0])
  training = [row for row in rows if "loss" in row]
  evaluated = [row for row in rows if "knn" in row]
  assert {4, 8, 12, 16, 20, 24, 28, 32} <= {row["step"] for row in training}
  assert [row["step"] for row in evaluated] == [11, 22, 33]
  assert all(
      row["chance_loss"] == pytest.approx(np.log(257)) for row in training
  )
  assert {"accuracy", "feature_std", "learning_rate"} <= set(training[0])
  assert {"rank", "encoder_std"} <= set(evaluated[0])


@pytest.mark.slow
def test_step_is_traced_once_and_sees_every_batch(
    tmp_path, data_dir, monkeypatch, only_train
):
  traces, asked = [], []
  batch_indices = pipeline.batch_indices

  def noted(seed, step, **sizes):
    asked.append(step)
    return batch_indices(seed, step, **sizes)

  monkeypatch.setattr(pipeline, "batch_indices", noted)

  def counted(*arguments):
    step = make_step(*arguments)
    return lambda *inputs: traces.append(1) or step(*inputs)

  monkeypatch.setattr(experiment, "make_step", counted)
  config = of_method("moco_v2", "digits")
  config.data.data_dir = str(data_dir)
  config.update(epochs=2.0, net={"width": 8}, method={"queue_size": 256})
  loop.train(config, str(tmp_path))
  assert len(command.rows(tmp_path)) >= 3
  assert len(traces) == 1
  assert asked == list(range(22))


def test_resuming_another_model_is_refused_with_the_difference(whole, data_dir):
  workdir, _ = whole
  before = (workdir / "config.json").read_text()
  output = command.train(
      workdir, data_dir, "--config.net.width=16", "--config.seed=3", code=1
  )
  assert "config.net.width: 8 in the run, 16 now" in output
  assert "config.seed: 0 in the run, 3 now" in output
  assert "--workdir" in output
  assert (workdir / "config.json").read_text() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--config.epoch=3",), "epochs"),
        (("--config.epochs=many",), "'many'"),
        (("--config.method.queue_size=1000",), "1024"),
        (("--config.net.name=resnet19",), "'resnet18'"),
        (("--config.data.name=digts",), "digits"),
        (("--config.batch_size=4096",), "1437"),
        (("--workdirr=x",), "workdir"),
    ],
)
def test_mistakes_are_named_with_their_remedy(
    tmp_path, data_dir, arguments, expected
):
  output = command.train(tmp_path, data_dir, *arguments, code=1)
  assert expected in output
  assert "Traceback" not in output
