"""Killed, preempted, on a full disk, twice in one folder: nothing is lost."""

import contextlib
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import command
from jssl import experiment, loop, preemption, report
from jssl.checkpoint import Checkpoints, NotSaved
from jssl.config import build, load_config, of_method, save_config
from jssl.embeddings import l2_normalize
from jssl.evals import summary
from jssl.recorder import Diverged

pytestmark = pytest.mark.slow

KILLS = 20


def _copy_of(run, workdir):
  """Copies a run that other tests may use at the same time."""
  shutil.copytree(run, workdir, ignore=shutil.ignore_patterns("run.lock"))


def _assert_same_run(workdir, whole):
  """The last checkpoint and the metrics, to the bit."""
  step, leaves = command.last_checkpoint(workdir)
  expected_step, expected = command.last_checkpoint(whole)
  assert step == expected_step == 33
  assert leaves.keys() == expected.keys() and len(leaves) > 50
  for name, value in expected.items():
    np.testing.assert_array_equal(leaves[name], value, err_msg=name)
  actual, expected = map(command.rows, (workdir, whole))
  assert command.without_times(actual) == command.without_times(expected)


def _kill(process, workdir, moments):
  """Kills at a random moment of a random kind; False if it ended before."""
  log, saving = workdir / "metrics.jsonl", workdir / "checkpoints"
  kind = moments.choice(("start", "step", "save", "save"))
  lines = lambda: log.read_bytes().count(b"\n") if log.exists() else 0
  before, more = lines(), moments.randint(1, 3)
  at = time.monotonic() + moments.random() * 5
  while process.poll() is None:
    if kind == "start" and time.monotonic() > at:
      break
    # Both logs of a resumed run begin with fewer lines.
    if kind == "step" and lines() >= min(before, 8) + more:
      time.sleep(moments.random() * 0.1)
      break
    if kind == "save" and any(saving.glob("*.orbax-checkpoint-tmp/*")):
      time.sleep(moments.random() * 0.02)
      break
    time.sleep(0.001)
  process.kill()
  process.communicate()
  return process.returncode == -signal.SIGKILL


def test_killed_twenty_times_ends_bit_identical(whole, tmp_path, data_dir):
  moments = random.Random(0)
  kills, torn, runs_done = 0, 0, 0
  workdir = tmp_path / "0"
  while kills < KILLS:
    process = command.start(workdir, data_dir)
    if _kill(process, workdir, moments):
      kills += 1
      torn += any(workdir.glob("checkpoints/*.orbax-checkpoint-tmp"))
    else:
      assert process.returncode == 0
      _assert_same_run(workdir, whole[0])
      runs_done += 1
      workdir = tmp_path / str(runs_done)
  command.train(workdir, data_dir)
  _assert_same_run(workdir, whole[0])
  assert torn >= 3  # Some of them while a checkpoint was written.


def _wait_for_rows(process, workdir):
  while not (workdir / "metrics.jsonl").exists() or not command.rows(workdir):
    assert process.poll() is None, process.communicate()[0]
    time.sleep(0.01)


# Background jobs of a shell ignore Ctrl-C, and so do their children.
_default_ctrl_c = functools.partial(
    signal.signal, signal.SIGINT, signal.SIG_DFL
)


@pytest.mark.parametrize(
    ("number", "name", "code"),
    [
        (signal.SIGTERM, "SIGTERM", os.EX_TEMPFAIL),
        (signal.SIGINT, "Ctrl-C", 128 + signal.SIGINT),
    ],
)
def test_a_request_to_stop_saves_and_the_same_command_resumes(
    whole, tmp_path, data_dir, number, name, code
):
  process = command.start(
      tmp_path,
      data_dir,
      "--config.checkpoint.every_epochs=1000",
      preexec_fn=_default_ctrl_c,
  )
  _wait_for_rows(process, tmp_path)
  process.send_signal(number)
  output, _ = process.communicate(timeout=120)
  assert process.returncode == code, output
  step, _ = command.last_checkpoint(tmp_path)
  assert 0 < step < 33
  assert f"stopped by {name} and saved at step {step}; the same" in output
  assert "Traceback" not in output and "Error" not in output
  assert not (tmp_path / "summary.json").exists()
  assert f"resuming from step {step} of 33" in command.train(tmp_path, data_dir)
  _, leaves = command.last_checkpoint(tmp_path)
  for name, value in command.last_checkpoint(whole[0])[1].items():
    np.testing.assert_array_equal(leaves[name], value, err_msg=name)


