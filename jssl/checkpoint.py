"""Checkpoints of a run, with Orbax, in `WORKDIR/checkpoints`.

Orbax writes a checkpoint next to the others under a temporary name and renames
it when it is complete. So a run may be killed at any moment: every checkpoint
under its final name was written completely. Later damage is detected by a
checksum of each array.
"""

from collections.abc import Iterator
import contextlib
import functools
import json
import pathlib
import shutil
import sys
import textwrap
from typing import Any
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from jssl import parallel

PyTree = Any

_FOLDER = "checkpoints"
_ASIDE = "unreadable"  # The subfolder that unreadable checkpoints move to.
_FORMAT = 1  # Version of the format.
_OPTIMIZER = ".opt_state"  # Arrays that only training needs.
_NAMED = 3  # Differences that a message lists.
_LONGEST = 160  # Characters of a reason.


class NotSaved(OSError):
  """A checkpoint could not be written; earlier ones are intact."""


class OtherModel(ValueError):
  """A checkpoint belongs to another model, or another version of jssl."""


class Checkpoints:
  """The checkpoints of one run, written in the background.

  Attributes:
    unreadable: A sentence for each checkpoint that `restore` could not read.
  """

  def __init__(self, workdir: str, *, keep: int = 2, read_only: bool = False):
    """Opens or creates the folder.

    Args:
      workdir: The run's folder.
      keep: Number of newest checkpoints that are kept.
      read_only: Whether the folder is only read: another process may be writing
        to it.
    """
    import orbax.checkpoint as ocp  # Slow to import, and not always needed.

    self._args = ocp.args
    self._read_only = read_only
    self._manager = ocp.CheckpointManager(
        (pathlib.Path(workdir) / _FOLDER).absolute(),
        options=ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            cleanup_tmp_directories=not read_only,
            create=not read_only,
        ),
    )
    self.unreadable: list[str] = []

  @property
  def latest(self) -> int | None:
    """Step of the newest complete checkpoint, or None."""
    return self._manager.latest_step()

  def save(self, step: int, state: PyTree) -> None:
    """Copies the state to the host, then writes it in the background.

    Raises:
      NotSaved: If writing failed, often of the previous checkpoint.
    """
    state = jax.device_get(_without_keys(state))
    args = self._args.Composite(
        state=self._args.StandardSave(state),
        about=self._args.JsonSave(_described(state)),
    )
    with self._plain_errors():
      self._manager.save(step, args=args)

  def wait(self) -> None:
    """Waits until all checkpoints are written.

    Raises:
      NotSaved: If writing failed.
    """
    with self._plain_errors():
      self._manager.wait_until_finished()

  def restore(self, like: PyTree, *, partial: bool = False) -> PyTree:
    """Restores the newest checkpoint that is not damaged.

    Newer, damaged ones are listed in `unreadable`, and moved to
    `checkpoints/unreadable` unless the folder is only read.

    Args:
      like: A state (or its `jax.eval_shape`) of the same structure and shapes.
      partial: Whether `like` may lack entries of the saved state; these are not
        read.

    Returns:
      The state, on each local device.

    Raises:
      FileNotFoundError: If there is none.
      ValueError: If all are damaged, or belong to another model or version.
    """
    raw = jax.eval_shape(_without_keys, like)
    steps = sorted(self._manager.all_steps(), reverse=True)
    if not steps:
      raise FileNotFoundError(
          f"No checkpoint in {self._manager.directory}; train first, with"
          " python -m jssl.train."
      )
    damaged = {}  # The reason why each cannot be read.
    for step in steps:
      reason = None
      try:
        state = self._read(step, raw, partial)
      except (MemoryError, PermissionError, OtherModel):
        raise  # An earlier checkpoint would fail, too.
      except Exception as error:  # Damaged files raise nearly any type.
        reason = _reason(error)
      if parallel.agree(reason is None):
        break
      damaged[step] = reason or "another process could not read it"
    else:
      listed = "; ".join(f"step {step}: {why}" for step, why in damaged.items())
      raise ValueError(
          f"No checkpoint in {self._manager.directory} can be read: {listed}."
          " Restore a copy of one, or give another --workdir."
      )
    self.unreadable = [
        f"the checkpoint of step {bad} cannot be read ({why}); using that of"
        f" step {step}"
        for bad, why in sorted(damaged.items())
    ]
    if damaged and not self._read_only:
      self._set_aside(damaged)
    return parallel.replicate(_with_keys(state, like))

  def _read(self, step, like, partial):
    """Reads a state; raises an error of any type if it is damaged."""
    about = self._item(step, about=self._args.JsonRestore())
    if about["checksum"] != _checksum_of(about["arrays"]):
      raise ValueError("its description is damaged")
    path = self._manager.directory / str(step)
    _check_kind(about, like, path, partial=partial)
    restore = self._args.StandardRestore
    if partial:
      restore = functools.partial(
          self._args.PyTreeRestore, partial_restore=True
      )
    empty = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)
    with _quiet_if_it_fails():
      state = self._item(step, state=restore(empty))
    arrays = _described(state)["arrays"].items()
    for name, _ in sorted(arrays - about["arrays"].items()):
      raise ValueError(f"{name} has changed since it was written")
    return state

  def _item(self, step, **args):
    (name,) = args
    return self._manager.restore(step, args=self._args.Composite(**args))[name]

  def _set_aside(self, steps):
    folder = pathlib.Path(self._manager.directory)
    if jax.process_index() == 0:
      (folder / _ASIDE).mkdir(exist_ok=True)
      for step in steps:
        shutil.rmtree(folder / _ASIDE / str(step), ignore_errors=True)
        (folder / str(step)).rename(folder / _ASIDE / str(step))
    parallel.agree(True)  # The others wait until it is done.
    self._manager.reload()

  @contextlib.contextmanager
  def _plain_errors(self) -> Iterator[None]:
    try:
      yield
    except (OSError, ValueError) as error:  # TensorStore's are ValueErrors.
      for torn in self._manager.directory.glob("*.orbax-checkpoint-tmp"):
        shutil.rmtree(torn, ignore_errors=True)
      free = shutil.disk_usage(self._manager.directory).free / 2**20
      newest = f"that of step {self.latest}" if self.latest else "none"
      raise NotSaved(
          f"a checkpoint could not be saved in {self._manager.directory}, where"
          f" {free:,.1f} MiB are free. The newest intact checkpoint is"
          f" {newest}. Free space, and run the same command again. The cause:"
          f" {_reason(error)}"
      ) from error

  def close(self) -> None:
    """Waits and frees the background threads."""
    self._manager.close()


