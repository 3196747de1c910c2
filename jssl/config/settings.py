"""The settings of a run: their defaults, config files and `config.json`."""

from collections.abc import Callable, Mapping
import functools
import json
import operator
import pathlib
import runpy
from typing import Any

from ml_collections import ConfigDict

from jssl.config.build import lookup
from jssl.files import write_json

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
    # As published, though the images used of a streamed set are few per class.
    "imagenet2012": {"net": {"name": "resnet50"}, "eval": {"k": 200}},
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
          # the method whose code the initial weights follow,
          "weight_init": "dino",
          # "auto", "einsum", "cudnn" or "pallas" (see
          # `jssl.nets.attention.attend`).
          "attention": "auto",
          # Parts of a device's batch that the net computes in turn, to save
          # memory (see `jssl.nets.MicroBatched`).
          "micro_batches": 1,
      },
      "log": {"every_steps": 50},
      "eval": {
          "every_epochs": 10.0,
          # Neighbours of kNN; 0 for 200, or as many as the smallest class has
          # training images if that is less.
          "k": 0,
          # Temperature of their votes.
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
      for key, value in settings.get(name, {}).items():
        *sections, last = key.split(".")
        section = functools.reduce(operator.getitem, sections, config)
        if value is None:
          del section[last]
        else:
          section[last] = value
    return config

  return get_config


def config_files(
    configs: pathlib.Path | None = None,
) -> dict[str, pathlib.Path]:
  """Returns config files by name, usually that of a method.

  Args:
    configs: Their folder; None for jssl's own configs, and `configs` in the
      working directory, whose files take precedence.
  """
  package = pathlib.Path(__file__).parents[1]
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
    configs: The folder of config files; None as for `config_files`.

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
