"""Measures jssl.

  python -m jssl.bench step --method=simclr --net=resnet18 --image_size=32
  python -m jssl.bench augment --method=simclr --image_size=32
  python -m jssl.bench data --dataset=folder:PHOTOS --canvas=512
  python -m jssl.bench knn --queries=10000 --bank=50000 --dim=512 --k=200
  python -m jssl.bench loop --config=FILE:DATASET
  python -m jssl.bench methods --dataset=digits --output=runs/methods
  python -m jssl.bench compile --device=v5e --config=mae:imagenet2012

`step` times the compiled train step on random images and shows how close it
comes to the limits of the device; `augment` times the views alone. `data` times
the stream of a data set against the bare decoder (without --dataset, that of
generated photographs), and measures how much detail is left in views that are
cut from --canvas. `knn` times kNN, and compares the grid of linear probes with
one setting. `loop` trains for ten epochs as `python -m jssl.train` does and
shows the fraction of the time spent outside the compiled step. `methods` trains
every method with several seeds and compares them in a table and a chart.
`compile` compiles a train step for a TPU or GPU, which need not be there, and
shows its memory and, for a TPU, the time that the compiler estimates; with
--methods it prints a table, by default of their configs for ImageNet, and
--largest looks for the largest batch that fits.

The last line of the output is a JSON object.
"""

import contextlib
import json
import pathlib
from typing import Any

from absl import app, flags
import jax
from ml_collections import config_flags

from jssl import cli, nets
from jssl.bench import augment, compile, data, knn, loop, methods, step
from jssl.bench._timing import show
from jssl.config import ConfigDict, lookup, of_method
from jssl.data.datasets import CANVAS
from jssl.methods import METHODS

_CONFIG = config_flags.DEFINE_config_file("config", None, cli.CONFIG_HELP)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of TFDS's data sets.")
_DATASET = flags.DEFINE_string(
    "dataset",
    None,
    "Data set, for data, methods and compile --methods; by default digits for"
    " methods and imagenet2012 for compile.",
)
_METHODS = flags.DEFINE_list(
    "methods", list(METHODS), "Methods to compare, in this order."
)
_METHOD = flags.DEFINE_string(
    "method", "simclr", "Method, for step and augment."
)
_CONFIGS = flags.DEFINE_string(
    "configs", None, "Folder of the configs; jssl's by default."
)
_DEVICE = flags.DEFINE_string(
    "device", "v5e", f"Device to compile for: {', '.join(compile.DEVICES)}."
)
_DEVICES = flags.DEFINE_integer(
    "devices", 1, "Number of devices to compile for.", lower_bound=1
)
_LARGEST = flags.DEFINE_bool(
    "largest", False, "Whether compile looks for the largest batch that fits."
)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Number of seeds, from 0.")
_OUTPUT = flags.DEFINE_string(
    "output", "runs/methods", "Folder of the table and the chart."
)
_NET = flags.DEFINE_enum(
    "net", None, sorted(nets.NETS), "Backbone; the config's by default."
)
_WIDTH = flags.DEFINE_integer(
    "width", None, "Width of the net; the config's by default.", lower_bound=1
)
_EPOCHS = flags.DEFINE_float(
    "epochs",
    None,
    "Epochs; the config's by default, at most 15 for a ResNet on digits.",
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "Side of the net's images; the config's by default."
)
_PRECISION = flags.DEFINE_enum(
    "precision",
    None,
    ["auto", "float32", "bfloat16"],
    "Type of the computation; the config's by default.",
)
_MICRO_BATCHES = flags.DEFINE_integer(
    "micro_batches", None, "As config.net.micro_batches.", lower_bound=1
)
_STEPS_PER_DISPATCH = flags.DEFINE_integer(
    "steps_per_dispatch", None, "As in a config.", lower_bound=0
)
_PROFILE = flags.DEFINE_string(
    "profile", None, "Folder for a trace, to open in XProf."
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    None,
    "Images per step; the config's by default, 128 for data.",
    lower_bound=1,
)
_CANVAS = flags.DEFINE_integer(
    "canvas",
    None,
    "As config.data.canvas, 0 for none; the config's by default,"
    f" {CANVAS} for data.",
    lower_bound=0,
)
_WORKERS = flags.DEFINE_integer(
    "workers", -1, "As config.data.workers.", lower_bound=-1
)
_CACHE = flags.DEFINE_string("cache", None, "As config.data.cache.")
_QUERIES = flags.DEFINE_integer(
    "queries", 10_000, "Number of queries, for knn."
)
_BANK = flags.DEFINE_integer(
    "bank", 50_000, "Number of labelled features, for knn."
)
_DIM = flags.DEFINE_integer("dim", 512, "Length of a feature, for knn.")
_K = flags.DEFINE_integer("k", 200, "Number of neighbours, for knn.")

