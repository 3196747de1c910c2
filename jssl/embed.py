"""Encodes many pictures, and finds the nearest and the nearly equal ones.

  python -m jssl.embed --workdir=runs/mine --dataset=folder:photos \
    --output=photos.npz --neighbours=QUERY.jpg --duplicates=0.95

The same command goes on where an earlier one stopped, and uses a file that is
complete as it is.
"""

import pathlib
import sys

from absl import app
from absl import flags
import numpy as np
from PIL import Image

from jssl import cli
from jssl import data
from jssl import encoder
from jssl.features import compute
from jssl.features import files
from jssl.features import nearest
from jssl.report import sheet

_EXAMPLE = (
    "--workdir=runs/first --dataset=folder:photos --output=embeddings.npz"
)
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a trained run.")
_DATASET = flags.DEFINE_string(
    "dataset", None, "folder:PATH, digits, or a name of TFDS such as cifar10."
)
_SPLIT = flags.DEFINE_string(
    "split", None, "Or all pictures of a folder, and 'train' of other sets."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "The file to write: .npz, .npy or .parquet."
)
_STAGE = flags.DEFINE_string(
    "stage", "pooled", "Or a stage of the net, whose map is averaged."
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Pictures at a time; or the run's, 256 at most."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where TFDS keeps its sets; or the run's."
)
_CONVERT = flags.DEFINE_bool(
    "convert_channels", False, "Convert gray to RGB, or RGB to gray."
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace an output that is of something else."
)
_NEIGHBOURS = flags.DEFINE_string(
    "neighbours", None, "A picture, to which the nearest ones are shown."
)
_DUPLICATES = flags.DEFINE_float(
    "duplicates", None, "Cosine similarity from which on pairs are shown."
)
flags.adopt_module_key_flags(cli)

_NEIGHBOUR_COUNT = 10
_PAIRS_DRAWN = 12
_PAIRS_PRINTED = 100
_THUMBNAIL = 240


def main(argv: list[str]) -> None:
  """Runs the command."""
  del argv
  with cli.plain_errors():
    workdir, dataset, output = (
        cli.required(flag, example=_EXAMPLE)
        for flag in (_WORKDIR, _DATASET, _OUTPUT)
    )
    output = pathlib.Path(output)
    files.check(output)
    if _DUPLICATES.value is not None:
      nearest.check_threshold(_DUPLICATES.value)
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
    # Before the long part: it may not be a picture.
    query = _NEIGHBOURS.value and _encode_query(plan, _NEIGHBOURS.value)
    try:
      features = compute.compute(plan, output, overwrite=_OVERWRITE.value)
    except KeyboardInterrupt:
      sys.exit("jssl: interrupted; the same command goes on from here")
    print(
        f"{features.path}: {features.shape[0]:,} pictures,"
        f" {features.shape[1]:,} features each"
    )
    if query is not None:
      _show_neighbours(plan, features, query, _NEIGHBOURS.value)
    if _DUPLICATES.value is not None:
      _show_duplicates(plan, features, _DUPLICATES.value)


def _encode_query(plan, path):
  try:
    return compute.encode_picture(plan, pathlib.Path(path).read_bytes())
  except ValueError as error:
    raise ValueError(
        f"--neighbours={path} is no picture: {error}. Give the file of one."
    ) from error


def _show_neighbours(plan, features, query, path):
  """Prints the pictures that are nearest to one, and draws them."""
  rows, values = nearest.neighbours(
      query,
      features,
      k=_NEIGHBOUR_COUNT,
      leave_out=_row_of(plan, features, pathlib.Path(path)),
  )
  print(f"Nearest to {path}, by cosine similarity:")
  pictures = [_thumbnail(pathlib.Path(path).read_bytes(), plan)]
  captions = [f"query\n{path}"]
  for row, value in zip(rows, values):
    name = _described(features, row)
    print(f"  {value:.4f}  {name}")
    pictures.append(_picture(plan, features, row))
    captions.append(f"{value:.4f}\n{name}")
  drawn = features.path.with_suffix(".neighbours.png")
  sheet.draw(
      pictures, captions, str(drawn), columns=4, title=f"nearest to {path}"
  )
  print(f"Drawn in {drawn}")


def _show_duplicates(plan, features, threshold):
  """Prints pairs of pictures that are nearly equal, and draws the closest."""
  pairs = nearest.duplicates(features, threshold)
  lines = [f"{pairs.count:,} pairs of cosine similarity {threshold:g} or more"]
  pictures, captions = [], []
  for i, (*rows, value) in enumerate(zip(*pairs[:3])):
    names = [_described(features, row) for row in rows]
    if i < _PAIRS_PRINTED:
      lines.append(f"  {value:.4f}  {names[0]}  {names[1]}")
    if i < _PAIRS_DRAWN:
      pictures += [_picture(plan, features, row) for row in rows]
      captions += [f"pair {i + 1}: {value:.4f}\n{name}" for name in names]
  if pairs.count > _PAIRS_PRINTED:
    lines.append(f"  and {pairs.count - _PAIRS_PRINTED:,} more")
  if pictures:
    drawn = features.path.with_suffix(".duplicates.png")
    lines.append(f"Drawn in {drawn}")
    sheet.draw(
        pictures,
        captions,
        str(drawn),
        columns=4,
        title=f"the {len(pictures) // 2} closest of {pairs.count:,} pairs",
    )
  # After the drawing: `| head` ends the process at a line it does not want.
  print("\n".join(lines))


def _described(features, row):
  """A picture's name, and its class where the name does not tell it."""
  columns = features.columns
  name = columns.name[row]
  if columns.label is None or columns.label[row] < 0:
    return name
  label = columns.classes[columns.label[row]]
  return name if label in name.split("/")[:-1] else f"{name} ({label})"


def _row_of(plan, features, path):
  """The row of a file that lies in the folder itself; -1 for another."""
  folder = plan.about["dataset"].removeprefix("folder:")
  if folder == plan.about["dataset"]:
    return -1
  root = pathlib.Path(folder).expanduser().resolve()
  if root not in path.resolve().parents:
    return -1
  name = path.resolve().relative_to(root).as_posix()
  names = features.columns.name
  return names.index(name) if name in names else -1


def _picture(plan, features, row):
  index = int(features.columns.index[row])
  return _thumbnail(plan.source.read([index])[0].encoded, plan)


def _thumbnail(encoded, plan):
  """A small picture of the true shape; black if its file is gone."""
  try:
    pixels, _ = data.decode(encoded, channels=plan.source.channels)
  except ValueError:
    return np.zeros((_THUMBNAIL, _THUMBNAIL, 1), np.uint8)
  gray = pixels.shape[-1] == 1
  picture = Image.fromarray(pixels[..., 0] if gray else pixels)
  picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
  pixels = np.asarray(picture)
  return pixels[..., None] if gray else pixels


if __name__ == "__main__":
  app.run(main, flags_parser=lambda argv: cli.parse(argv, example=_EXAMPLE))
