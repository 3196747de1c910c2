"""Features in files: equal to the encoder's, resumable, in bounded memory."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
from PIL import Image
import pyarrow.parquet
import pytest

import command
from jssl import data, encoder, files, load_encoder
from jssl.data import reader
from jssl.data.decode import decode_remarked
from jssl.embed import compute, formats, search
from jssl.evals.features import extract
import tiny_run

_FORMATS = ("npz", "npy", "parquet")
each_format = pytest.mark.parametrize("suffix", _FORMATS)


def _picture(height, width, seed):
  """A smooth colored picture."""
  y, x = np.mgrid[0:height, 0:width] / max(height, width)
  waves = [np.sin(3 * x + seed), np.cos(4 * y - seed), np.sin(3 * x * y + seed)]
  return Image.fromarray((127 + 100 * np.stack(waves, -1)).astype(np.uint8))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  """Two classes, 34 pictures of mixed sizes, one gray and two broken."""
  root = tmp_path_factory.mktemp("photos")
  for i in range(34):
    folder = root / ("cat" if i % 2 else "dog")
    folder.mkdir(exist_ok=True)
    picture = _picture(12 + 7 * i % 40, 15 + 11 * i % 50, i)
    picture = picture.convert("L") if i == 4 else picture
    picture.save(folder / f"{i:02}.png")
  (root / "cat" / "05.png").write_bytes(b"no picture")
  (root / "dog" / "30.png").write_bytes(b"")
  return root


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp("run")
  tiny_run.save(path, tiny_run.config())
  return path


@pytest.fixture(scope="module")
def trained(workdir):
  return encoder.load(str(workdir))


def _variant(workdir, target, **changes):
  """The same run with a changed config."""
  shutil.copytree(workdir, target)
  config = json.loads((target / "config.json").read_text())
  for key, value in changes.items():
    section, _, name = key.partition("__")
    if name:
      config[section][name] = value
    else:
      config[key] = value
  (target / "config.json").write_text(json.dumps(config))
  return encoder.load(str(target))


def _names(root):
  """Names of the pictures that can be decoded, in order."""
  names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.png"))
  return [name for name in names if name not in ("cat/05.png", "dog/30.png")]


def _all(features):
  return features.read(0, features.shape[0])


def _plan(trained, photos, **options):
  return compute.plan(trained, f"folder:{photos}", batch_size=8, **options)


def _counted(plan, stop=None):
  """A plan that records its batches, and is interrupted before one of them."""
  seen = []

  def encode(images, extent):
    if stop is not None and len(seen) == stop:
      raise KeyboardInterrupt
    seen.append(len(images))
    return plan.encode(images, extent)

  return dataclasses.replace(plan, encode=encode), seen


@pytest.fixture(scope="module")
def whole(trained, photos, tmp_path_factory):
  """Files of each format, made without interruption."""
  folder = tmp_path_factory.mktemp("whole")
  return {
      suffix: compute.compute(_plan(trained, photos), folder / f"x.{suffix}")
      for suffix in _FORMATS
  }


@pytest.fixture(scope="module")
def expected(workdir, photos):
  """Features from `load_encoder` of each picture alone, by name."""
  encode, params = load_encoder(str(workdir))
  rows = {}
  for name in _names(photos):
    pixels, extent = data.decode((photos / name).read_bytes(), 24)
    row = encode(params, pixels[None], np.asarray([extent]))[0]
    rows[name] = np.asarray(row)
  return rows


@pytest.mark.slow
@each_format
def test_features_are_those_of_load_encoder(whole, expected, suffix):
  names, rows = whole[suffix].columns.name, _all(whole[suffix])
  assert names == list(expected) and rows.shape == (32, 32)
  assert rows.dtype == np.float32
  for name, row in zip(names, rows):
    np.testing.assert_allclose(row, expected[name], atol=1e-5, err_msg=name)
  differences = rows[:, None] - rows
  distances = np.linalg.norm(differences, axis=-1)[np.triu_indices(32, 1)]
  assert distances.min() > 1e-2  # No two rows can be confused.


def test_the_canvas_changes_little(workdir, photos, expected):
  encode, params = load_encoder(str(workdir))
  center = np.mean(list(expected.values()), axis=0)
  for name in ("cat/03.png", "dog/04.png", "dog/16.png"):
    pixels, _ = data.decode((photos / name).read_bytes())
    row = np.asarray(encode(params, pixels[None])[0]) - center
    fitted = expected[name] - center
    norms = np.linalg.norm(row) * np.linalg.norm(fitted)
    assert row @ fitted > 0.98 * norms


def test_features_are_those_of_evaluations_in_training(trained, photos, whole):
  images = data.load(f"folder:{photos}", "all", canvas=24)
  expected = extract(
      lambda *x: trained.encode(trained.params, *x),
      images.image,
      extent=images.extent,
      batch_size=8,
  )
  features = whole["npz"]
  np.testing.assert_allclose(_all(features), expected, atol=1e-5)
  np.testing.assert_array_equal(features.columns.label, images.label)
  assert features.columns.classes == images.classes == ("cat", "dog")


def test_files_are_read_as_documented(whole, photos):
  names = _names(photos)
  label = [int(name.startswith("dog")) for name in names]
  npz = np.load(whole["npz"].path)
  assert npz["names"].tolist() == names and npz["labels"].tolist() == label
  assert npz["classes"].tolist() == ["cat", "dog"]
  npy = np.load(whole["npy"].path, mmap_mode="r")
  names_file = whole["npy"].path.with_name("x.names.json")
  content = json.loads(names_file.read_text())
  assert content["names"] == names and content["labels"] == label
  table = pyarrow.parquet.read_table(whole["parquet"].path)
  assert table["name"].to_pylist() == names
  assert table["label"].to_pylist() == label
  assert table["class"].to_pylist() == [name[:3] for name in names]
  parquet = np.asarray(table["features"].to_pylist(), np.float32)
  np.testing.assert_array_equal(npz["features"], npy)
  np.testing.assert_array_equal(npz["features"], parquet)
  # The index is right after pictures that were left out, too.
  source = data.open_source(f"folder:{photos}", "all")
  records = source.read(npz["index"].tolist())
  assert [record.name for record in records] == names


def test_a_stage_is_the_average_of_its_map(trained, photos, tmp_path):
  features = compute.compute(
      _plan(trained, photos, stage="stage_2"), tmp_path / "x.npz"
  )
  pixels, extent = data.decode((photos / "cat/01.png").read_bytes(), 24)
  stages = trained.encode(
      trained.params, pixels[None], np.asarray([extent]), stages=True
  )
  expected = np.asarray(stages["stage_2"]).mean((1, 2))[0]
  np.testing.assert_allclose(_all(features)[0], expected, atol=1e-5)


def test_pictures_of_one_size_need_no_canvas(workdir, tmp_path):
  trained = _variant(workdir, tmp_path / "run", data__canvas=0)
  (tmp_path / "same").mkdir()
  for i in range(5):
    _picture(20, 28, i).save(tmp_path / "same" / f"{i}.png")
  plan = _plan(trained, tmp_path / "same")
  assert plan.geometry == data.Geometry((20, 28), None, 3)
  features = compute.compute(plan, tmp_path / "x.npz")
  assert features.columns.label is None
  pictures = np.stack([np.asarray(_picture(20, 28, i)) for i in range(5)])
  expected = trained.encode(trained.params, pictures)
  np.testing.assert_allclose(_all(features), expected, atol=1e-5)
  query = compute.encode_picture(
      plan, (tmp_path / "same" / "3.png").read_bytes()
  )
  np.testing.assert_allclose(query, expected[3], atol=1e-5)


def test_pictures_that_differ_get_a_canvas(workdir, photos, tmp_path):
  trained = _variant(workdir, tmp_path / "run", data__canvas=0)
  assert _plan(trained, photos).geometry == data.Geometry((32, 32), 32, 3)


def test_other_channels_are_refused_or_converted(trained, tmp_path):
  options = dict(data_dir=str(tmp_path), batch_size=64)
  with pytest.raises(ValueError, match="3 channels .*1 channel .*convert_chan"):
    compute.plan(trained, "digits", **options)
  plan = compute.plan(
      trained, "digits", split="test[:9]", convert_channels=True, **options
  )
  features = compute.compute(plan, tmp_path / "x.npz")
  images = data.load("digits", "test[:9]", data_dir=str(tmp_path), canvas=24)
  expected = trained.encode(
      trained.params, images.image.repeat(3, -1), images.extent
  )
  np.testing.assert_allclose(_all(features), expected, atol=1e-4)
  assert features.columns.classes == tuple("0123456789")
  assert features.columns.name[0].startswith("digits test[:9] #0")
  default = compute.plan(trained, "digits", convert_channels=True, **options)
  assert default.source.length == 1437


@each_format
def test_an_interrupted_file_is_finished_identically(
    trained, photos, whole, tmp_path, suffix
):
  plan, output = _plan(trained, photos), tmp_path / f"x.{suffix}"
  interrupted, before = _counted(plan, stop=2)
  with pytest.raises(KeyboardInterrupt):
    compute.compute(interrupted, output)
  assert not output.exists() and len(before) == 2
  resumed, after = _counted(plan)
  compute.compute(resumed, output)
  assert len(after) == 5 - 2
  assert output.read_bytes() == whole[suffix].path.read_bytes()
  if suffix == "npy":
    name = "x.names.json"
    there = whole["npy"].path.with_name(name).read_text()
    assert (tmp_path / name).read_text() == there
  assert {path.name for path in tmp_path.iterdir()} <= {
      output.name,
      "x.names.json",
  }


def test_remarks_about_pictures_are_printed(trained, tmp_path, capsys):
  photos = tmp_path / "photos"
  photos.mkdir()
  for i in range(9):
    _picture(20, 20, i).convert("CMYK").save(photos / f"{i}.jpg")
  (photos / "readme.txt").write_text("no picture")
  compute.compute(_plan(trained, photos), tmp_path / "x.npz")
  shown = capsys.readouterr().err
  assert f"WARNING: 9 of 9 pictures of folder:{photos} (all)" in shown
  assert "1 ending in .txt" in shown


def _bitmaps(root, count):
  """Pictures whose files have the same size whatever they show."""
  root.mkdir()
  for i in range(count):
    _picture(20, 20, i).save(root / f"{i}.bmp")
  return root


@pytest.mark.parametrize("interrupted", [False, True])
def test_pictures_edited_in_place_are_detected(trained, tmp_path, interrupted):
  photos, output = _bitmaps(tmp_path / "photos", 10), tmp_path / "x.npz"
  plan = _plan(trained, photos)
  if interrupted:
    plan, _ = _counted(plan, stop=1)
    with pytest.raises(KeyboardInterrupt):
      compute.compute(plan, output)
  else:
    compute.compute(plan, output)
  edited = photos / "0.bmp"
  about = os.stat(edited)
  _picture(20, 20, 9).save(edited)
  os.utime(edited, ns=(about.st_atime_ns, about.st_mtime_ns))
  assert os.stat(edited).st_size == about.st_size
  with pytest.raises(ValueError, match="other settings:\n  data: .*\n.*edited"):
    compute.compute(_plan(trained, photos), output)
  new = compute.compute(_plan(trained, photos), output, overwrite=True)
  alone = compute.compute(_plan(trained, photos), tmp_path / "y.npz")
  np.testing.assert_array_equal(_all(new), _all(alone))


def test_sets_of_one_name_in_two_folders_differ(trained, tmp_path, monkeypatch):
  # As with TFDS: names are equal and there are no files to compare.
  records = {}

  def opened(name, split, *, data_dir=None):
    return data.Source(
        f"{name} ({split})",
        3,
        lambda index: [records[data_dir][i] for i in index],
        (),
    )

  for where, first in (("one", 0), ("other", 5)):
    root = _bitmaps(tmp_path / where, 8)
    records[where] = [
        data.Record((root / f"{i}.bmp").read_bytes(), -1, f"#{i}")
        for i in range(first, first + 3)
    ]
  monkeypatch.setattr(compute.data, "open_source", opened)
  plan = lambda where: compute.plan(trained, "mine", data_dir=where)
  compute.compute(plan("one"), tmp_path / "x.npz")
  with pytest.raises(ValueError, match="other settings"):
    compute.compute(plan("other"), tmp_path / "x.npz")


@pytest.mark.parametrize(
    "changes",
    [dict(net__mean=[0.3, 0.3, 0.3]), dict(precision="bfloat16")],
)
def test_encoders_of_other_settings_differ(
    workdir, trained, photos, tmp_path, changes
):
  other = _variant(workdir, tmp_path / "run", **changes)
  one, two = (_plan(x, photos).about["encoder"] for x in (trained, other))
  assert one != two


def test_a_name_that_is_too_long_is_refused_before_computing(
    trained, photos, tmp_path
):
  plan, batches = _counted(_plan(trained, photos))
  output = tmp_path / f"{'x' * 250}.npz"
  with pytest.raises(OSError, match="cannot be written .*File name too long"):
    compute.compute(plan, output)
  # Also if only the files next to it have names that are too long.
  with pytest.raises(OSError, match="cannot be written .*File name too long"):
    compute.compute(plan, tmp_path / f"{'x' * 240}.npz")
  assert not batches and not list(tmp_path.iterdir())


_KILLED = """
import dataclasses, os, pathlib, signal, sys
from jssl import encoder
from jssl.embed import compute
plan = compute.plan(
    encoder.load(sys.argv[1]), "folder:" + sys.argv[2], batch_size=8
)
batches = []
def encode(images, extent):
  batches.append(1)
  if len(batches) == 4:
    os.kill(os.getpid(), signal.SIGKILL)
  return original(images, extent)