def test_a_background_job_of_a_shell_ignores_ctrl_c(tmp_path, data_dir):
  ignore = functools.partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
  process = command.start(
      tmp_path, data_dir, "--config.epochs=1", preexec_fn=ignore
  )
  _wait_for_rows(process, tmp_path)
  process.send_signal(signal.SIGINT)
  output, _ = process.communicate(timeout=120)
  assert process.returncode == 0, output


# A call into a library that reacts to no signal, as compiling is.
_DEAF = """
import hashlib
from jssl import cli
with cli.plain_errors():
  print("deaf", flush=True)
  hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


def test_a_second_ctrl_c_quits_at_once_whatever_goes_on():
  process = subprocess.Popen(
      [sys.executable, "-c", _DEAF],
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      preexec_fn=_default_ctrl_c,
  )
  assert process.stdout.readline() == "deaf\n"
  time.sleep(1)  # It is, a moment later.
  process.send_signal(signal.SIGINT)
  first = process.stderr.readline()
  assert first == "jssl: stopping; press Ctrl-C once more to quit at once\n"
  assert process.poll() is None
  process.send_signal(signal.SIGINT)
  at = time.monotonic()
  _, output = process.communicate(timeout=60)
  assert time.monotonic() - at < 10
  assert process.returncode == 128 + signal.SIGINT
  assert output == "jssl: quit at once; the checkpoints are intact\n"


def test_ctrl_c_on_a_terminal_leaves_workers_time_to_the_last_step(
    tmp_path, data_dir
):
  """It reaches every process of the terminal, those that decode as well."""
  pressed = []

  def press(keys, output):
    if not pressed and "loss" in output:
      keys(b"\x03")
      pressed.append(True)

  code, output = command.on_terminal(
      command.tiny(
          tmp_path,
          data_dir,
          "--config.epochs=1000",
          "--config.data.stream=always",
          "--config.data.workers=2",
      ),
      press,
      env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
  )
  assert code == 128 + signal.SIGINT, output
  step, _ = command.last_checkpoint(tmp_path)
  assert f"stopped by Ctrl-C and saved at step {step};" in output
  assert "Traceback" not in output and "Error" not in output
  assert "compiling" in output and "\r" in output


def _config(data_dir, **changes):
  config = of_method("moco_v2", "digits")
  config.data.data_dir = str(data_dir)
  config.update(epochs=2.0, net={"width": 8}, method={"queue_size": 256})
  config.update(eval={"every_epochs": 1.0}, checkpoint={"every_epochs": 0.2})
  config.update(log={"every_steps": 1})
  config.update(changes)
  return config


@pytest.fixture(scope="module")
def short(tmp_path_factory, data_dir):
  """The folder of a finished run of an epoch."""
  workdir = tmp_path_factory.mktemp("short")
  loop.train(_config(data_dir, epochs=1.0), str(workdir))
  return workdir


def _interrupt(number, *arguments, **keywords):
  """Replaces a slow function by one that the signal should interrupt."""
  os.kill(os.getpid(), number)
  time.sleep(30)
  pytest.fail("the signal was ignored")


_MOMENTS = {
    "loading": (experiment, "make", "before training began"),
    "initializing": (experiment, "initial_state", "before training began"),
    "compiling": (experiment, "make_call", "before {} step"),
    "summary": (
        summary,
        "summarize",
        "during evaluation; training is complete",
    ),
    "report": (report, "write", "while the report was written; training is"),
}


def _files(workdir):
  """What a run wrote, except files that a later one may write alike."""
  kept = ("config.json", "summary.json", "metrics.jsonl")
  found = {name: workdir / name for name in kept if (workdir / name).exists()}
  return {name: path.read_bytes() for name, path in found.items()}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("moment", "resuming"),
    [(x, False) for x in _MOMENTS if x not in ("summary", "report")]
    + [("compiling", True), ("summary", True), ("report", True)],
)
def test_the_message_of_a_stop_is_true(
    short, tmp_path, data_dir, monkeypatch, capfd, number, moment, resuming
):
  workdir, epochs = tmp_path / "run", 1.0
  if resuming:
    shutil.copytree(short, workdir)
    if moment == "compiling":
      epochs = 2.0
  before = _files(workdir)
  module, name, said = _MOMENTS[moment]
  said = said.format("a new" if resuming else "the first")
  interrupt = functools.partial(_interrupt, number)
  if moment == "compiling":  # It compiles when it is called.
    monkeypatch.setattr(module, name, lambda run: interrupt)
  else:
    monkeypatch.setattr(module, name, interrupt)
  train = lambda: loop.train(
      _config(data_dir, epochs=epochs, eval={"k": 10}), str(workdir)
  )
  if number == signal.SIGINT:
    with pytest.raises(KeyboardInterrupt, match=f"^stopped by Ctrl-C {said}"):
      train()
  else:
    assert train() is None
    assert f"stopped by SIGTERM {said}" in capfd.readouterr().err
  # Nothing is lost, and no file claims what was not done.
  latest = Checkpoints(str(workdir)).latest if workdir.exists() else None
  assert latest == (11 if resuming else None)
  if moment == "report":
    assert load_config(str(workdir)).eval.k == 10
  else:
    after = _files(workdir)
    assert {name: after[name] for name in before} == before


def test_a_stop_on_a_full_disk_does_not_say_saved(
    tmp_path, data_dir, monkeypatch, capfd
):
  def full(self, step, state):
    raise NotSaved("a checkpoint could not be saved")

  monkeypatch.setattr(Checkpoints, "save", full)
  stop = lambda rows: os.kill(os.getpid(), signal.SIGINT)
  with pytest.raises(NotSaved):
    loop.train(_config(data_dir), str(tmp_path), watch=stop)
  assert "saved at step" not in capfd.readouterr().err


def test_a_second_ctrl_c_stops_at_once(tmp_path, data_dir):
  """In a notebook, whose kernel must not end."""

  def stop(rows):
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)

  with pytest.raises(KeyboardInterrupt) as raised:
    loop.train(_config(data_dir), str(tmp_path), watch=stop)
  assert raised.type is KeyboardInterrupt  # Not one with the saved step.
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_settings_are_saved_when_something_was_trained_with_them(
    short, tmp_path, data_dir, capfd
):
  workdir = tmp_path / "run"
  shutil.copytree(short, workdir)
  config = _config(data_dir, epochs=2.0, checkpoint={"every_epochs": 1.0})
  config.optimizer.learning_rate = 0.01

  def lose(rows):
    if rows[-1]["step"] > 11:
      raise RuntimeError("lost")

  with pytest.raises(RuntimeError, match="lost"):
    loop.train(config, str(workdir), watch=lose)
  output = capfd.readouterr().err
  assert "changed since then: checkpoint every epochs 0.2 -> 1, " in output
  assert "epochs 1 -> 2, learning rate 0.03 -> 0.01" in output
  assert (
      "over 2 epochs: at step 11 the learning rate is 0.005 instead of 0\n"
      in output
  )
  assert load_config(str(workdir)).optimizer.learning_rate == 0.03
  assert loop.train(config, str(workdir))["steps"] == 22
  assert load_config(str(workdir)).optimizer.learning_rate == 0.01


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"epochs": 0.5},
            r"trained for 1 epochs \(11 steps\), but config.epochs=0.5 asks for"
            " only 6 steps. Give config.epochs=1 as before",
        ),
        (
            {"optimizer": {"learning_rate": 0.01}},
            "no step would be taken with learning rate 0.03 -> 0.01. Set that",
        ),
        (
            {"precision": "bfloat16"},
            "no step would be taken with precision auto -> bfloat16",
        ),
    ],
)
def test_the_files_of_a_finished_run_stay_true(
    short, data_dir, changes, expected
):
  before = {
      path: path.read_bytes() for path in short.rglob("*") if path.is_file()
  }
  with pytest.raises(ValueError, match=expected):
    loop.train(_config(data_dir, **{"epochs": 1.0, **changes}), str(short))
  after = {
      path: path.read_bytes() for path in short.rglob("*") if path.is_file()
  }
  assert after == before


def _edit(workdir, change):
  """Changes the config that a run has saved."""
  config = load_config(str(workdir))
  change(config)
  save_config(config, str(workdir))


def test_the_first_of_four_epochs_is_no_run_of_one_epoch(
    short, tmp_path, data_dir
):
  """Its learning rate was that of the longer schedule."""
  workdir = tmp_path / "run"
  shutil.copytree(short, workdir)
  _edit(workdir, lambda config: config.update(epochs=4.0))
  (workdir / "summary.json").unlink()
  before = _files(workdir)
  with pytest.raises(
      ValueError,
      match=r"trained for 1 epochs \(11 steps\), .* schedules of 4 epochs"
      r" \(44 steps\), so no step would be taken with epochs 4 -> 1\. Give"
      " config.epochs=4 as before",
  ):
    loop.train(_config(data_dir, epochs=1.0), str(workdir))
  assert _files(workdir) == before


def _without_queue_size(config):
  del config.method.queue_size


def _with_another_entry(config):
  with config.unlocked():
    config.net.former = 1


def _with_another_seed(config):
  config.seed = 7


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            _without_queue_size,
            r"made by another version of jssl.*\n  config.method.queue_size:"
            r" '\(absent\)' in the run, 256 now\nFinish it with that version",
        ),
        (
            _with_another_entry,
            r"made by another version of jssl.*\n  config.net.former: 1 in the"
            r" run, '\(absent\)' now\nFinish it with that version",
        ),
        (
            _with_another_seed,
            r"another model or order of the data:\n  config.seed: 7 in the"
            r" run, 0 now\nSet them back",
        ),
    ],
)
def test_a_run_of_another_version_is_not_asked_to_be_set_back(
    short, tmp_path, data_dir, change, said
):
  workdir = tmp_path / "run"
  shutil.copytree(short, workdir)
  _edit(workdir, change)
  before = _files(workdir)
  with pytest.raises(ValueError, match=said):
    loop.train(_config(data_dir), str(workdir))
  assert _files(workdir) == before


def test_another_method_is_not_another_version(short, tmp_path, data_dir):
  workdir = tmp_path / "run"
  shutil.copytree(short, workdir)
  _edit(workdir, lambda config: config.method.update(name="simclr"))
  _edit(workdir, _without_queue_size)
  with pytest.raises(ValueError, match="another model or order(.|\n)*Set them"):
    loop.train(_config(data_dir), str(workdir))


class _Requesting:
  """Reads like False, and requests a stop right after it was read."""

  def __bool__(self):
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(100):
      pass  # Python calls the handler within a few instructions.
    return False


def test_a_request_just_before_a_block_ends_it():
  with preemption.stop_request() as stop:
    stop._requested = _Requesting()
    with pytest.raises(preemption.Left):
      with stop.interruptible():
        pytest.fail("the block was entered")
    assert stop.requested()
    stop._requested = False
    with stop.interruptible():  # And the next one is not left.
      pass


def test_sigterm_interrupts_an_evaluation_that_the_next_run_repeats(
    tmp_path, data_dir, monkeypatch, only_train
):
  config = _config(data_dir)

  def slow(*arguments, **keywords):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(600)

  with monkeypatch.context() as patch:
    patch.setattr(loop, "quick", slow)
    at = time.monotonic()
    assert loop.train(config, str(tmp_path)) is None
    assert time.monotonic() - at < 300
  assert [r["step"] for r in command.rows(tmp_path)] == list(range(1, 12))
  assert command.last_checkpoint(tmp_path)[0] == 11
  loop.train(config, str(tmp_path))
  rows = command.rows(tmp_path)
  assert [r["step"] for r in rows if "loss" in r] == list(range(1, 23))
  assert [r["step"] for r in rows if "rank" in r] == [11, 22]


def _spoil(monkeypatch, steps):
  """Makes the loss of some steps infinite."""
  real = build.method

  def spoiled(*arguments, **keywords):
    method = real(*arguments, **keywords)

    def loss(params, carried, views, keys, step):
      value, aux = method.loss(params, carried, views, keys, step)
      wrong = jnp.isin(step, jnp.asarray(steps))
      return jnp.where(wrong, jnp.inf, value), aux

    return method._replace(loss=loss)

  monkeypatch.setattr(build, "method", spoiled)


def test_steps_that_are_not_finite_are_skipped_and_counted(
    tmp_path, data_dir, monkeypatch, capfd, only_train
):
  _spoil(monkeypatch, [4, 5, 9])
  loop.train(_config(data_dir), str(tmp_path))
  rows = [row for row in command.rows(tmp_path) if "skipped" in row]
  assert [r["step"] for r in rows if r["skipped"]] == [5, 6, 10]
  assert all(("loss" in row) != row["skipped"] for row in rows)
  output = capfd.readouterr().err
  assert "step 5 changed nothing, because loss is inf" in output
  assert output.count("changed nothing") == 3


def test_too_many_in_a_row_end_the_run_and_are_not_saved(
    tmp_path, data_dir, monkeypatch
):
  _spoil(monkeypatch, [4, 6, 7, 8, 9, 10, 11])
  config = _config(data_dir, max_skipped=5)
  with pytest.raises(Diverged, match="inf at step 11.*5 steps in a row"):
    loop.train(config, str(tmp_path))
  # Due were steps 2, 4, 6, 8 and 10; the last good one before is the sixth.
  assert command.last_checkpoint(tmp_path)[0] == 6


def test_parameters_that_are_not_finite_are_not_saved(
    tmp_path, data_dir, monkeypatch
):
  real = build.optimizer
  infinite = lambda *arguments, **keywords: optax.chain(
      real(*arguments, **keywords), optax.scale(jnp.inf)
  )
  monkeypatch.setattr(build, "optimizer", infinite)
  config = _config(data_dir, checkpoint={"every_epochs": 0.01})
  with pytest.raises(Diverged, match="not finite after step 1, so they were"):
    loop.train(config, str(tmp_path))
  assert Checkpoints(str(tmp_path)).latest is None


def test_a_folder_has_one_run_at_a_time(tmp_path, data_dir):
  first = command.start(tmp_path, data_dir, "--config.epochs=1000")
  while not (tmp_path / "metrics.jsonl").exists():
    assert first.poll() is None, first.communicate()[0]
    time.sleep(0.05)
  output = command.train(tmp_path, data_dir, code=1)
  assert "is used by another run" in output and "--workdir" in output
  assert "Traceback" not in output
  assert first.poll() is None
  first.kill()
  first.communicate()
  assert json.loads((tmp_path / "config.json").read_text())["epochs"] == 1000


def test_a_read_only_folder_is_refused(tmp_path, data_dir, monkeypatch):
  config = _config(data_dir)
  exp = experiment.make(config)
  monkeypatch.setattr(experiment, "make", lambda config: exp)
  workdir = tmp_path / "run"
  workdir.mkdir(mode=0o555)
  with _as_a_user(), pytest.raises(OSError, match="Permission denied.: fix"):
    loop.train(config, str(workdir))
  assert not list(workdir.iterdir())


@contextlib.contextmanager
def _as_a_user():
  """Without the rights of the system's owner, whom nothing stops."""
  before = os.geteuid()
  if before == 0:
    os.seteuid(65534)
  try:
    yield
  finally:
    os.seteuid(before)


