"""Files of features: `.npz`, `.npy` with a file of names, `.parquet`."""

from collections.abc import Callable
import dataclasses
import json
import os
import pathlib
import struct
from typing import Any
import zipfile

import numpy as np

from jssl.files import atomic

About = dict[str, Any]

_ROWS = 1024  # Rows written at a time, and per row group of Parquet.
_KEY = b"jssl"  # Key in Parquet's metadata.


@dataclasses.dataclass(frozen=True)
class Columns:
  """The pictures of the rows.

  Attributes:
    name: Names of the pictures, N.
    index: Their positions in the data set's split, int64 `[N]`.
    label: int32 `[N]`, an index into `classes`; None without labels.
    classes: Names of the classes, `()` without labels.
  """

  name: list[str]
  index: np.ndarray
  label: np.ndarray | None
  classes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class FeatureFile:
  """An open file of features.

  Attributes:
    path: The file.
    about: A description of the encoder and the data.
    columns: The pictures of the rows.
    shape: (N, D).
    read: Maps (start, stop) to these rows, float32 `[stop - start, D]`; the
      others stay on the disk.
  """

  path: pathlib.Path
  about: About
  columns: Columns
  shape: tuple[int, int]
  read: Callable[[int, int], np.ndarray]


def check(path: pathlib.Path) -> None:
  """Checks that a file can be written, before anything is computed.

  Raises:
    ValueError: If its suffix is not that of a format, or a package is missing.
  """
  if path.suffix not in _FORMATS:
    raise ValueError(
        f"{str(path)!r} ends in {path.suffix or 'no suffix'!r}; expected one"
        f" of {', '.join(_FORMATS)}, for example {path.stem}.npz."
    )
  if path.suffix == ".parquet":
    _pyarrow()


def write(
    path: pathlib.Path, rows: np.ndarray, columns: Columns, about: About
) -> None:
  """Writes a file atomically, a part of the rows at a time.

  Args:
    path: The file; its suffix is its format.
    rows: float32 `[N, D]`, possibly memory-mapped.
    columns: The pictures of the rows.
    about: A description of the encoder and the data, for JSON.
  """
  _FORMATS[path.suffix][0](path, rows, columns, about)


def read(path: pathlib.Path) -> FeatureFile:
  """Opens a file that `write` wrote.

  Raises:
    ValueError: If it is not such a file, with what to do.
  """
  try:
    return _FORMATS[path.suffix][1](path)
  except Exception as error:  # Other files raise nearly any type.
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise ValueError(
        f"{path} exists, but is not a file of features that jssl wrote"
        f" ({reason}): give another --output, or --overwrite."
    ) from error


def _write_npz(path, rows, columns, about):
  arrays = {
      "features": rows,
      "names": np.asarray(columns.name, dtype=np.str_),
      "index": columns.index,
      "about": np.asarray(json.dumps(about)),
  }
  if columns.label is not None:
    arrays["labels"] = columns.label
    arrays["classes"] = np.asarray(columns.classes, dtype=np.str_)
  with atomic(path) as temporary, open(temporary, "wb") as file:
    np.savez(file, **arrays)


def _read_npz(path):
  with np.load(path) as archive:
    columns = Columns(
        archive["names"].tolist(),
        archive["index"],
        archive.get("labels"),
        tuple(archive.get("classes", np.array([])).tolist()),
    )
    about = json.loads(archive["about"].item())
  return _opened(path, about, columns, _map_npz(path, "features.npy"))


def _map_npz(path, name):
  """Maps an array in an uncompressed archive into memory."""
  with zipfile.ZipFile(path) as archive:
    info = archive.getinfo(name)
    with archive.open(info) as file:
      np.lib.format.read_magic(file)
      shape, _, dtype = np.lib.format.read_array_header_1_0(file)
      skip = file.tell()
  with open(path, "rb") as file:
    # The local header of the zip format: 30 bytes, the name, extra fields.
    file.seek(info.header_offset + 26)
    skip += 30 + sum(struct.unpack("<HH", file.read(4)))
  return np.memmap(
      path, dtype, "r", offset=info.header_offset + skip, shape=shape
  )


