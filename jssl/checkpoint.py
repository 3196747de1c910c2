"""Checkpoints of a run, with Orbax, in `WORKDIR/checkpoints`.

Orbax writes a checkpoint beside the others under a temporary name and renames
it when it is whole, so a run may be killed at any moment: what is there under
its final name is complete.
"""

import contextlib
import pathlib
import shutil
from typing import Any

import jax

from jssl import parallel

PyTree = Any

_FOLDER = "checkpoints"


class NotSaved(OSError):
  """A checkpoint could not be written; those from before are intact."""


class Checkpoints:
  """The checkpoints of one run, written in the background.

  Attributes:
    latest: Step of the newest complete checkpoint, or None.
  """

  def __init__(
      self, workdir: str, *, keep: int = 2, read_only: bool = False
  ):
    """Opens or creates the folder.

    Args:
      workdir: The run's folder.
      keep: Number of newest checkpoints that are kept.
      read_only: Whether the folder is only looked at: another process may be
        writing to it.
    """
    import orbax.checkpoint as ocp  # Slow to import, and not always needed.

    self._ocp = ocp
    self._manager = ocp.CheckpointManager(
        (pathlib.Path(workdir) / _FOLDER).absolute(),
        options=ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            cleanup_tmp_directories=not read_only,
            create=not read_only,
        ),
    )

  @property
  def latest(self) -> int | None:
    return self._manager.latest_step()

  def save(self, step: int, state: PyTree) -> None:
    """Copies the state to the host, then writes it in the background.

    Raises:
      NotSaved: If writing failed, often the writing of the one before.
    """
    args = self._ocp.args.StandardSave(parallel.to_global(state))
    with self._plain_errors():
      self._manager.save(step, args=args)

  def wait(self) -> None:
    """Returns when what was being written is complete.

    Raises:
      NotSaved: If writing failed.
    """
    with self._plain_errors():
      self._manager.wait_until_finished()

  def restore(self, like: PyTree, step: int | None = None) -> PyTree:
    """Reads a checkpoint.

    Args:
      like: A state (or its `jax.eval_shape`) of the same structure and shapes.
      step: Which checkpoint, the newest by default.

    Returns:
      The state, on each local device.

    Raises:
      FileNotFoundError: If there is none.
    """
    step = self.latest if step is None else step
    if step is None:
      raise FileNotFoundError(
          f"No checkpoint in {self._manager.directory}; train first, with"
          " python -m jssl.train."
      )
    sharding = parallel.global_sharding()
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        like,
    )
    args = self._ocp.args.StandardRestore(shapes)
    return parallel.to_local(self._manager.restore(step, args=args))

  @contextlib.contextmanager
  def _plain_errors(self):
    try:
      yield
    except (OSError, ValueError) as error:  # TensorStore's are ValueErrors.
      for torn in self._manager.directory.glob("*.orbax-checkpoint-tmp"):
        shutil.rmtree(torn, ignore_errors=True)
      free = shutil.disk_usage(self._manager.directory).free / 2**20
      newest = f"that of step {self.latest}" if self.latest else "none"
      raise NotSaved(
          f"a checkpoint could not be saved in {self._manager.directory}, where"
          f" {free:,.1f} MiB are free. Intact is {newest}. Free space, and run"
          f" the same command again. The cause: {str(error).splitlines()[0]}"
      ) from error

  def close(self) -> None:
    """Waits and frees the background threads."""
    self._manager.close()
