"""Writes a run's encoder to a file for other programs.

python -m jssl.export --workdir=runs/first --output=encoder.safetensors
python -m jssl.export --workdir=runs/first --output=encoder.stablehlo
"""

import pathlib

from absl import app, flags

from jssl import cli, files
from jssl.encoder import load
from jssl.export import arrays, program

_EXAMPLE = (
    "python -m jssl.export --workdir=runs/first --output=encoder.stablehlo"
)
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a trained run.")
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "The file to write: .safetensors (the backbone's arrays) or .stablehlo (a"
    " program that runs without this library).",
)
_IMAGES = flags.DEFINE_string(
    "images", "uint8", "Input of a .stablehlo: uint8, or float32 in [0, 1]."
)
_STAGE = flags.DEFINE_string(
    "stage", "pooled", "Output of a .stablehlo: pooled, or a stage, averaged."
)
flags.adopt_module_key_flags(cli)

_SUFFIXES = (".safetensors", ".stablehlo")


def main(argv: list[str]) -> None:
  """Runs the command."""
  del argv
  with cli.plain_errors():
    workdir, output = (
        cli.required(flag, example=_EXAMPLE) for flag in (_WORKDIR, _OUTPUT)
    )
    output = pathlib.Path(output)
    if output.suffix not in _SUFFIXES:
      raise ValueError(
          f"--output={output} ends in {output.suffix or 'no suffix'!r};"
          f" expected one of {', '.join(_SUFFIXES)}."
      )
    files.check_writable(output)
    encoder = load(workdir)
    if output.suffix == ".safetensors":
      arrays.save_safetensors(encoder, output)
    else:
      program.save_stablehlo(
          encoder, output, images=_IMAGES.value, stage=_STAGE.value
      )
  print(f"{output}: {output.stat().st_size / 2**20:,.1f} MiB")


if __name__ == "__main__":
  app.run(main, flags_parser=lambda argv: cli.parse(argv, example=_EXAMPLE))