def test_unwritable_pictures_do_not_end_a_run(tmp_path, data_dir, capfd):
  config = of_method("denoising", "digits")
  config.data.data_dir = str(data_dir)
  config.update(epochs=1.0, net={"width": 8})
  config.optimizer.schedule.warmup_epochs = 0.0
  (tmp_path / "pictures").write_text("a file, where a folder should be")
  assert loop.train(config, str(tmp_path))["steps"] == 22
  assert "pictures could not be written" in capfd.readouterr().err


def test_divergence_stops_and_keeps_the_checkpoints(whole, tmp_path, data_dir):
  _copy_of(whole[0], tmp_path / "run")
  output = command.train(
      tmp_path / "run",
      data_dir,
      "--config.epochs=6",
      "--config.optimizer.learning_rate=1e30",
      code=1,
  )
  assert "is nan at step" in output or "is inf at step" in output
  assert "20 steps in a row changed nothing" in output
  assert "config.optimizer.learning_rate" in output
  rows = command.rows(tmp_path / "run")
  assert sum(row.get("skipped", 0) for row in rows) >= 20
  for row in rows:
    assert all(np.isfinite(value) for value in row.values())
  step, leaves = command.last_checkpoint(tmp_path / "run")
  assert 33 <= step < 66
  assert all(np.isfinite(value).all() for value in leaves.values())


