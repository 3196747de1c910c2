"""Shared test settings: eight virtual CPU devices and one compilation cache."""

import gc
import os
import pathlib
import signal
import tempfile

# All must be set before jax is first imported, also in child processes.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# XLA's threads for them. As many as devices or cores, its default, can all be
# waiting in a collective for a device that then gets none, on busy cores.
os.environ.setdefault("NPROC", "32")
# scikit-learn's and NumPy's threads wait by spinning: on cores that are busy
# anyway, t-SNE takes three to ten times as long with two as with one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Most tests compile for longer than they run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    os.path.join(tempfile.gettempdir(), "jssl-test-compilation-cache"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import filelock
import jax
import numpy as np
import pytest

from jssl import data

# A job in a shell's background ignores Ctrl-C, as does all that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)

_MAPS = pathlib.Path("/proc/self/maps")


@pytest.fixture(scope="module", autouse=True)
def forget_compiled(request):
  """Lets go of a module's compiled functions where they get too many.

  XLA maps each into memory some ten times, and Linux grants a process 65,530
  maps: past them, compiling crashes.
  """
  yield
  if not _MAPS.exists() or _MAPS.read_bytes().count(b"\n") < 20_000:
    return
  for value in vars(request.module).values():
    if hasattr(value, "cache_clear"):
      value.cache_clear()
  jax.clear_caches()
  gc.collect()


@pytest.fixture(scope="session")
def golden():
  """Returns a loader of the reference values under tests/golden."""
  folder = pathlib.Path(__file__).parent / "golden"

  def load(name: str) -> dict[str, np.ndarray]:
    with np.load(folder / f"{name}.npz") as archive:
      return dict(archive)

  return load


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
  """A folder that all worker processes of this test run have in common."""
  folder = tmp_path_factory.getbasetemp()
  return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def data_dir(shared):
  """A data folder of the tests' own, in which digits are prepared once."""
  folder = shared / "tfds"
  with filelock.FileLock(shared / "tfds.lock"):
    data.open_source("digits", "train", data_dir=folder)
  return folder


@pytest.fixture
def only_train(monkeypatch):
  """Leaves out a run's last evaluation and its report, which take longest."""
  monkeypatch.setattr("jssl.loop._finish", lambda *_: None)


@pytest.fixture(scope="session")
def whole(shared, data_dir):
  """An uninterrupted run: its folder, and what it printed."""
  import command  # It imports all of jssl.

  workdir, log = shared / "whole", shared / "whole.log"
  with filelock.FileLock(shared / "whole.lock"):
    if not log.exists():
      log.write_text(command.train(workdir, data_dir))
  return workdir, log.read_text()
