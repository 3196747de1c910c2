"""Measures jssl.

  python -m jssl.bench loop --config=FILE:DATASET
  python -m jssl.bench methods --dataset=digits --output=runs/methods
  python -m jssl.bench data --dataset=folder:PHOTOS --canvas=256
  python -m jssl.bench knn --queries=10000 --bank=50000 --dim=512 --k=200

`loop` trains for ten epochs as `python -m jssl.train` does and tells which
share of the time is spent outside the compiled step. `methods` trains every
method with several seeds and compares them in a table and a chart. `data` times
the stream of a set beside the bare decoder (without --dataset, of photographs
that it makes). `knn` times
the search for neighbours, and the grid of linear probes against one setting.
"""

import json
import pathlib
from typing import Any

from absl import app
from absl import flags
from ml_collections import config_flags

from jssl import cli
from jssl.benchmarks import data
from jssl.benchmarks import knn
from jssl.benchmarks import loop
from jssl.benchmarks import methods
from jssl.config import lookup
from jssl.methods import METHODS

_CONFIG = config_flags.DEFINE_config_file("config", None, cli.CONFIG_HELP)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS keeps its sets.")
_DATASET = flags.DEFINE_string(
    "dataset", None, "As in a config; or digits, of methods."
)
_METHODS = flags.DEFINE_list("methods", list(METHODS), "Names, in this order.")
_CONFIGS = flags.DEFINE_string("configs", "configs", "Folder of the configs.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Number of seeds, from 0.")
_OUTPUT = flags.DEFINE_string(
    "output", "runs/methods", "Folder of the table and the chart."
)
_NET = flags.DEFINE_string("net", None, "Name of the net; or the config's.")
_WIDTH = flags.DEFINE_integer("width", None, "Its width; or the config's.")
_EPOCHS = flags.DEFINE_float(
    "epochs",
    None,
    "Or 15 at most of a ResNet on digits, and otherwise the config's.",
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Or the config's.")
_CANVAS = flags.DEFINE_integer("canvas", 256, "Side of the square; 0: none.")
_WORKERS = flags.DEFINE_integer("workers", None, "As config.data.workers.")
_CACHE = flags.DEFINE_string("cache", None, "As config.data.cache.")
_QUERIES = flags.DEFINE_integer("queries", 10_000, "Features to classify.")
_BANK = flags.DEFINE_integer("bank", 50_000, "Labelled features.")
_DIM = flags.DEFINE_integer("dim", 512, "Size of a feature.")
_K = flags.DEFINE_integer("k", 200, "Neighbours that vote.")

_LOOP_EPOCHS = 10


def main(argv):
  measures = {"loop": _loop, "methods": _methods, "data": _data, "knn": _knn}
  with cli.plain_errors():
    name = lookup("the benchmark", argv[1] if argv[1:] else "", measures)
    cli.use_compilation_cache()
    result = measures[name]()
  print(json.dumps(result))


def _loop() -> dict[str, Any]:
  config = cli.required(_CONFIG)
  config.epochs = float(_LOOP_EPOCHS)
  if _DATA_DIR.value is not None:
    config.data.data_dir = _DATA_DIR.value
  return _shown(loop.measure(config))


def _data() -> dict[str, Any]:
  return _shown(
      data.measure(
          _DATASET.value,
          data_dir=_DATA_DIR.value,
          canvas=_CANVAS.value,
          batch_size=_BATCH_SIZE.value or 128,
          workers=_WORKERS.value,
          cache=_CACHE.value,
      )
  )


def _knn() -> dict[str, Any]:
  return _shown(
      knn.measure(
          queries=_QUERIES.value, bank=_BANK.value, dim=_DIM.value, k=_K.value
      )
  )


def _methods() -> dict[str, Any]:
  overrides = {
      "data.data_dir": _DATA_DIR.value,
      "net.name": _NET.value,
      "net.width": _WIDTH.value,
      "epochs": _EPOCHS.value,
      "batch_size": _BATCH_SIZE.value,
  }
  for name in _METHODS.value:
    lookup("a name of --methods", name, METHODS)
  if _SEEDS.value < 1:
    raise ValueError(f"--seeds is {_SEEDS.value}; expected 1 or more.")
  return methods.measure(
      _METHODS.value,
      _DATASET.value or "digits",
      configs=pathlib.Path(_CONFIGS.value),
      output=pathlib.Path(_OUTPUT.value),
      seeds=_SEEDS.value,
      overrides={k: v for k, v in overrides.items() if v is not None},
  )


def _shown(result: dict[str, Any]) -> dict[str, Any]:
  """Prints a row for each value."""
  width = max(map(len, result))
  for name, value in result.items():
    text = f"{value:.4g}" if isinstance(value, float) else value
    print(f"{name:{width}}  {text}")
  return result


if __name__ == "__main__":
  app.run(main, flags_parser=lambda argv: cli.parse(argv, words=1))