def test_full_disk_costs_a_checkpoint_and_no_more(whole, tmp_path, data_dir):
  _copy_of(whole[0], tmp_path / "run")
  saved, _ = command.last_checkpoint(whole[0])
  # A limit on the size of files is met like a full disk, in the middle of
  # writing, and needs no disk of its own.
  output = command.train(
      tmp_path / "run",
      data_dir,
      "--config.epochs=6",
      code=1,
      prefix=("bash", "-c", 'ulimit -f 40 && exec "$@"', "bash"),
  )
  assert "WARNING: a checkpoint could not be saved" in output
  assert f"newest intact checkpoint is that of step {saved}" in output
  assert command.last_checkpoint(tmp_path / "run")[0] == saved


def test_a_collapsed_net_gets_a_warning(
    tmp_path, data_dir, monkeypatch, capfd, only_train
):
  real = build.method

  def attracting(*arguments, **keywords):
    """Draws the features of different images together."""
    method = real(*arguments, **keywords)

    def loss(params, carried, views, keys, step):
      _, aux = method.loss(params, carried, views, keys, step)
      images = jax.tree.leaves(views)[0]
      images = images.reshape(-1, *images.shape[-3:])
      features = method.encode(params, carried, images)["pooled"]
      center = jnp.mean(l2_normalize(features), axis=0)
      return -jnp.sum(jnp.square(center)), aux

    return method._replace(loss=loss)

  monkeypatch.setattr(build, "method", attracting)
  config = _config(data_dir)
  config.net.name, config.net.width = "vit_micro", 32  # No BatchNorm resists.
  loop.train(config, str(tmp_path))
  output = capfd.readouterr().err
  assert "all images get nearly the same features (collapse)" in output
