"""The commands of jssl: `python -m jssl`, or `jssl` where it is installed."""

import difflib
import runpy
import sys
import textwrap

from jssl import __version__, config

_COMMANDS = ("train", "evaluate", "embed", "report", "export", "bench")
_TEXT = """\
jssl trains image encoders without labels.

  python -m jssl.train --config=moco_v2:digits --workdir=runs/first
      trains and evaluates an encoder; the same command resumes
  python -m jssl.evaluate --workdir=runs/first
      evaluates it further: kNN, linear probes, few labels, fine-tuning
  python -m jssl.embed --workdir=runs/first --dataset=folder:PHOTOS \\
      --output=photos.npz
      computes features of pictures; finds neighbours and duplicates
  python -m jssl.report --workdir=runs/first
      writes report.html again, or compares several runs
  python -m jssl.export --workdir=runs/first --output=encoder.safetensors
      exports the encoder for other programs
  python -m jssl.bench step
      measures speed and memory, or compares methods

jssl train ... and python -m jssl train ... are the same as python -m jssl.train
... --help after a command lists its flags; jssl --version prints the version.

--config=METHOD:DATASET, where

{methods}
  DATASET  digits or photos (embedded), folder:PATH (your own pictures), or a
           TensorFlow Datasets name, such as cifar10 or imagenet2012
"""


def main() -> None:
  """Runs the command that the first argument names, or lists all of them."""
  name, *rest = sys.argv[1:] or ["--help"]
  if name in ("--help", "-h", "-help", "help") and not rest:
    print(_help(), end="")
  elif name in ("--version", "-version"):
    print(f"jssl {__version__}")
  elif name in _COMMANDS:
    sys.argv = [f"jssl {name}", *rest]
    # Runs as under `python -m`, also in worker processes that decode pictures.
    runpy.run_module(f"jssl.{name}", run_name="__main__", alter_sys=True)
  else:
    near = difflib.get_close_matches(name, _COMMANDS, n=1) or _COMMANDS
    sys.exit(
        f"jssl: there is no command {name!r}. Did you mean {' or '.join(near)}?"
        " python -m jssl describes all commands."
    )


def _help() -> str:
  methods = textwrap.fill(
      ", ".join(sorted(config.config_files())),
      initial_indent="  METHOD   ",
      subsequent_indent=" " * 11,
      width=80,
  )
  return _TEXT.format(methods=methods)


if __name__ == "__main__":
  main()
