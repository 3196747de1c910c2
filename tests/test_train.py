"""The command line, as a user runs it, on real images and a tiny net."""

import importlib.util
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jssl import config as configs
from jssl import data
from jssl import loop
from jssl import run as runs
from jssl.checkpoint import Checkpoints
from jssl.step import make_step

_ROOT = pathlib.Path(__file__).parent.parent

# Eleven steps an epoch: a run of 33 steps that saves and evaluates often.
_TINY = (
    "--config.epochs=3",
    "--config.net.width=8",
    "--config.method.queue_size=256",
    "--config.log.every_steps=4",
    "--config.eval.every_epochs=1",
    "--config.checkpoint.every_epochs=0.25",
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """A data folder of the tests' own, in which digits are prepared once."""
  return tmp_path_factory.mktemp("tfds")


def _start(workdir, data_dir, *arguments, devices=1, prefix=()):
  command = [
      *prefix,
      *(sys.executable, "-m", "jssl.train"),
      "--config=configs/moco_v2.py:digits",
      *(f"--workdir={workdir}", f"--data_dir={data_dir}", *_TINY, *arguments),
  ]
  return subprocess.Popen(
      command,
      cwd=_ROOT,
      env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)},
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
  )


def _train(workdir, data_dir, *arguments, code=0, **options):
  """Runs to the end; returns what it printed."""
  process = _start(workdir, data_dir, *arguments, **options)
  output, _ = process.communicate(timeout=300)
  assert process.returncode == code, output
  return output


def _rows(workdir):
  lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def _without_times(rows):
  times = ("seconds", "images_per_second")
  return [{k: v for k, v in row.items() if k not in times} for row in rows]


def _last_checkpoint(workdir):
  """Returns the newest checkpoint's step, and its leaves by name."""
  run = runs.prepare(configs.load(workdir))
  checkpoints = Checkpoints(workdir)
  state = checkpoints.restore(jax.eval_shape(run.init, jax.random.key(0)))
  state = state._replace(key=jax.random.key_data(state.key))
  leaves = jax.tree.leaves_with_path(state)
  named = {jax.tree_util.keystr(k): np.asarray(x) for k, x in leaves}
  return checkpoints.latest, named


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data_dir):
  """A run left alone: its folder, and what it printed."""
  workdir = tmp_path_factory.mktemp("whole")
  return workdir, _train(workdir, data_dir)


def test_folder_holds_what_the_readme_says(whole):
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


def test_summary_stands_beside_its_baselines(whole):
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


def test_metrics_have_a_row_a_log_step_and_signs_of_life(whole):
  rows = _rows(whole[0])
  training = [row for row in rows if "loss" in row]
  looks = [row for row in rows if "knn" in row]
  assert {4, 8, 12, 16, 20, 24, 28, 32} <= {row["step"] for row in training}
  assert [row["step"] for row in looks] == [11, 22, 33]
  assert all(
      row["chance_loss"] == pytest.approx(np.log(257)) for row in training
  )
  assert {"accuracy", "feature_std", "learning_rate"} <= set(training[0])
  assert {"rank", "encoder_std"} <= set(looks[0])