original = plan.encode
plan = dataclasses.replace(plan, encode=encode)
compute.compute(plan, pathlib.Path(sys.argv[3]))
"""


@pytest.mark.slow
def test_a_killed_process_loses_one_batch(
    workdir, trained, photos, whole, tmp_path
):
  output = tmp_path / "x.npz"
  done = subprocess.run(
      [sys.executable, "-c", _KILLED, str(workdir), str(photos), str(output)],
      cwd=command.ROOT,
      timeout=120,
  )
  assert done.returncode == -signal.SIGKILL
  resumed, after = _counted(_plan(trained, photos))
  compute.compute(resumed, output)
  assert len(after) == 5 - 3
  assert output.read_bytes() == whole["npz"].path.read_bytes()


@pytest.mark.parametrize(
    "damage", ["line", "end", "version", "rows", "file", "header"]
)
def test_damaged_rows_are_computed_again(
    trained, photos, whole, tmp_path, damage
):
  plan, output = _plan(trained, photos), tmp_path / "x.npz"
  with pytest.raises(KeyboardInterrupt):
    compute.compute(_counted(plan, stop=3)[0], output)
  rows = tmp_path / "x.npz.partial"
  journal = tmp_path / "x.npz.partial.jsonl"
  left = 3
  if damage == "line":
    journal.write_bytes(journal.read_bytes()[:-5])
  elif damage == "end":  # The next line would be appended to it.
    journal.write_bytes(journal.read_bytes()[:-1])
  elif damage == "version":  # Made by one with other entries per block.
    *lines, last = journal.read_text().splitlines()
    block = json.loads(last)
    lines.append(json.dumps({"stop": 9, "first": 0, **block}))
    journal.write_text("\n".join(lines) + "\n")
  elif damage == "rows":
    array = np.lib.format.open_memmap(rows, mode="r+")
    array[17] = 0  # In the third batch, as the second has one row less.
    array.flush()
  elif damage == "file":
    rows.write_bytes(rows.read_bytes()[:500])
    left = 5
  else:
    journal.write_bytes(journal.read_bytes()[:9])
    left = 5
  resumed, after = _counted(plan)
  compute.compute(resumed, output)
  assert len(after) == left
  assert output.read_bytes() == whole["npz"].path.read_bytes()


@pytest.mark.parametrize("count", [3, 2])
def test_whole_rows_become_a_npy_file_without_a_copy(tmp_path, count):
  rows = np.lib.format.open_memmap(
      tmp_path / "rows", mode="w+", dtype=np.float32, shape=(3, 2)
  )
  rows[:] = np.arange(6).reshape(3, 2)
  columns = formats.Columns(list("abc")[:count], np.arange(count), None, ())
  path = tmp_path / "x.npy"
  formats.write(path, rows[:count], columns, {})
  np.testing.assert_array_equal(np.load(path), rows[:count])
  assert path.samefile(tmp_path / "rows") == (count == len(rows))


def test_a_complete_file_is_used_as_it_is(trained, photos, tmp_path):
  plan, batches = _counted(_plan(trained, photos))
  first = compute.compute(plan, tmp_path / "x.parquet")
  count = len(batches)
  again = compute.compute(plan, tmp_path / "x.parquet")
  assert len(batches) == count == 5
  np.testing.assert_array_equal(_all(again), _all(first))


def test_two_processes_do_not_write_the_same_file(trained, photos, tmp_path):
  plan = compute.plan(trained, f"folder:{photos}")
  output = tmp_path / "x.npz"
  with files.exclusive(tmp_path / "x.npz.lock", busy="tests hold it"):
    with pytest.raises(OSError, match="Another process is writing .*x.npz"):
      compute.compute(plan, output)
    assert not output.exists()
    compute.compute(plan, tmp_path / "y.npz")  # Another file is not locked.
  compute.compute(plan, output)
  # A complete file is only read.
  with files.exclusive(tmp_path / "x.npz.lock", busy="tests hold it"):
    assert compute.compute(plan, output).shape[0] == 32
  assert sorted(x.name for x in tmp_path.iterdir()) == ["x.npz", "y.npz"]


@pytest.mark.parametrize("finished", [True, False])
def test_a_file_of_another_encoder_or_data_is_refused(
    workdir, trained, photos, tmp_path, finished
):
  output = tmp_path / "x.npz"
  plan = _plan(trained, photos)
  if finished:
    compute.compute(plan, output)
  else:
    with pytest.raises(KeyboardInterrupt):
      compute.compute(_counted(plan, stop=1)[0], output)
  shutil.copytree(photos, tmp_path / "more")
  _picture(9, 9, 1).save(tmp_path / "more" / "cat" / "new.png")
  tiny_run.save(tmp_path / "other", tiny_run.config(), seed=1, step=9)
  other = encoder.load(str(tmp_path / "other"))
  for changed, message in (
      (_plan(other, photos), "step: 7 in the file, 9 now"),
      (
          _plan(trained, photos, stage="stage_3"),
          "stage: 'pooled' in the file, 'stag",
      ),
      (_plan(trained, tmp_path / "more"), "pictures: 34 in the file, 35 now"),
      (
          _plan(trained, photos, split="train"),
          "split: 'all' in the file, 'train' n",
      ),
  ):
    with pytest.raises(ValueError, match=f"(?s){message}.*--overwrite"):
      compute.compute(changed, output)
  replaced = compute.compute(_plan(other, photos), output, overwrite=True)
  assert replaced.about["step"] == 9
  # Copies of the run and the pictures are the same.
  (tmp_path / "more" / "cat" / "new.png").unlink()
  copied, batches = _counted(_plan(other, tmp_path / "more"))
  compute.compute(copied, output)
  assert not batches


def test_files_of_other_programs_are_not_changed(trained, photos, tmp_path):
  for name in ("x.npz", "x.npy", "x.parquet"):
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(ValueError, match="not a file of features.*--overwrite"):
      compute.compute(_plan(trained, photos), tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"mine"
  np.savez(tmp_path / "x.npz", labels=np.arange(3))
  np.save(tmp_path / "x.npy", np.zeros((3, 4), np.float32))
  table = pyarrow.table({"name": ["a"], "index": [0]})
  pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
  (tmp_path / "y.npz").write_bytes(b"")
  for name in ("x.npz", "x.npy", "x.parquet", "y.npz"):
    with pytest.raises(ValueError, match="not a file of features"):
      compute.compute(_plan(trained, photos), tmp_path / name)


def test_memory_does_not_grow_with_the_pictures(
    trained, photos, tmp_path, monkeypatch
):
  """Few pictures are decoded, and few bytes read, ahead of the encoder."""
  plan = _plan(trained, photos)
  decoded, encoded, ahead = [], [], []

  def decode(*arguments, **options):
    decoded.append(1)
    ahead.append(len(decoded) - 8 * len(encoded))
    return decode_remarked(*arguments, **options)

  def encode(images, extent):
    encoded.append(1)
    return plan.encode(images, extent)

  monkeypatch.setattr(reader, "decode_remarked", decode)
  compute.compute(dataclasses.replace(plan, encode=encode), tmp_path / "x.npz")
  assert len(decoded) == 34
  # Batches being encoded, waiting and being decoded.
  assert max(ahead) <= 3 * 8


def test_rows_are_read_and_written_in_parts(tmp_path, monkeypatch):
  monkeypatch.setattr(formats, "_ROWS", 4)
  rows = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
  # A file's name need not be text; commas and line ends are allowed.
  names = [f"{i}, \n.png" for i in range(10)] + ["\udc80.png"]
  columns = formats.Columns(
      names, np.arange(11) * 2, np.int32([-1, 0, 1] * 3 + [1, 1]), ("a", "b")
  )
  for suffix in _FORMATS:
    path = tmp_path / f"x.{suffix}"
    formats.write(path, rows, columns, {"stage": "pooled"})
    found = formats.read(path)
    assert found.shape == (11, 3) and found.about == {"stage": "pooled"}
    for start in range(11):
      for stop in range(start + 1, 12):
        part = found.read(start, stop)
        np.testing.assert_array_equal(part, rows[start:stop])
    assert found.columns.name[:10] == names[:10]
    assert found.columns.classes == ("a", "b")
    np.testing.assert_array_equal(found.columns.label, columns.label)
    np.testing.assert_array_equal(found.columns.index, columns.index)
    if suffix == "parquet":
      assert pyarrow.parquet.ParquetFile(path).num_row_groups == 3
      assert found.columns.name[10] == "\\udc80.png"
    else:
      assert found.columns.name[10] == names[10]


def test_parquet_without_pyarrow_names_the_remedy(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, "pyarrow", None)
  with pytest.raises(ValueError, match=r"pip install 'jssl\[parquet\]'.*npz"):
    formats.check(tmp_path / "x.parquet")


def test_a_full_disk_is_detected_before_the_work(
    trained, photos, tmp_path, monkeypatch
):
  def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, "posix_fallocate", full)
  plan, batches = _counted(_plan(trained, photos))
  with pytest.raises(OSError, match="34 rows of 32 .*No space left.*--output"):
    compute.compute(plan, tmp_path / "x.npz")
  assert not batches and not list(tmp_path.iterdir())


def test_features_that_are_not_finite_are_refused(trained, photos, tmp_path):
  plan = _plan(trained, photos)
  broken = dataclasses.replace(plan, encode=lambda *x: plan.encode(*x) * np.nan)
  with pytest.raises(ValueError, match="cat/01.png are not finite"):
    compute.compute(broken, tmp_path / "x.npz")


def test_only_broken_pictures_are_refused(trained, tmp_path):
  (tmp_path / "photos").mkdir()
  for i in range(3):
    (tmp_path / "photos" / f"{i}.jpg").write_bytes(b"x")
  with pytest.raises(ValueError, match="None of the 3 .*0.jpg: not a picture"):
    compute.compute(_plan(trained, tmp_path / "photos"), tmp_path / "x.npz")
  assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def _opened(rows):
  columns = formats.Columns([str(i) for i in range(len(rows))], None, None, ())
  read = lambda a, b: rows[a:b]
  return formats.FeatureFile(None, {}, columns, rows.shape, read)


@pytest.fixture
def cloud(monkeypatch):
  """23 rows, two of them close to others, and the cosines of all."""
  monkeypatch.setattr(search, "_BLOCK", 5)
  rows = np.random.default_rng(0).normal(size=(23, 6)).astype(np.float32)
  rows[21] = 3 * rows[2]  # Only the direction counts.
  rows[9] = rows[8] + 0.01
  rows[15] = 0  # Not similar to any row.
  unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
  return rows, unit @ unit.T


def test_neighbours_are_those_of_all_rows_at_once(cloud):
  rows, cosine = cloud
  for query in (0, 2, 21):
    found, values = search.neighbours(rows[query], _opened(rows), k=10)
    expected = np.argsort(-cosine[query], kind="stable")[:10]
    # 2 and 21 are equal except for rounding, so their order may change.
    assert set(found) == set(expected)
    np.testing.assert_allclose(values, cosine[query][found], atol=1e-6)
    assert (np.diff(values) <= 0).all() and values.max() <= 1
  found, _ = search.neighbours(rows[2], _opened(rows), k=10, leave_out=2)
  assert 2 not in found and found[0] == 21 and len(found) == 10
  assert len(search.neighbours(rows[2], _opened(rows), k=99)[0]) == 23
  with pytest.raises(ValueError, match=r"\(4,\).*6 numbers"):
    search.neighbours(rows[2, :4], _opened(rows), k=1)


@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.99, 1.0])
def test_duplicates_are_those_of_all_rows_at_once(cloud, threshold):
  rows, cosine = cloud
  pairs = search.duplicates(_opened(rows), threshold)
  expected = np.argwhere(np.triu(cosine >= threshold - 1e-6, 1))
  assert {*map(tuple, pairs.rows)} == {*map(tuple, expected)}
  assert pairs.count == len(expected) > 0
  assert (np.diff(pairs.similarity) <= 0).all()
  np.testing.assert_allclose(
      pairs.similarity, cosine[tuple(pairs.rows.T)], atol=1e-6
  )


def test_only_the_closest_duplicates_are_kept(cloud):
  rows, _ = cloud
  every = search.duplicates(_opened(rows), 0.2)
  few = search.duplicates(_opened(rows), 0.2, limit=4)
  assert few.count == every.count > 4
  np.testing.assert_array_equal(few.similarity, every.similarity[:4])
  np.testing.assert_array_equal(few.rows, every.rows[:4])


def test_the_command_line_from_pictures_to_drawings(workdir, photos, tmp_path):
  shutil.copytree(photos, tmp_path / "$photos$")
  folder = tmp_path / "$photos$"
  shutil.copy(folder / "dog" / "02.png", folder / "cat" / "copy.png")
  done = command.run(
      "embed",
      f"--workdir={workdir}",
      f"--dataset=folder:{folder}",
      f"--output={tmp_path / 'out' / 'x.npy'}",
      f"--neighbours={folder / 'dog' / '02.png'}",
      "--duplicates=0.9999999",
  )
  assert "left out: cat/05.png: not a picture" in done.stderr
  assert "left out: dog/30.png: the file is empty" in done.stderr
  assert "2 of 35 pictures left out" in done.stderr
  lines = done.stdout.splitlines()
  assert "33 pictures, 32 features each" in lines[0]
  # The query itself is not shown, its copy is.
  assert lines[2].split() == ["1.0000", "cat/copy.png"]
  assert sum(line.startswith("  ") for line in lines[2:12]) == 10
  assert not any("dog/02.png" in line for line in lines[2:12])
  assert any(
      line.split() == ["1.0000", "cat/copy.png", "dog/02.png"]
      for line in lines[13:]
  )
  for kind in ("neighbours", "duplicates"):
    with Image.open(tmp_path / "out" / f"x.{kind}.png") as sheet:
      assert min(sheet.size) > 250
      assert len(sheet.convert("RGB").getcolors(10**6)) > 100


_MISTAKES = """
import json, sys
from absl import flags
from jssl import cli
from jssl.embed import __main__ as command
for arguments in json.loads(sys.argv[1]):
  flags.FLAGS.unparse_flags()
  try:
    cli.parse(["embed", *arguments], example=command._EXAMPLE)
    command.main([])
  except SystemExit:
    print("END", file=sys.stderr, flush=True)