def _write_npy(path, rows, columns, about):
  content = {
      "about": about,
      "classes": list(columns.classes),
      "names": columns.name,
      "labels": None if columns.label is None else columns.label.tolist(),
      "index": columns.index.tolist(),
  }
  with atomic(_names_path(path)) as names:
    names.write_text(json.dumps(content) + "\n")
  with atomic(path) as temporary:
    if not _link(rows, temporary):
      with open(temporary, "wb") as file:
        np.save(file, rows)


def _link(rows, path):
  """Hard-links a memory-mapped `.npy` file; returns whether that worked.

  A second copy might not fit on the disk.
  """
  if not isinstance(rows, np.memmap):
    return False
  if rows.offset + rows.nbytes != os.path.getsize(rows.filename):
    return False  # Only some rows of the file, since pictures were skipped.
  try:
    path.unlink(missing_ok=True)
    os.link(rows.filename, path)
  except OSError:  # Not every file system has links.
    return False
  return True


def _read_npy(path):
  content = json.loads(_names_path(path).read_text())
  labels = content["labels"]
  columns = Columns(
      content["names"],
      np.asarray(content["index"], np.int64),
      None if labels is None else np.asarray(labels, np.int32),
      tuple(content["classes"]),
  )
  array = np.load(path, mmap_mode="r")
  return _opened(path, content["about"], columns, array)


def _names_path(path):
  return path.with_suffix(".names.json")


def _opened(path, about, columns, array):
  if len(array) != len(columns.name):
    raise ValueError(f"{len(array)} rows and {len(columns.name)} names")
  return FeatureFile(
      path, about, columns, array.shape, lambda a, b: np.asarray(array[a:b])
  )


def _write_parquet(path, rows, columns, about):
  pa, pq = _pyarrow()
  # A name of a file need not be valid UTF-8.
  names = [x.encode(errors="backslashreplace").decode() for x in columns.name]
  table = pa.table({"name": names, "index": columns.index})
  if columns.label is not None:
    classes = [columns.classes[x] if x >= 0 else None for x in columns.label]
    table = table.append_column("label", pa.array(columns.label))
    table = table.append_column("class", pa.array(classes, pa.string()))
  features = pa.field("features", pa.list_(pa.float32(), rows.shape[1]))
  metadata = {_KEY: json.dumps({**about, "classes": columns.classes})}
  schema = table.schema.append(features).with_metadata(metadata)
  with (
      atomic(path) as temporary,
      pq.ParquetWriter(temporary, schema, use_dictionary=["class"]) as file,
  ):
    for start in range(0, len(rows), _ROWS):
      part = np.ravel(rows[start : start + _ROWS])
      part = pa.FixedSizeListArray.from_arrays(part, rows.shape[1])
      file.write_table(table.slice(start, _ROWS).append_column(features, part))


def _read_parquet(path):
  _, pq = _pyarrow()
  file = pq.ParquetFile(path)
  about = json.loads(file.schema_arrow.metadata[_KEY])
  classes = tuple(about.pop("classes"))
  wanted = ["name", "index"] + (["label"] if classes else [])
  table = file.read(wanted)
  columns = Columns(
      table["name"].to_pylist(),
      table["index"].to_numpy(),
      table["label"].to_numpy() if classes else None,
      classes,
  )
  dim = file.schema_arrow.field("features").type.list_size
  size = file.metadata.row_group(0).num_rows  # Of every group except the last.

  def read_rows(start, stop):
    groups = range(start // size, -(-stop // size))
    part = file.read_row_groups(groups, columns=["features"])["features"]
    part = part.combine_chunks().flatten().to_numpy().reshape(-1, dim)
    return part[start - groups.start * size :][: stop - start]

  return FeatureFile(
      path, about, columns, (file.metadata.num_rows, dim), read_rows
  )


def _pyarrow():
  try:
    import pyarrow
    import pyarrow.parquet
  except ImportError as error:
    raise ValueError(
        "A .parquet file needs pyarrow, which is not installed: pip install"
        " 'jssl[parquet]', or write a .npz."
    ) from error
  return pyarrow, pyarrow.parquet


_FORMATS = {
    ".npz": (_write_npz, _read_npz),
    ".npy": (_write_npy, _read_npy),
    ".parquet": (_write_parquet, _read_parquet),
}