@contextlib.contextmanager
def _quiet_if_it_fails() -> Iterator[None]:
  """Hides errors of the arrays that TensorStore reads after a first error.

  It reports each of them to an event loop that is closed by then.
  """
  before = sys.unraisablehook

  def hook(unraisable):
    if "Event loop is closed" not in str(unraisable.exc_value):
      before(unraisable)

  sys.unraisablehook = hook
  yield
  sys.unraisablehook = before


def _is_key(x):
  return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _without_keys(state):
  """Replaces PRNG keys by their numbers."""
  return jax.tree.map(
      lambda x: jax.random.key_data(x) if _is_key(x) else x, state
  )


def _with_keys(state, like):
  return jax.tree.map(
      lambda x, y: jax.random.wrap_key_data(x) if _is_key(y) else x, state, like
  )


def _described(state):
  """Describes the arrays: the form and a checksum of each."""
  arrays = {
      name: f"{_form(x)} {zlib.crc32(x.tobytes()):08x}"
      for name, x in _named(state).items()
  }
  return {
      "format": _FORMAT,
      "arrays": arrays,
      "checksum": _checksum_of(arrays),
  }


def _named(tree):
  leaves = jax.tree.leaves_with_path(tree)
  return {jax.tree_util.keystr(path): x for path, x in leaves}


def _form(x):
  return f"{x.dtype}[{','.join(map(str, x.shape))}]"


def _checksum_of(arrays):
  return zlib.crc32(json.dumps(arrays, sort_keys=True).encode())


def _check_kind(about, like, path, *, partial):
  """Raises OtherModel if a checkpoint's arrays are not those expected."""
  if about["format"] != _FORMAT:
    raise OtherModel(
        f"{path} has format {about['format']}, but this version of jssl reads"
        f" format {_FORMAT}: use the version that wrote it, or give another"
        " --workdir."
    )
  saved = {k: v.rpartition(" ")[0] for k, v in about["arrays"].items()}
  expected = {name: _form(x) for name, x in _named(like).items()}
  if partial:
    saved = {name: saved[name] for name in saved.keys() & expected.keys()}
  wrong = sorted(dict.fromkeys(k for k, _ in saved.items() ^ expected.items()))
  if wrong:
    remedy = "Use the version that wrote it, or give another --workdir."
    if all(name.startswith(_OPTIMIZER) for name in wrong):
      remedy += " It can still be evaluated and exported."
    lines = "".join(
        f"\n  {name}: {saved.get(name, 'absent')} in the checkpoint, "
        f"{expected.get(name, 'absent')} now"
        for name in wrong[:_NAMED]
    )
    raise OtherModel(
        f"{path} belongs to another model, or another version of jssl:"
        f" {len(wrong)} arrays differ.{lines}\n{remedy}"
    )


def _reason(error):
  line = (str(error) or type(error).__name__).splitlines()[0]
  return textwrap.shorten(line, _LONGEST, placeholder=" ...")