"""


def test_mistakes_are_reported_with_a_remedy(workdir, photos, tmp_path):
  (tmp_path / "empty").mkdir()
  (tmp_path / "notes.txt").write_text("hello")
  unfinished = tmp_path / "unfinished"
  unfinished.mkdir()
  shutil.copy(workdir / "config.json", unfinished)
  good = {
      "workdir": workdir,
      "dataset": f"folder:{photos}",
      "output": tmp_path / "x.npz",
  }
  cases = [
      (
          {"workdir": None},
          "--workdir is missing; a command looks like",
      ),
      ({"workdir": tmp_path}, "not the folder of a run"),
      ({"workdir": unfinished}, "No checkpoint in"),
      ({"output": tmp_path / "x"}, "one of .npz, .npy, .parquet"),
      ({"output": tmp_path / "x.csv"}, "'.csv'; expected one of"),
      ({"stage": "stage_9"}, "pooled, stage_1, stage_2, stage_3"),
      (
          {"neighbours": tmp_path / "notes.txt"},
          "notes.txt is not a picture: not",
      ),
      (
          {"neighbours": tmp_path / "none.jpg"},
          f"There is no file {tmp_path / 'none.jpg'}",
      ),
      ({"dataset": f"folder:{tmp_path / 'empty'}"}, "holds no pictures"),
      ({"dataset": "folder:"}, "lacks a path"),
      ({"dataset": "digts"}, "No data set is called 'digts'"),
      ({"duplicates": "1.5"}, "duplicates is 1.5; expected"),
      ({"batch_size": "0"}, "--batch_size is 0"),
      ({"split": "trian"}, "no split 'trian'"),
      ({"datasett": "x"}, "datasett"),
  ]
  commands = []
  for changes, _ in cases:
    values = {k: v for k, v in (good | changes).items() if v is not None}
    commands.append([f"--{key}={value}" for key, value in values.items()])
  done = subprocess.run(
      [sys.executable, "-c", _MISTAKES, json.dumps(commands)],
      cwd=command.ROOT,
      text=True,
      capture_output=True,
      timeout=120,
  )
  messages = done.stderr.split("END\n")[:-1]
  assert len(messages) == len(cases), done.stderr
  for message, (_, expected) in zip(messages, cases):
    assert expected in message and "Traceback" not in message, message
  assert not (tmp_path / "x.npz").exists()
