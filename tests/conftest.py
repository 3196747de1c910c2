"""Shared test settings: eight virtual CPU devices and one compilation cache."""

import os
import pathlib
import tempfile

# Both must be set before jax is first imported, also in child processes.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    os.path.join(tempfile.gettempdir(), "jssl-test-compilation-cache"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import numpy as np
import pytest


@pytest.fixture(scope="session")
def golden():
  """Returns a loader of the reference values under tests/golden."""
  folder = pathlib.Path(__file__).parent / "golden"

  def load(name: str) -> dict[str, np.ndarray]:
    with np.load(folder / f"{name}.npz") as archive:
      return dict(archive)

  return load
