"""Writes the report of a run, or a comparison of runs.

python -m jssl.report --workdir=RUN
python -m jssl.report --workdir=RUN --workdir=OTHER --output=comparison.html
"""

import pathlib

from absl import app, flags

from jssl import cli, files, report

_WORKDIRS = flags.DEFINE_multi_string(
    "workdir", [], "A run's folder; give several to compare them."
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "The file to write; by default report.html in the run's folder, or"
    " comparison.html in that of the first of several runs.",
)
flags.adopt_module_key_flags(cli)


def main(argv: list[str]) -> None:
  """Runs the command."""
  del argv
  with cli.plain_errors():
    print(f"Wrote {_write(_WORKDIRS.value)}")


def _write(workdirs: list[str]) -> pathlib.Path:
  if not workdirs:
    raise ValueError(
        "--workdir is missing: the folder of a run, for example"
        " python -m jssl.report --workdir=runs/first"
    )
  several = len(workdirs) > 1
  name = "comparison.html" if several else "report.html"
  output = pathlib.Path(_OUTPUT.value or pathlib.Path(workdirs[0]) / name)
  if _OUTPUT.value and not output.parent.is_dir():
    raise FileNotFoundError(
        f"--output is {output}, but there is no folder {output.parent}: create"
        " it, or choose another."
    )
  if output.parent.is_dir():  # Otherwise there is no run: an error below.
    files.check_writable(output)
  if several:
    report.write_comparison([report.read(x) for x in workdirs], output)
  else:
    report.write(report.load(workdirs[0]), output)
  return output


if __name__ == "__main__":
  app.run(main, flags_parser=cli.parse)
