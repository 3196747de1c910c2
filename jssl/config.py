"""Configs: the settings of a run, as data.

A file in `configs/` is a table of settings on top of `base(dataset)`. Every
section with a `name` describes one object: the name picks a constructor from a
table, the other entries are its keyword arguments (see `jssl.build`).
"""

from collections.abc import Callable, Iterable, Mapping
import difflib
import functools
import json
import operator
import pathlib
import runpy
from typing import Any

from ml_collections import ConfigDict

from jssl.files import write_json

# The value of an entry in the config that lacks it, see `difference`.
ABSENT = "(absent)"
# For a short run on a CPU.
_EMBEDDED = {
    "epochs": 50.0,
    "net": {"name": "resnet8", "width": 32},
    "eval": {"k": 20},
    "checkpoint": {"every_epochs": 10.0},
}
_PER_DATASET = {
    # Once per epoch.
    "digits": {"log": {"every_steps": 11}},
    "photos": {"log": {"every_steps": 6}},
    "imagenet2012": {"net": {"name": "resnet50"}},
}


def base(dataset: str) -> ConfigDict:
  """Returns the settings that all methods share, for a data set.

  Args:
    dataset: "digits", "photos", a TFDS name such as "cifar10" or
      "imagenet2012", or "folder:PATH".

  Returns:
    A config that lacks the method, the augmentation and the optimizer.
  """
  # Not at the top: jssl.data is slow to import, and no loss needs it.
  from jssl.data.datasets import facts, set_name

  known = facts(dataset)
  config = ConfigDict({
      "seed": 0,
      "epochs": 200.0,
      # Images per step, over all devices.
      "batch_size": known.batch_size,
      # Steps whose gradients are averaged into one update. A loss that compares
      # images sees those of one step; net.micro_batches saves memory, too, but
      # lets it see the whole batch.
      "accumulate_steps": 1,
      # Training ends after this many steps in a row whose loss or gradient is
      # not finite; such steps change nothing.
      "max_skipped": 20,
      # Height and width of the net's images.
      "image_size": known.image_size,
      # Type of the computation: "float32", "bfloat16" or "auto" (bfloat16 on
      # TPU and GPU, float32 on CPU).
      "precision": "auto",
      # Largest number of steps per compiled call; 0 means 1 on CPU, and 20 on
      # TPU and GPU.
      "steps_per_dispatch": 0,
      "data": {
          "name": dataset,
          # Folder of TFDS's data sets; empty for its default.
          "data_dir": "",
          "train": "train",
          "test": "test",
          # Side of the square on which pictures of different sizes are placed;
          # longer sides are shrunk to it. 0 if all pictures have one size.
          "canvas": known.canvas,
          # "never" keeps all images on the device, "always" decodes them when
          # they are needed, "auto" does so if they do not fit.
          "stream": "auto",
          # If streamed: number of processes that decode; 0 for threads, -1 to
          # choose.
          "workers": -1,
          # If streamed: a folder that keeps decoded images; empty for none.
          "cache": "",
          # Largest fraction of damaged pictures that is tolerated.
          "max_broken": 0.1,
      },
      "net": {
          "name": "resnet18",
          # "imagenet" for large images, "cifar" for small ones.
          "stem": "imagenet" if known.image_size > 64 else "cifar",
          "width": 64,
          "mean": known.mean,
          "std": known.std,
          # Whether each residual block starts as the identity.
          "zero_init_residual": False,
          # Groups of the global batch with BatchNorm statistics of their own.
          "groups": 1,
          # Entries of vision transformers: the side of a patch,
          "patch_size": min(known.image_size // 8, 16),
          # attention heads, 0 for the net's own number,
          "heads": 0,
          # "learned", "sincos" or "relative",
          "positions": "learned",
          # pooled: the class "token", or "mean" or "patches" (see
          # `jssl.nets.ViT`),
          "pooling": "token",
          # the method whose code the initial weights follow.
          "weight_init": "dino",
          # Parts of a device's batch that the net computes in turn, to save
          # memory (see `jssl.nets.MicroBatched`).
          "micro_batches": 1,
      },
      "log": {"every_steps": 50},
      "eval": {
          "every_epochs": 10.0,
          # Neighbours and temperature of kNN.
          "k": 200,
          "temperature": 0.1,
          # Side of the central crop that is encoded, relative to the picture's
          # shorter side.
          "crop_fraction": known.crop_fraction,
          # Largest number of images that are used of a streamed split.
          "max_images": 10_000,
      },
      # The newest checkpoints are kept.
      "checkpoint": {"every_epochs": 5.0, "keep": 2},
  })
  if known.embedded:
    config.update(_EMBEDDED)
  config.update(_PER_DATASET.get(set_name(dataset), {}))
  return config


def from_table(
    settings: Mapping[str, Mapping[str, Any]],
    *,
    default: str = "digits",
    start: Callable[[str], ConfigDict] = base,
) -> Callable[[str], ConfigDict]:
  """Makes the `get_config` of a config file from a table of settings.

  Args:
    settings: A dict from data set to its settings, which are applied after
      those of the row "default", which is for all sets. Keys are those of
      `--config.KEY=VALUE`, such as "method.dim"; a dict replaces a whole
      section, None removes the entry.
    default: The data set if none is named.
    start: Returns the config that the settings are applied to.

  Returns:
    `get_config(dataset)`, see `base`.

  Example:
    >>> get_config = from_table({
    ...     "default": {"epochs": 100.0, "net.width": 32},
    ...     "cifar10": {"epochs": 200.0},
    ... })
    >>> get_config("cifar10:3.0.2").epochs, get_config("folder:photos").epochs
    (200.0, 100.0)
  """

  def get_config(dataset: str = default) -> ConfigDict:
    from jssl.data.datasets import facts, set_name

    config = start(dataset)
    row = facts(dataset).like or set_name(dataset)
    for name in ("default", row):
      _apply(config, settings.get(name, {}))
    return config

  return get_config


def sgd(
    *,
    learning_rate: float,
    weight_decay: float,
    reference_batch_size: int = 128,
    warmup_epochs: float = 0.0,
    nesterov: bool = False,
) -> dict[str, Any]:
  """Returns an optimizer section: SGD with momentum 0.9, cosine schedule.

  Args:
    learning_rate: The peak, for batches of `reference_batch_size`.
    weight_decay: See `jssl.optim.sgd`.
    reference_batch_size: The learning rate is scaled in proportion to the batch
      size; 0 to use it as it is.
    warmup_epochs: Epochs of linear warm-up.
    nesterov: See `jssl.optim.sgd`.
  """
  return _optimizer(
      "sgd",
      learning_rate,
      weight_decay,
      reference_batch_size,
      warmup_epochs,
      momentum=0.9,
      nesterov=nesterov,
  )


def lars(
    *,
    learning_rate: float,
    weight_decay: float,
    reference_batch_size: int = 256,
    warmup_epochs: float = 0.0,
    end: float = 0.0,
) -> dict[str, Any]:
  """Returns an optimizer section: LARS, cosine schedule from peak to `end`."""
  return _optimizer(
      "lars",
      learning_rate,
      weight_decay,
      reference_batch_size,
      warmup_epochs,
      end,
      momentum=0.9,
      vector_scale=1.0,
  )


def adamw(
    *,
    learning_rate: float,
    weight_decay: float | dict[str, Any],
    reference_batch_size: int = 256,
    warmup_epochs: float = 0.0,
    end: float = 0.0,
    clip_norm: float = 0.0,
) -> dict[str, Any]:
  """Returns an optimizer section: AdamW, cosine schedule from peak to `end`."""
  return _optimizer(
      "adamw",
      learning_rate,
      weight_decay,
      reference_batch_size,
      warmup_epochs,
      end,
      clip_norm,
      exclude_vectors=True,
  )


def staircase(
    *,
    drops: tuple[float, ...],
    factor: float = 0.1,
    warmup_epochs: float = 0.0,
) -> dict[str, Any]:
  """Returns a schedule section: see `jssl.optim.staircase`."""
  return {
      "name": "staircase",
      "drops": drops,
      "factor": factor,
      "warmup_epochs": warmup_epochs,
  }


def byol_views(
    *,
    scale: tuple[float, float],
    method: str = "bicubic",
    operations: str = "torchvision",
    blur: bool = True,
) -> dict[str, Any]:
  """Returns the sections of BYOL's two views, see `jssl.augment.byol`.

  Args:
    scale: Range of the crop's area, relative to the picture's.
    method: How crops are resized, "bilinear" or "bicubic".
    operations: Image library to follow: "torchvision", "simclr" or "byol".
    blur: Whether to blur; usually not for CIFAR.
  """
  view = {
      "name": "byol",
      "scale": scale,
      "method": method,
      "operations": operations,
  }
  first = {"blur_probability": 1.0, "solarize_probability": 0.0}
  second = {"blur_probability": 0.1, "solarize_probability": 0.2}
  if not blur:
    first["blur_probability"] = second["blur_probability"] = 0.0
  return {
      "augment": {**view, **first},
      "second_augment": {**view, **second},
  }


def crop_and_flip(
    *,
    scale: tuple[float, float],
    method: str = "bilinear",
    flip_probability: float = 0.5,
) -> dict[str, Any]:
  """Returns a view section: see `jssl.augment.crop_and_flip`."""
  return {
      "name": "crop_and_flip",
      "scale": scale,
      "method": method,
      "flip_probability": flip_probability,
  }


def moco_view(
    *, scale: tuple[float, float] = (0.2, 1.0), blur_probability: float = 0.5
) -> dict[str, Any]:
  """Returns a view section: see `jssl.augment.moco_v2`."""
  return {
      "name": "moco_v2",
      "scale": scale,
      "blur_probability": blur_probability,
      "method": "bilinear",
  }


def simclr_view(
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    strength: float = 1.0,
    blur_probability: float = 0.5,
    method: str = "bilinear",
    operations: str = "torchvision",
) -> dict[str, Any]:
  """Returns a view section: see `jssl.augment.simclr`."""
  return {
      "name": "simclr",
      "scale": scale,
      "strength": strength,
      "blur_probability": blur_probability,
      "method": method,
      "operations": operations,
  }


def config_files(
    configs: pathlib.Path | None = None,
) -> dict[str, pathlib.Path]:
  """Returns config files by name, usually that of a method.

  Args:
    configs: Their folder; None for jssl's own configs, and `configs` in the
      working directory, whose files take precedence.
  """
  package = pathlib.Path(__file__).parent
  # As installed, and in a checkout.
  own = package / "configs"
  own = own if own.is_dir() else package.parent / "configs"
  return {  # The last one wins.
      path.stem: path
      for folder in ([configs] if configs else [own, pathlib.Path("configs")])
      for path in sorted(folder.glob("*.py"))
  }


def of_method(
    method: str, dataset: str, *, configs: pathlib.Path | None = None
) -> ConfigDict:
  """Returns the config of a method for a data set, from the file of its name.

  Args:
    method: Name of the file, such as "moco_v2".
    dataset: See `base`.
    configs: The folder of config files; None as for `files`.

  Raises:
    ValueError: If there is no such file.
    FileNotFoundError: If the folder contains none.

  Example:
    >>> config = of_method("moco_v2", "digits")
    >>> config.net.name, config.batch_size
    ('resnet8', 128)
  """
  known = config_files(configs)
  if not known:
    raise FileNotFoundError(
        f"{configs} contains no configs; give their folder."
    )
  path = known[lookup("The config", method, known)]
  return runpy.run_path(str(path))["get_config"](dataset)


def lookup(where: str, name: str, table: Iterable[str]) -> str:
  """Returns the name if the table has it.

  Args:
    where: What the name is, for the message.
    name: The name.
    table: All valid names.

  Raises:
    ValueError: If not, with the closest valid names.
  """
  table = list(table)
  if name in table:
    return name
  near = difflib.get_close_matches(str(name), table, n=3)
  hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
  raise ValueError(
      f"{where} is {name!r}; expected one of {', '.join(sorted(table))}.{hint}"
  )


def difference(old: ConfigDict, new: ConfigDict) -> list[tuple[str, Any, Any]]:
  """Returns (key, old value, new value) of every entry that differs.

  The value is `ABSENT` in the config that lacks the entry.
  """
  old, new = _flat(old), _flat(new)
  return [
      (key, old.get(key, ABSENT), new.get(key, ABSENT))
      for key in sorted(old | new)
      if old.get(key, ABSENT) != new.get(key, ABSENT)
  ]


def save_config(config: ConfigDict, workdir: str) -> None:
  """Writes `WORKDIR/config.json` atomically."""
  write_json(config.to_dict(), pathlib.Path(workdir) / "config.json")


def load_config(workdir: str) -> ConfigDict:
  """Reads `WORKDIR/config.json`.

  Raises:
    FileNotFoundError: If there is none.
  """
  path = pathlib.Path(workdir) / "config.json"
  if not path.exists():
    raise FileNotFoundError(
        f"{path} does not exist, so {workdir} is not the folder of a run;"
        " expected the --workdir of python -m jssl.train."
    )
  content = json.loads(path.read_text())
  section = content.get("optimizer", {})
  if "vector_rate" in section:  # Its former name.
    section["vector_scale"] = section.pop("vector_rate")
  return ConfigDict(content)


def _apply(config, settings):
  """Sets entries by their dotted keys, in order; None removes one."""
  for key, value in settings.items():
    *sections, last = key.split(".")
    section = functools.reduce(operator.getitem, sections, config)
    if value is None:
      del section[last]
    else:
      section[last] = value


def _optimizer(
    name,
    learning_rate,
    weight_decay,
    reference_batch_size,
    warmup_epochs,
    end=0.0,
    clip_norm=0.0,
    **more,
):
  return {
      "name": name,
      "learning_rate": learning_rate,
      # The learning rate is for batches of this size, and scaled in proportion
      # to the batch size; 0 to use it as it is.
      "reference_batch_size": reference_batch_size,
      "weight_decay": weight_decay,
      # Largest gradient norm, 0 for no limit: of all parameters together, or
      # with clip_per_parameter of each.
      "clip_norm": clip_norm,
      "clip_per_parameter": False,
      "schedule": {
          "name": "cosine",
          "warmup_epochs": float(warmup_epochs),
          # Unlike the peak, start and end do not depend on the batch size.
          "start": 0.0,
          "end": end,
      },
      **more,
  }


def _flat(config, prefix=""):
  """Returns `{"a.b": value}`, values as in JSON."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, ConfigDict):
      flat.update(_flat(value, f"{prefix}{key}."))
    else:
      flat[prefix + key] = json.loads(json.dumps(value))
  return flat
