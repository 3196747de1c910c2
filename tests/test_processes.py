"""Several processes, each with two devices, train as one does."""

import concurrent.futures
import functools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import command
from jssl.checkpoint import Checkpoints
from jssl.step import make_step
import test_devices as case
import tiny

pytestmark = pytest.mark.slow

# Every kind of talk between devices (`test_devices.py` has all methods): a
# queue, gathered negatives, covariances, Sinkhorn, a pretext task, frequencies,
# patches and a target.
_METHODS = (
    "moco_v2",
    "simclr",
    "vicreg",
    "swav",
    "rotation",
    "colorization",
    "mae",
    "ijepa",
)
_SHORT = (
    "--config.epochs=0.36",  # Four steps.
    "--config.checkpoint.every_epochs=0.18",
)
_CASE = pathlib.Path(__file__).parent / "process_case.py"


@functools.cache
def _expected(name):
  """State and metrics of a single process with a single device."""
  step = jax.jit(make_step(case.make_method(name, None), case.OPTIMIZER))
  state = case.start(name)
  for _ in range(case.STEPS):
    state, metrics = step(state, case.make_batch())
  return state, {name: float(value) for name, value in metrics.items()}


@pytest.mark.parametrize("count", [2, 4])
def test_every_family_of_several_processes_is_that_of_one(count, tmp_path):
  address = command.free_address()
  processes = [
      subprocess.Popen(
          [sys.executable, _CASE, address, str(count), str(i), tmp_path]
          + list(_METHODS),
          env={**os.environ, "JAX_NUM_CPU_DEVICES": "2"},
          text=True,
          stdout=subprocess.PIPE,
          stderr=subprocess.STDOUT,
      )
      for i in range(count)
  ]
  with concurrent.futures.ThreadPoolExecutor() as pool:
    outputs = list(pool.map(lambda p: p.communicate(timeout=600)[0], processes))
  for process, output in zip(processes, outputs):
    assert process.returncode == 0, output
  for name in _METHODS:
    state, metrics = _expected(name)
    checkpoints = Checkpoints(str(tmp_path / name), read_only=True)
    tiny.assert_trees_close(checkpoints.restore(state), state, 1e-3)
    checkpoints.close()
    row = json.loads((tmp_path / f"{name}.json").read_text())
    assert row == pytest.approx(metrics, rel=1e-3, abs=1e-3), name


@pytest.fixture(scope="module")
def short(tmp_path_factory, data_dir):
  """Four steps of one process with one device, saved after two and four."""
  workdir = tmp_path_factory.mktemp("short")
  command.train(workdir, data_dir, *_SHORT)
  return workdir


def _assert_close(workdir, short):
  # Four steps: another order of sums, 1e-5 at first, grows with each step.
  rows, expected = command.rows(workdir), command.rows(short)
  assert [row["step"] for row in rows] == [row["step"] for row in expected]
  for row, other in zip(rows, expected):
    if "loss" in row:
      assert row["loss"] == pytest.approx(other["loss"], abs=1e-4)
  step, leaves = command.last_checkpoint(workdir)
  assert step == 4
  for name, value in command.last_checkpoint(short)[1].items():
    # Velocities are sums of gradients, which differ by more than parameters.
    close = 2e-2 if name.startswith(".opt_state") else 5e-3
    np.testing.assert_allclose(
        leaves[name], value, atol=close, rtol=close, err_msg=name
    )


def test_two_processes_train_as_one(short, tmp_path, data_dir):
  # They stream, each its share; the one has the whole set on the device.
  processes = command.start_together(
      tmp_path, data_dir, *_SHORT, "--config.data.stream=always", count=2
  )
  first, second = command.join(processes)
  assert "4 x cpu" in first and "x cpu" not in second  # One reports.
  _assert_close(tmp_path, short)
  assert json.loads((tmp_path / "summary.json").read_text())["devices"] == (
      ["cpu"] * 4
  )


