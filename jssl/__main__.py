"""Tells what jssl can do: `python -m jssl`."""

import textwrap

from jssl import config

_TEXT = """\
jssl trains image encoders without labels.

  python -m jssl.train --config=moco_v2:digits --workdir=runs/first
      trains one and judges it; the same command resumes
  python -m jssl.evaluate --workdir=runs/first
      judges it further: kNN, linear probes, few labels, fine-tuning
  python -m jssl.embed --workdir=runs/first --dataset=folder:PHOTOS \\
      --output=photos.npz
      writes features of pictures; finds neighbours and duplicates
  python -m jssl.report --workdir=runs/first
      makes report.html again, or compares several runs
  python -m jssl.export --workdir=runs/first --output=encoder.safetensors
      writes the encoder for other programs
  python -m jssl.bench step
      measures speed and memory, or compares methods

--help after a command lists its flags. --config=METHOD:DATASET, where

{methods}
  DATASET  digits or photos (embedded), folder:PATH (pictures of your own), or a
           name of TensorFlow Datasets, such as cifar10 or imagenet2012
"""


def main() -> None:
  """Prints it."""
  methods = textwrap.fill(
      ", ".join(sorted(config.files())),
      initial_indent="  METHOD   ",
      subsequent_indent=" " * 11,
      width=80,
  )
  print(_TEXT.format(methods=methods), end="")


if __name__ == "__main__":
  main()