def test_step_is_traced_once_and_sees_every_batch(
    tmp_path, data_dir, monkeypatch
):
  traces, asked = [], []
  batch_indices = data.batch_indices

  def noted(seed, step, **sizes):
    asked.append(step)
    return batch_indices(seed, step, **sizes)

  monkeypatch.setattr(data, "batch_indices", noted)

  def counted(*arguments):
    step = make_step(*arguments)
    return lambda *inputs: traces.append(1) or step(*inputs)

  monkeypatch.setattr(runs, "make_step", counted)
  spec = importlib.util.spec_from_file_location(
      "moco_v2", _ROOT / "configs" / "moco_v2.py"
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config("digits")
  config.data.data_dir = str(data_dir)
  config.update(epochs=2.0, net={"width": 8}, method={"queue_size": 256})
  loop.train(config, str(tmp_path))
  assert len(_rows(tmp_path)) >= 3
  assert len(traces) == 1
  assert asked == list(range(22))


def test_killed_at_any_moment_ends_bit_identical(whole, tmp_path, data_dir):
  moments = random.Random(0)
  kills = 0
  while kills < 4:
    process = _start(tmp_path, data_dir)
    wait_for = moments.randint(1, 8)  # Lines of metrics, then some time.
    log = tmp_path / "metrics.jsonl"
    before = len(_rows(tmp_path)) if log.exists() else 0
    while process.poll() is None:
      lines = 0
      if log.exists():
        lines = len(log.read_text().splitlines())
      if lines >= before + wait_for:
        time.sleep(moments.random() * 0.2)
        break
      time.sleep(0.01)
    process.kill()
    process.communicate()
    kills += 1
  _train(tmp_path, data_dir)
  step, leaves = _last_checkpoint(tmp_path)
  expected_step, expected = _last_checkpoint(whole[0])
  assert step == expected_step == 33
  assert leaves.keys() == expected.keys() and len(leaves) > 50
  for name, value in expected.items():
    np.testing.assert_array_equal(leaves[name], value, err_msg=name)
  assert _without_times(_rows(tmp_path)) == _without_times(_rows(whole[0]))


def test_sigterm_saves_and_the_same_command_goes_on(whole, tmp_path, data_dir):
  process = _start(
      tmp_path, data_dir, "--config.checkpoint.every_epochs=1000"
  )
  while not (tmp_path / "metrics.jsonl").exists() or not _rows(tmp_path):
    assert process.poll() is None, process.communicate()[0]
    time.sleep(0.01)
  process.send_signal(signal.SIGTERM)
  output, _ = process.communicate(timeout=120)
  assert process.returncode == 0, output
  assert "stopped by SIGTERM and saved at step" in output
  step, _ = _last_checkpoint(tmp_path)
  assert 0 < step < 33
  assert not (tmp_path / "summary.json").exists()
  assert f"going on from step {step} of 33" in _train(tmp_path, data_dir)
  _, leaves = _last_checkpoint(tmp_path)
  for name, value in _last_checkpoint(whole[0])[1].items():
    np.testing.assert_array_equal(leaves[name], value, err_msg=name)


def test_resuming_another_model_is_refused_with_the_difference(whole, data_dir):
  workdir, _ = whole
  before = (workdir / "config.json").read_text()
  output = _train(
      workdir, data_dir, "--config.net.width=16", "--config.seed=3", code=1
  )
  assert "config.net.width: 8 there, 16 now" in output
  assert "config.seed: 0 there, 3 now" in output
  assert "--workdir" in output
  assert (workdir / "config.json").read_text() == before


def test_two_processes_train_as_one(tmp_path, data_dir):
  # They stream, each its share; the one has the whole set on the device.
  # Four steps: another order of sums, 1e-5 at first, grows with each step.
  one, two = tmp_path / "one", tmp_path / "two"
  _train(one, data_dir, "--config.epochs=0.36")
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  processes = [
      _start(
          two,
          data_dir,
          "--config.epochs=0.36",
          "--config.data.stream=always",
          f"--coordinator_address=localhost:{port}",
          "--num_processes=2",
          f"--process_id={i}",
          devices=2,
      )
      for i in range(2)
  ]
  for process in processes:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
  rows, expected = _rows(two), _rows(one)
  assert [row["step"] for row in rows] == [row["step"] for row in expected]
  for row, other in zip(rows, expected):
    if "loss" in row:
      assert row["loss"] == pytest.approx(other["loss"], abs=1e-4)
  assert json.loads((two / "summary.json").read_text())["devices"] == (
      ["cpu"] * 4
  )
  step, leaves = _last_checkpoint(two)
  assert step == 4
  for name, value in _last_checkpoint(one)[1].items():
    # Velocities are sums of gradients, which differ by more than parameters.
    close = 2e-2 if name.startswith(".opt_state") else 5e-3
    np.testing.assert_allclose(
        leaves[name], value, atol=close, rtol=close, err_msg=name
    )


def test_divergence_stops_and_keeps_what_was_saved(
    whole, tmp_path, data_dir
):
  shutil.copytree(whole[0], tmp_path / "run")
  output = _train(
      tmp_path / "run",
      data_dir,
      "--config.epochs=6",
      "--config.optimizer.learning_rate=1e30",
      code=1,
  )
  assert "is nan at step" in output or "is inf at step" in output
  assert "config.optimizer.learning_rate" in output
  for row in _rows(tmp_path / "run"):
    assert all(np.isfinite(value) for value in row.values())
  step, leaves = _last_checkpoint(tmp_path / "run")
  assert 33 <= step < 66
  assert all(np.isfinite(value).all() for value in leaves.values())


def test_full_disk_costs_a_checkpoint_and_no_more(whole, tmp_path, data_dir):
  shutil.copytree(whole[0], tmp_path / "run")
  saved, _ = _last_checkpoint(whole[0])
  # A limit on the size of files is met like a full disk, in the middle of
  # writing, and needs no disk of its own.
  output = _train(
      tmp_path / "run",
      data_dir,
      "--config.epochs=6",
      code=1,
      prefix=("bash", "-c", 'ulimit -f 40 && exec "$@"', "bash"),
  )
  assert "WARNING: a checkpoint could not be saved" in output
  assert f"Intact is that of step {saved}" in output
  assert _last_checkpoint(tmp_path / "run")[0] == saved


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
  output = _train(tmp_path, data_dir, *arguments, code=1)
  assert expected in output
  assert "Traceback" not in output