_EXAMPLE = "python -m jssl.bench loop --config=moco_v2:digits"
_LOOP_EPOCHS = 10.0
_SMALL = 64  # Images up to this size are like CIFAR's.


def main(argv: list[str]) -> None:
  """Runs the command."""
  measures = {
      "step": lambda: step.measure(_random_config(), profile=_PROFILE.value),
      "augment": lambda: augment.measure(_random_config()),
      "data": _data,
      "knn": lambda: knn.measure(
          queries=_QUERIES.value, bank=_BANK.value, dim=_DIM.value, k=_K.value
      ),
      "loop": _loop,
      "methods": _methods,
      "compile": _compile,
  }
  with cli.plain_errors():
    if not argv[1:]:
      raise ValueError(
          f"give one of {', '.join(measures)}, as in python -m jssl.bench step;"
          " --help describes them."
      )
    name = lookup("the benchmark", argv[1], measures)
    if name == "compile":  # Before JAX looks for devices.
      jax.config.update("jax_platforms", "cpu")
    cli.use_compilation_cache()
    with contextlib.ExitStack() as stack:
      if _PROFILE.value and name != "step":  # It traces one window by itself.
        stack.enter_context(jax.profiler.trace(_PROFILE.value))
      result = measures[name]()
    if isinstance(result, list) or name == "methods":  # A table is printed.
      print(json.dumps(result))
    else:
      show(result)


def _random_config() -> ConfigDict:
  """The config of a step on random images: CIFAR's, or ImageNet's if large."""
  config = _CONFIG.value
  if config is None:
    lookup("--method", _METHOD.value, METHODS)
    small = (_IMAGE_SIZE.value or 32) <= _SMALL
    dataset = "cifar10" if small else "imagenet2012"
    config = of_method(_METHOD.value, dataset, configs=_configs())
  overrides = _overrides()
  if _CANVAS.value is not None:
    overrides["data.canvas"] = _CANVAS.value
  elif _IMAGE_SIZE.value is not None and config.data.canvas:
    ratio = config.data.canvas / config.image_size
    overrides["data.canvas"] = round(ratio * _IMAGE_SIZE.value)
  config.update_from_flattened_dict(overrides)
  return config


def _configs() -> pathlib.Path | None:
  return pathlib.Path(_CONFIGS.value) if _CONFIGS.value else None


def _overrides() -> dict[str, Any]:
  """The entries of a config that are set by flags."""
  overrides = {
      "data.data_dir": _DATA_DIR.value,
      "net.name": _NET.value,
      "net.width": _WIDTH.value,
      "net.micro_batches": _MICRO_BATCHES.value,
      "epochs": _EPOCHS.value,
      "batch_size": _BATCH_SIZE.value,
      "image_size": _IMAGE_SIZE.value,
      "precision": _PRECISION.value,
      "steps_per_dispatch": _STEPS_PER_DISPATCH.value,
  }
  return {k: v for k, v in overrides.items() if v is not None}


def _loop() -> dict[str, Any]:
  config = cli.required(_CONFIG, example=_EXAMPLE)
  config.epochs = _LOOP_EPOCHS
  if _DATA_DIR.value is not None:
    config.data.data_dir = _DATA_DIR.value
  return loop.measure(config)


def _data() -> dict[str, Any]:
  return data.measure(
      _DATASET.value,
      data_dir=_DATA_DIR.value,
      canvas=CANVAS if _CANVAS.value is None else _CANVAS.value,
      image_size=_IMAGE_SIZE.value or 224,
      batch_size=_BATCH_SIZE.value or 128,
      workers=_WORKERS.value,
      cache=_CACHE.value,
  )


def _methods() -> dict[str, Any]:
  for name in _METHODS.value:
    lookup("a name of --methods", name, METHODS)
  if _SEEDS.value < 1:
    raise ValueError(f"--seeds is {_SEEDS.value}; expected 1 or more.")
  return methods.measure(
      _METHODS.value,
      _DATASET.value or "digits",
      configs=_configs(),
      output=pathlib.Path(_OUTPUT.value),
      seeds=_SEEDS.value,
      overrides=_overrides(),
  )


def _compile() -> dict[str, Any] | list[dict[str, Any]]:
  device, devices = _DEVICE.value, _DEVICES.value
  if not flags.FLAGS["methods"].present:
    measure = compile.measure_largest if _LARGEST.value else compile.measure
    return measure(_random_config(), device=device, devices=devices)
  dataset = _DATASET.value or "imagenet2012"
  configs = []
  for name in _METHODS.value:
    configs.append(of_method(name, dataset, configs=_configs()))
    configs[-1].update_from_flattened_dict(_overrides())
  return compile.table(
      configs, device=device, devices=devices, largest=_LARGEST.value
  )


if __name__ == "__main__":
  app.run(main, flags_parser=lambda argv: cli.parse(argv, words=1))
