"""What may change in a config when its run is resumed, and what has changed."""

import json
import math
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from jssl.config import build

# The value of an entry in the config that lacks it, see `difference`.
_ABSENT = "(absent)"
# Entries that may change when a run is resumed: neither the model nor the order
# of the data depends on them.
_FREE = (
    "checkpoint.",
    "data.cache",
    "data.data_dir",
    "data.max_broken",
    "data.stream",
    "data.workers",
    "epochs",
    "eval.",
    "log.",
    "max_skipped",
    "net.attention",
    "optimizer.learning_rate",
    "optimizer.schedule.",
    "optimizer.weight_decay",
    "precision",
    "steps_per_dispatch",
)
# Entries among them that change how the parameters are trained.
_TRAINING = ("net.attention", "optimizer.", "precision")


def difference(old: ConfigDict, new: ConfigDict) -> list[tuple[str, Any, Any]]:
  """Returns (key, old value, new value) of every entry that differs.

  The value is "(absent)" in the config that lacks the entry.
  """
  old, new = _flat(old), _flat(new)
  return [
      (key, old.get(key, _ABSENT), new.get(key, _ABSENT))
      for key in sorted(old | new)
      if old.get(key, _ABSENT) != new.get(key, _ABSENT)
  ]


def check_same(old: ConfigDict, new: ConfigDict, workdir: str) -> None:
  """Refuses to resume a run with another model or order of the data.

  Args:
    old: The config that the run was trained with.
    new: The config to resume it with.
    workdir: The run's folder.

  Raises:
    ValueError: If an entry differs that must not.
  """
  refused = [x for x in difference(old, new) if not x[0].startswith(_FREE)]
  if not refused:
    return
  if all(key.startswith("resolved.") for key, _, _ in refused):
    before, now = (x.resolved.get("train_images") for x in (old, new))
    raise ValueError(
        f"{workdir} holds a run on other pictures: some were added, removed or"
        f" changed since then ({before} training images in the run, {now} now)."
        " Restore them to resume it, or give another --workdir."
    )
  # Which entries a config has depends on these names, and on the version.
  renamed = any(key.split(".")[-1] == "name" for key, _, _ in refused)
  if any(_ABSENT in change for change in refused) and not renamed:
    cause = "was made by another version of jssl, with other settings"
    remedy = (
        "Finish it with that version, or start a new run in another --workdir."
        " Its checkpoints can still be evaluated and exported."
    )
  else:
    cause = "holds a run with another model or order of the data"
    remedy = "Set them back to resume it, or give another --workdir."
  lines = "".join(
      f"  config.{key}: {before!r} in the run, {now!r} now\n"
      for key, before, now in refused
  )
  raise ValueError(f"{workdir} {cause}:\n{lines}{remedy}")


def check_steps(
    old: ConfigDict,
    new: ConfigDict,
    workdir: str,
    *,
    step: int,
    steps_per_epoch: int,
) -> None:
  """Refuses settings that the files of a finished run would not match.

  Args:
    old: The config that the run was trained with.
    new: The config to resume it with.
    workdir: The run's folder.
    step: Number of steps taken.
    steps_per_epoch: Number of steps per epoch.

  Raises:
    ValueError: If the new config asks for fewer steps, or changes how
      parameters are trained although no step remains.
  """
  total = round(new.epochs * steps_per_epoch)
  done = (
      f"{workdir} was trained for {step / steps_per_epoch:.6g} epochs"
      f" ({step} steps)"
  )
  if step > total:
    raise ValueError(
        f"{done}, but config.epochs={new.epochs:g} asks for only {total} steps."
        f" Give config.epochs={old.epochs:g} as before, more to train longer,"
        " or another --workdir for a shorter training."
    )
  if step < total:
    return
  done += f", which is all of config.epochs={new.epochs:g}"
  whole = round(old.epochs * steps_per_epoch)
  if step < whole:
    raise ValueError(
        f"{done}, but with schedules of {old.epochs:g} epochs ({whole} steps),"
        f" so no step would be taken with epochs {old.epochs:g} ->"
        f" {new.epochs:g}. Give config.epochs={old.epochs:g} as before to"
        " finish it, evaluate it as it is with python -m jssl.evaluate, or give"
        " another --workdir for a shorter training."
    )
  # Nobody can set back an entry that another version did not have.
  unused = [
      change
      for change in difference(old, new)
      if change[0].startswith(_TRAINING) and _ABSENT not in change
  ]
  if unused:
    raise ValueError(
        f"{done}, so no step would be taken with {_listed(unused)}. Set that"
        " back to evaluate the run as it is, raise config.epochs to train it"
        " further, or give another --workdir."
    )


def describe(
    old: ConfigDict, new: ConfigDict, *, step: int, steps_per_epoch: int
) -> list[str]:
  """Describes which settings changed, and the schedule with them.

  Args:
    old: The config that the run was trained with.
    new: The config to resume it with.
    step: Number of steps taken.
    steps_per_epoch: Number of steps per epoch.

  Returns:
    Lines for the log; none if nothing changed.
  """
  changed = difference(old, new)
  if not changed:
    return []
  lines = [f"changed since then: {_listed(changed)}"]
  if step == round(new.epochs * steps_per_epoch):
    return lines
  updates = step // new.accumulate_steps
  before, now = (
      float(build.schedule(x, steps_per_epoch=steps_per_epoch)(updates))
      for x in (old, new)
  )
  if not math.isclose(before, now, rel_tol=1e-3, abs_tol=1e-12):
    lines.append(
        f"the schedule now runs over {new.epochs:g} epochs: at step {step} the"
        f" learning rate is {now:.3g} instead of {before:.3g}"
    )
  return lines


def _listed(changed):
  """Lists changes: "epochs 6 -> 7, learning rate 0.03 -> 0.01"."""
  short = lambda x: f"{x:g}" if isinstance(x, float) else str(x)
  words = lambda key: key.removeprefix("optimizer.").replace(".", " ")
  return ", ".join(
      f"{words(key).replace('_', ' ')} {short(before)} -> {short(now)}"
      for key, before, now in changed
  )


def _flat(config):
  """Returns `{"a.b": value}`, values as in JSON."""
  return flatten_dict(json.loads(json.dumps(config.to_dict())), sep=".")
