"""Trains an encoder: `python -m jssl.train --config=... --workdir=...`."""

from absl import app
from absl import flags

from jssl import cli
from jssl import loop
from jssl import summary

_CONFIG = cli.define_config()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's folder. The same command resumes a run."
)


def main(argv):
  del argv
  with cli.plain_errors():
    config, workdir = cli.required(_CONFIG), cli.required(_WORKDIR)
    cli.join_processes()
    result = loop.train(config, workdir)
  if result is not None:
    print(summary.table(result))
    print(f"In {workdir}: summary.json, curves.png, metrics.jsonl, checkpoints")


if __name__ == "__main__":
  app.run(main, flags_parser=cli.parse)
