"""Evaluates a trained encoder.

python -m jssl.evaluate --workdir=runs/first
"""

import functools
import shlex

from absl import app, flags

from jssl import cli
from jssl.evals import evaluation, results

_EXAMPLE = "python -m jssl.evaluate --workdir=runs/first"

_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a run.")
_PROTOCOLS = flags.DEFINE_list(
    "protocols",
    None,
    f"Some of {', '.join(evaluation.PROTOCOLS)}. Without it:"
    f" {', '.join(evaluation.DEFAULT_PROTOCOLS)}, as far as they apply.",
)
_DATASET = flags.DEFINE_string(
    "dataset", None, "Another data set to evaluate on, as in a config."
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of TFDS's data sets.")
flags.adopt_module_key_flags(cli)


def main(argv: list[str]) -> None:
  """Runs the command."""
  del argv
  with cli.plain_errors():
    workdir = cli.required(_WORKDIR, example=_EXAMPLE)
    cli.use_compilation_cache()
    content = evaluation.evaluate(
        workdir,
        protocols=_PROTOCOLS.value,
        dataset=_DATASET.value,
        data_dir=_DATA_DIR.value,
    )
  print(results.markdown(content, intervals=False))
  print(
      f"The same, with 95% intervals, is in {workdir}/evaluation; python -m"
      f" jssl.report --workdir={shlex.quote(workdir)} adds it to the report"
  )


if __name__ == "__main__":
  parse = functools.partial(cli.parse, example=_EXAMPLE)
  app.run(main, flags_parser=parse)
