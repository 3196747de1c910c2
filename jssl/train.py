"""Trains an encoder, or resumes its training.

python -m jssl.train --config=moco_v2:digits --workdir=runs/first

python -m jssl lists the methods and data sets.
"""

import os
import sys

from absl import app, flags
from ml_collections import config_flags

from jssl import cli, loop
from jssl.config import load_config
from jssl.evals import summary
from jssl.report import conclusions

_CONFIG = config_flags.DEFINE_config_file("config", None, cli.CONFIG_HELP)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's folder. The same command resumes a run."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of TFDS's data sets; or config.data.data_dir."
)
flags.adopt_module_key_flags(cli)


def main(argv: list[str]) -> None:
  """Runs the command."""
  del argv
  with cli.plain_errors(interrupted="interrupted; the checkpoints are intact"):
    config, workdir = cli.required(_CONFIG), cli.required(_WORKDIR)
    if _DATA_DIR.value is not None:
      config.data.data_dir = _DATA_DIR.value
    cli.join_processes()
    cli.use_compilation_cache()
    result = loop.train(config, workdir)
  if result is None:
    # Not a failure: the same command resumes.
    sys.exit(os.EX_TEMPFAIL)
  if result:
    print(summary.table(result))
    classes = len(load_config(workdir).resolved.classes)
    print(conclusions.finished(result, classes=classes))
    names = (
        "report.html",
        "summary.json",
        "curves.png",
        "reconstructions.png",
    )
    made = [name for name in names if os.path.exists(f"{workdir}/{name}")]
    print(f"In {workdir}: {', '.join(made)}, metrics.jsonl, checkpoints")


if __name__ == "__main__":
  app.run(main, flags_parser=cli.parse)
