"""The command line, as a user runs it, on real images and a tiny net."""

import fcntl
import json
import os
import pathlib
import pty
import signal
import socket
import subprocess
import sys
import termios

import jax
import numpy as np

from jssl import experiment
from jssl.checkpoint import Checkpoints
from jssl.config import load_config

ROOT = pathlib.Path(__file__).parent.parent

# Eleven steps an epoch: a run of 33 steps that saves and evaluates often.
TINY = (
    "--config.epochs=3",
    "--config.net.width=8",
    "--config.method.queue_size=256",
    "--config.log.every_steps=4",
    "--config.eval.every_epochs=1",
    "--config.checkpoint.every_epochs=0.25",
)


def run(name, *arguments, code=0, devices=1):
  """Runs `python -m jssl.NAME` to its end; returns what it printed.

  Args:
    name: The command, such as "embed".
    *arguments: Its arguments.
    code: The exit code that is expected.
    devices: Number of devices.

  Returns:
    A `subprocess.CompletedProcess`, with `stdout` and `stderr`.
  """
  done = subprocess.run(
      [sys.executable, "-m", f"jssl.{name}", *arguments],
      cwd=ROOT,
      env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)},
      text=True,
      capture_output=True,
      timeout=300,
  )
  assert done.returncode == code, done.stderr
  assert "Traceback" not in done.stderr, done.stderr
  return done


def free_address():
  """An address that nothing listens at."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return f"localhost:{free.getsockname()[1]}"


def tiny(workdir, data_dir, *arguments):
  """Arguments of the interpreter that train a tiny net on digits."""
  return [
      *("-m", "jssl.train", "--config=configs/moco_v2.py:digits"),
      *(f"--workdir={workdir}", f"--data_dir={data_dir}", *TINY, *arguments),
  ]


def start(workdir, data_dir, *arguments, devices=1, prefix=(), **options):
  """Starts `python -m jssl.train`."""
  command = [*prefix, sys.executable, *tiny(workdir, data_dir, *arguments)]
  return subprocess.Popen(
      command,
      cwd=ROOT,
      env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)},
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      **options,
  )


def train(workdir, data_dir, *arguments, code=0, **options):
  """The same to the end; returns what it printed."""
  process = start(workdir, data_dir, *arguments, **options)
  output, _ = process.communicate(timeout=300)
  assert process.returncode == code, output
  assert "collapse" not in output  # Each of these runs is healthy.
  return output


def on_terminal(arguments, watch=None, **options):
  """Runs Python on a terminal of its own.

  Args:
    arguments: Those of the interpreter.
    watch: Called as it writes with a function that types, and with all that it
      has written.
    **options: As for `subprocess.Popen`.

  Returns:
    The exit code, and what it wrote, with carriage returns.
  """
  ours, theirs = pty.openpty()

  def own():
    """Has Ctrl-C typed there reach it, also in the background of a shell."""
    fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)

  process = subprocess.Popen(
      [sys.executable, *arguments],
      cwd=ROOT,
      stdin=theirs,
      stdout=theirs,
      stderr=theirs,
      start_new_session=True,
      preexec_fn=own,
      **options,
  )
  os.close(theirs)
  output = b""
  while True:
    try:
      part = os.read(ours, 2**16)
    except OSError:  # Linux: all writers have closed it.
      part = b""
    if not part:
      break
    output += part
    if watch:
      watch(lambda keys: os.write(ours, keys), output.decode(errors="replace"))
  os.close(ours)
  return process.wait(timeout=60), output.decode().replace("\r\n", "\n")


def start_together(workdir, data_dir, *arguments, count, devices=2):
  """Starts several processes that train together."""
  address = free_address()
  return [
      start(
          workdir,
          data_dir,
          f"--coordinator_address={address}",
          f"--num_processes={count}",
          f"--process_id={i}",
          *arguments,
          devices=devices,
      )
      for i in range(count)
  ]


def join(processes, *, code=0):
  """Waits for their ends; returns what they printed."""
  outputs = [process.communicate(timeout=300)[0] for process in processes]
  for process, output in zip(processes, outputs):
    assert process.returncode == code, output
  return outputs


def rows(workdir):
  lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def without_times(rows):
  times = ("seconds", "images_per_second")
  return [{k: v for k, v in row.items() if k not in times} for row in rows]


def last_checkpoint(workdir):
  """Returns the newest checkpoint's step, and its leaves by name."""
  exp = experiment.make(load_config(workdir))
  checkpoints = Checkpoints(workdir)
  state = checkpoints.restore(jax.eval_shape(exp.init, jax.random.key(0)))
  state = state._replace(key=jax.random.key_data(state.key))
  leaves = jax.tree.leaves_with_path(state)
  named = {jax.tree_util.keystr(k): np.asarray(x) for k, x in leaves}
  return checkpoints.latest, named