@pytest.mark.parametrize("count,devices", [(1, 4), (2, 2), (4, 1)])
def test_a_run_resumes_with_other_devices(
    short, tmp_path, data_dir, count, devices
):
  workdir = tmp_path / "run"
  shutil.copytree(short, workdir)
  shutil.rmtree(workdir / "checkpoints" / "4")
  if count == 1:
    output = command.train(workdir, data_dir, *_SHORT, devices=devices)
  else:
    output, *_ = command.join(
        command.start_together(
            workdir, data_dir, *_SHORT, count=count, devices=devices
        )
    )
  assert "4 x cpu" in output and "resuming from step 2 of 4" in output
  _assert_close(workdir, short)


def _steps_taken(workdir):
  log = workdir / "metrics.jsonl"
  return log.exists() and log.read_bytes().count(b"\n") > 1


def _wait(processes, workdir):
  """Until some steps were taken."""
  while not _steps_taken(workdir):
    for process in processes:
      assert process.poll() is None, process.communicate()[0]
    time.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, os.EX_TEMPFAIL), (signal.SIGINT, 128 + signal.SIGINT)],
)
def test_a_request_to_one_stops_all_at_one_step(
    tmp_path, data_dir, number, code
):
  processes = command.start_together(
      tmp_path, data_dir, "--config.epochs=1000", count=2
  )
  _wait(processes, tmp_path)
  processes[1].send_signal(number)
  (second,) = command.join(processes[1:], code=code)
  (first,) = command.join(processes[:1], code=os.EX_TEMPFAIL)
  step, _ = command.last_checkpoint(tmp_path)
  assert f"stopped by SIGTERM and saved at step {step};" in first
  if number == signal.SIGINT:
    assert f"stopped by Ctrl-C and saved at step {step};" in second


def test_the_number_of_processes_may_be_one(tmp_path, data_dir):
  (process,) = command.start_together(
      tmp_path, data_dir, "--config.epochs=0.36", count=1
  )
  (output,) = command.join([process])
  assert "2 x cpu" in output and "summary.json" in output
  output = command.train(
      tmp_path, data_dir, "--config.epochs=0.36", "--num_processes=1"
  )
  assert "already trained to the end" in output


@pytest.mark.parametrize("dead", [0, 1])
def test_when_one_dies_the_others_end_and_name_it(tmp_path, data_dir, dead):
  processes = command.start_together(
      tmp_path,
      data_dir,
      "--config.epochs=1000",
      "--heartbeat_seconds=10",
      count=2,
  )
  _wait(processes, tmp_path)
  processes[dead].kill()
  at = time.monotonic()
  output, _ = processes[1 - dead].communicate(timeout=120)
  assert time.monotonic() - at < 25
  assert processes[1 - dead].returncode not in (0, os.EX_TEMPFAIL)
  named = r"unhealthy \(stopped sending heartbeats\):\n1\n"
  if dead == 0:
    named = r"the leader \(usually slice 0 task 0\)"
  assert re.search(named, output), output
  assert "Thread 0x" not in output  # A hundred lines would hide it.
  assert command.last_checkpoint(tmp_path)[0] > 0


def test_when_one_fails_the_others_end(tmp_path, data_dir):
  """Here the first, of which the others know only that it is gone."""
  (tmp_path / "run").write_text("a file, where a folder should be")
  processes = command.start_together(
      tmp_path / "run",
      data_dir,
      "--heartbeat_seconds=10",
      count=2,
  )
  outputs = [process.communicate(timeout=120)[0] for process in processes]
  assert all(process.returncode for process in processes)
  assert "jssl: " in outputs[0] and "Traceback" not in outputs[0]


def test_processes_that_do_not_meet_name_what_is_missing(tmp_path, data_dir):
  output = command.train(
      tmp_path / "run", data_dir, "--num_processes=2", code=1
  )
  assert "--coordinator_address=HOST:PORT" in output
  assert "Traceback" not in output
