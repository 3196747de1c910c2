r"""Encodes many pictures, and finds neighbours and near-duplicates.

  python -m jssl.embed --workdir=runs/mine --dataset=folder:photos \
    --output=photos.npz --neighbours=QUERY.jpg --duplicates=0.999

The same command resumes after an interruption, and reuses a complete file.
"""

import pathlib

from absl import app, flags

from jssl import cli, encoder
from jssl.embed import compute, formats, search

_EXAMPLE = (
    "python -m jssl.embed --workdir=runs/first --dataset=folder:PHOTOS"
    " --output=photos.npz"
)
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a trained run.")
_DATASET = flags.DEFINE_string(
    "dataset", None, "folder:PATH, digits, or a TFDS name such as cifar10."
)
_SPLIT = flags.DEFINE_string(
    "split", None, "The split; by default all of a folder, 'train' of others."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "The file to write: .npz, .npy or .parquet."
)
_STAGE = flags.DEFINE_string(
    "stage", "pooled", "pooled, or a stage of the net (its map is averaged)."
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Pictures per batch; by default the run's, 256 at most."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of TFDS's data sets; by default that of the run."
)
_CONVERT = flags.DEFINE_bool(
    "convert_channels", False, "Convert gray to RGB, or RGB to gray."
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace an output of another encoder or data set."
)
_NEIGHBOURS = flags.DEFINE_string(
    "neighbours", None, "A picture whose nearest neighbours are shown."
)
_DUPLICATES = flags.DEFINE_float(
    "duplicates", None, "Show pairs of at least this cosine similarity."
)
flags.adopt_module_key_flags(cli)


def main(argv: list[str]) -> None:
  """Runs the command."""
  del argv
  with cli.plain_errors(
      interrupted="interrupted; the same command resumes from here"
  ):
    workdir, dataset, output = (
        cli.required(flag, example=_EXAMPLE)
        for flag in (_WORKDIR, _DATASET, _OUTPUT)
    )
    output = pathlib.Path(output)
    formats.check(output)
    if _DUPLICATES.value is not None:
      search.check_threshold(_DUPLICATES.value)
    cli.use_compilation_cache()
    plan = compute.plan(
        encoder.load(workdir),
        dataset,
        split=_SPLIT.value,
        data_dir=_DATA_DIR.value,
        stage=_STAGE.value,
        batch_size=_BATCH_SIZE.value,
        convert_channels=_CONVERT.value,
    )
    # Before the long computation, since the file may not be a picture.
    path = _NEIGHBOURS.value
    query = None if path is None else search.query(plan, path)
    features = compute.compute(plan, output, overwrite=_OVERWRITE.value)
    print(
        f"{features.path}: {features.shape[0]:,} pictures,"
        f" {features.shape[1]:,} features each"
    )
    if query is not None:
      search.show_neighbours(plan, features, query)
    if _DUPLICATES.value is not None:
      search.show_duplicates(plan, features, _DUPLICATES.value)


if __name__ == "__main__":
  app.run(main, flags_parser=lambda argv: cli.parse(argv, example=_EXAMPLE))
