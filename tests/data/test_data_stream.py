"""Streaming: order, broken pictures, worker processes, and the cache."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import threading
import time

import numpy as np
from PIL import Image
import pytest

from jssl import data
from jssl.data import cache, loader, reader

SIZE, BATCH = 40, 8
# Two in a row, at the end of the first class: the next whole one is of another.
BROKEN = (3, 18, 19)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  """Forty pictures whose color is their number, three of them broken."""
  folder = tmp_path_factory.mktemp("photos")
  for i in range(SIZE):
    path = folder / ("ab"[i % 2]) / f"{i:03}.png"
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (10 + i, 30), (i, i, i)).save(path)
  return folder


def _source(folder):
  return data.open_source(f"folder:{folder}", "all")


def _reader(folder, canvas=8):
  source = _source(folder)
  return source, reader.make_reader(source, data.measure(source, canvas))


@pytest.fixture(scope="module")
def broken(photos, tmp_path_factory):
  """The same, three of them broken in different ways."""
  folder = tmp_path_factory.mktemp("broken")
  source = _source(photos)
  for i in range(SIZE):
    record = source.read([i])[0]
    path = folder / record.name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(record.encoded)
  names = [record.name for record in source.read(BROKEN)]
  (folder / names[0]).write_bytes(b"no picture")
  (folder / names[1]).write_bytes((folder / names[1]).read_bytes()[:60])
  (folder / names[2]).write_bytes(b"")
  return folder


def _stream(read, **changes):
  arguments = dict(seed=5, size=SIZE, batch_size=BATCH, start=0, stop=12)
  return list(data.stream(read, **arguments | {"workers": 0} | changes))


def _expected(folder, step):
  images = data.load(f"folder:{folder}", "all", canvas=8)
  index = data.batch_indices(5, step, size=SIZE, batch_size=BATCH)
  return images.image[index], images.extent[index], images.label[index]


def test_batches_are_those_of_the_order_with_sizes_and_labels(photos):
  _, read = _reader(photos)
  batches = _stream(read)
  assert len(batches) == 12
  for step, batch in enumerate(batches):
    wanted = _expected(photos, step)
    for actual, expected in zip(batch[1:4], wanted, strict=True):
      np.testing.assert_array_equal(actual, expected)
    assert batch.broken == {} and batch.notes == ()
  # An epoch sees every picture.
  assert len({x for b in batches[:5] for x in b.image[:, 0, 0, 0]}) == SIZE


def test_a_stream_starts_anywhere(photos):
  _, read = _reader(photos)
  late = _stream(read, start=7, stop=9)
  for step, batch in zip((7, 8), late, strict=True):
    np.testing.assert_array_equal(batch.image, _expected(photos, step)[0])


def test_large_batches_are_shared_among_chunks(photos):
  _, read = _reader(photos)
  (batch,) = _stream(read, batch_size=SIZE, stop=1)
  index = data.batch_indices(5, 0, size=SIZE, batch_size=SIZE)
  images = data.load(f"folder:{photos}", "all", canvas=8)
  np.testing.assert_array_equal(batch.image, images.image[index])


def test_shares_of_hosts_are_disjoint_and_join_to_the_batch(photos):
  _, read = _reader(photos)
  whole = _stream(read, stop=3)
  parts = [
      _stream(read, stop=3, share=slice(first, first + 4)) for first in (0, 4)
  ]
  for batch, *halves in zip(whole, *parts, strict=True):
    joined = np.concatenate([half.image for half in halves])
    np.testing.assert_array_equal(joined, batch.image)


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_pictures_give_their_place_to_the_next(broken, photos, workers):
  source, read = _reader(broken)
  batches = _stream(read, stop=5, workers=workers)
  images = data.load(f"folder:{photos}", "all", canvas=8)
  instead = {3: 4, 18: 20, 19: 20}
  for step, batch in enumerate(batches):
    index = data.batch_indices(5, step, size=SIZE, batch_size=BATCH)
    whole = [instead.get(int(i), int(i)) for i in index]
    np.testing.assert_array_equal(batch.image, images.image[whole])
    np.testing.assert_array_equal(batch.extent, images.extent[whole])
    np.testing.assert_array_equal(batch.label, images.label[whole])
  reasons = sorted(line for batch in batches for line in batch.broken.values())
  names = sorted(record.name for record in source.read(BROKEN))
  assert [line.partition(":")[0] for line in reasons] == names
  assert any("empty" in line for line in reasons)


def test_a_source_of_broken_pictures_is_refused(tmp_path):
  for i in range(9):
    (tmp_path / f"{i}.png").write_bytes(b"no")
  _, read = _reader(tmp_path)
  with pytest.raises(ValueError, match="Neither .* nor any.*check the files"):
    _stream(read, size=9, stop=1)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_system_ends_the_stream(photos, workers):
  _, read = _reader(photos)

  def refused(indices):
    if 7 in indices:
      raise OSError("The file 7.png could not be read: Too many open files.")
    return read(indices)

  with pytest.raises(OSError, match="7.png could not be read"):
    _stream(refused, stop=5, workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_remarks_come_with_the_batch(tmp_path, workers):
  for i in range(8):
    deep = np.full((9, 9), 1000 + i, np.uint16)
    Image.fromarray(deep).save(tmp_path / f"{i}.png")
  _, read = _reader(tmp_path)
  (batch,) = _stream(read, size=8, stop=1, workers=workers)
  tallies = reader.tally(batch.remarks)
  assert list(tallies) == ["dark"]
  assert (tallies["dark"].count, tallies["dark"].value) == (8, 1007)


_KILLED = """
import os, pathlib, signal, sys
from jssl import data
from jssl.data import reader

def main():
  source = data.open_source("folder:" + sys.argv[1], "all")
  inner = reader.make_reader(source, data.measure(source, 8))
  parent = os.getpid()
  def read(indices):
    if os.getpid() != parent and 7 in indices:
      os.kill(os.getpid(), signal.SIGKILL)
    return inner(indices)
  sizes = dict(size=source.length, batch_size=8, start=0, stop=99)
  batches = data.stream(read, seed=0, workers=2, **sizes)
  try:
    print(len(list(batches)))
  except ChildProcessError as error:
    print(error)

if __name__ == "__main__":
  main()
"""


def test_a_worker_that_dies_is_reported_with_its_cause(photos, tmp_path):
  script = tmp_path / "killed.py"
  script.write_text(_KILLED)
  result = subprocess.run(
      [sys.executable, str(script), str(photos)],
      capture_output=True,
      text=True,
      timeout=300,
  )
  assert result.returncode == 0, result.stderr
  assert "killed by SIGKILL" in result.stdout
  assert "config.data.workers" in result.stdout


_ORPHANS = """
import multiprocessing, sys, time
from jssl import data
from jssl.data import reader

if __name__ == "__main__":
  source = data.open_source("folder:" + sys.argv[1], "all")
  read = reader.make_reader(source, data.measure(source, 8))
  sizes = dict(size=source.length, batch_size=8, start=0, stop=999)
  batches = data.stream(read, seed=0, workers=2, **sizes)
  next(batches)
  print(*(child.pid for child in multiprocessing.active_children()), flush=True)
  time.sleep(600)
"""


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(photos, tmp_path):
  script = tmp_path / "orphans.py"
  script.write_text(_ORPHANS)
  parent = subprocess.Popen(
      [sys.executable, str(script), str(photos)],
      stdout=subprocess.PIPE,
      text=True,
  )
  workers = [int(pid) for pid in parent.stdout.readline().split()]
  assert len(workers) == 2 and all(map(_runs, workers))
  parent.kill()
  parent.communicate()
  stop = time.monotonic() + 30
  while any(map(_runs, workers)) and time.monotonic() < stop:
    time.sleep(0.1)
  assert not any(map(_runs, workers))


def _runs(pid):
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  # A zombie that nobody has waited for is dead.
  status = pathlib.Path(f"/proc/{pid}/stat")
  return not status.exists() or status.read_text().split()[2] != "Z"


def _counted(read):
  seen = []

  def counted(indices):
    seen.extend(int(i) for i in indices)
    return read(indices)

  return counted, seen


def _cached(folder, where, canvas=8):
  source = _source(folder)
  geometry = data.measure(source, canvas)
  read, seen = _counted(reader.make_reader(source, geometry))
  return cache.cached(read, source, geometry, where), seen


def _same(actual, expected):
  for a, b in zip(actual[:4], expected[:4], strict=True):
    np.testing.assert_array_equal(a, b)


def test_a_cached_picture_is_decoded_once(photos, tmp_path):
  _, plain = _reader(photos)
  read, seen = _cached(photos, tmp_path)
  _same(read([4, 9]), plain([4, 9]))
  _same(read([9, 5, 4]), plain([9, 5, 4]))
  again, seen_again = _cached(photos, tmp_path)  # As after a restart.
  _same(again([5, 4]), plain([5, 4]))
  assert seen == [4, 9, 5] and seen_again == []


def test_the_cache_starts_anew_when_the_layout_changes(
    photos, tmp_path, monkeypatch
):
  read, _ = _cached(photos, tmp_path)
  read([1])
  monkeypatch.setattr(reader, "LAYOUT", reader.LAYOUT + 1)
  read, seen = _cached(photos, tmp_path)
  read([1])
  assert seen == [1]


def test_the_cache_holds_each_canvas_and_content_apart(photos, tmp_path):
  read, first = _cached(photos, tmp_path)
  read([1])
  other, seen = _cached(photos, tmp_path, canvas=6)
  assert other([1]).image.shape == (1, 6, 6, 3) and seen == [1]
  read([1])
  assert first == [1]  # It is still there.
  changed = tmp_path / "changed"
  changed.mkdir()
  Image.new("RGB", (9, 9)).save(changed / "new.png")
  third, seen = _cached(changed, tmp_path)
  third([0])
  assert seen == [0]


def _edit(path, keep_time):
  """Inverts a picture; its name and size stay."""
  before = os.stat(path)
  with Image.open(path) as picture:
    pixels = 255 - np.asarray(picture)
  Image.fromarray(pixels).save(path)
  assert os.stat(path).st_size == before.st_size
  if keep_time:
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("count,keep_time", [(20, True), (200, False)])
def test_an_edited_picture_is_decoded_again(tmp_path, count, keep_time):
  folder = tmp_path / "photos"
  folder.mkdir()
  for i in range(count):
    Image.new("RGB", (10, 10), (i, i, i)).save(folder / f"{i:03}.bmp")
  read, _ = _cached(folder, tmp_path / "cache")
  assert read([7]).image[0, 0, 0, 0] == 7
  _edit(folder / "007.bmp", keep_time)
  read, seen = _cached(folder, tmp_path / "cache")
  assert read([7]).image[0, 0, 0, 0] == 255 - 7 and seen == [7]
  read, seen = _cached(folder, tmp_path / "cache")
  assert read([7]).image[0, 0, 0, 0] == 255 - 7 and seen == []


def test_two_sets_of_one_name_are_kept_apart(tmp_path):
  """As of TensorFlow Datasets in two data_dirs."""
  for i, name in enumerate(("one", "two")):
    (tmp_path / name).mkdir()
    for j in range(4):
      picture = Image.new("RGB", (8, 8), (100 * i + j,) * 3)
      picture.save(tmp_path / name / f"{j}.bmp")

  def cached(name):
    source = _source(tmp_path / name)
    source = dataclasses.replace(
        source, name="cifar10 (train)", fingerprint=None
    )
    geometry = data.measure(source, 8)
    read = reader.make_reader(source, geometry)
    return cache.cached(read, source, geometry, tmp_path / "cache")

  for _ in range(2):
    for i, name in enumerate(("one", "two")):
      assert cached(name)([3]).image[0, 0, 0, 0] == 100 * i + 3


def test_an_error_of_the_system_is_not_one_of_the_cache(photos, tmp_path):
  source, _ = _reader(photos)
  geometry = data.measure(source, 8)
  tries = []

  def refused(indices):
    tries.append(indices)
    raise OSError("The file 7.png could not be read: Too many open files.")

  read = cache.cached(refused, source, geometry, tmp_path)
  with pytest.raises(OSError, match="7.png could not be read"):
    read([1])
  assert len(tries) == 1
  _same(_cached(photos, tmp_path)[0]([1]), _reader(photos)[1]([1]))


@pytest.mark.parametrize(
    "damage", ["half a picture", "no pixels", "shorter", "size"]
)
def test_half_written_pictures_are_decoded_again(photos, tmp_path, damage):
  _, plain = _reader(photos)
  read, seen = _cached(photos, tmp_path)
  read([0, 1])
  (path,) = tmp_path.glob("*/pictures")
  content = bytearray(path.read_bytes())
  each = 16 + 8 * 8 * 3
  assert len(content) == 2 * each
  pixels = slice(each + 16, 2 * each)
  if damage == "half a picture":
    content[pixels.start : pixels.start + 90] = bytes(90)
  elif damage == "no pixels":
    content[pixels] = bytes(8 * 8 * 3)
  elif damage == "size":
    content[each + 4] ^= 1
  else:
    del content[pixels.start + 5 :]
  path.write_bytes(content)
  _same(read([0, 1]), plain([0, 1]))
  assert seen == [0, 1, 1]
  _same(read([0, 1]), plain([0, 1]))  # It was written again.
  assert seen == [0, 1, 1]


def test_broken_pictures_are_not_cached(broken, tmp_path):
  read, seen = _cached(broken, tmp_path)
  for _ in range(2):
    chunk = read([2, 3])
    assert list(chunk.broken) == [1] and "broken" not in chunk.broken[1]
  assert seen == [2, 3, 3]


def test_a_full_disk_falls_back_to_no_cache(photos, tmp_path, monkeypatch):
  _, plain = _reader(photos)
  read, _ = _cached(photos, tmp_path)
  read([6])

  def full(file, content, offset):
    raise OSError(28, os.strerror(28))

  monkeypatch.setattr(os, "pwrite", full)
  chunk = read([6, 7])
  _same(chunk, plain([6, 7]))
  (note,) = chunk.notes
  assert "No space left" in note and str(tmp_path) in note
  monkeypatch.undo()
  monkeypatch.setattr(os, "pwrite", lambda file, content, offset: 5)
  assert "disk is full" in read([8]).notes[0]
  monkeypatch.undo()
  _same(read([7, 8]), plain([7, 8]))


def test_a_folder_that_cannot_be_made_falls_back_too(photos, tmp_path):
  (tmp_path / "file").write_text("")
  read, seen = _cached(photos, tmp_path / "file")
  _, plain = _reader(photos)
  chunk = read([1])
  _same(chunk, plain([1]))
  assert "cache" in chunk.notes[0] and seen == [1]


def test_workers_share_a_cache(photos, tmp_path):
  source, plain = _reader(photos)
  geometry = data.measure(source, 8)
  read = cache.cached(plain, source, geometry, tmp_path)
  first = _stream(read, stop=5, workers=2)
  refuse = cache.cached(None, source, geometry, tmp_path)  # Nothing to decode.
  second = _stream(refuse, stop=5)
  for a, b, step in zip(first, second, range(5), strict=True):
    _same(a, b)
    np.testing.assert_array_equal(a.image, _expected(photos, step)[0])


@pytest.mark.parametrize("cores", [2, 16, 50])
def test_every_core_decodes_however_small_batches_are(
    cores, photos, monkeypatch, caplog
):
  monkeypatch.setattr(os, "cpu_count", lambda: cores)
  source, read = _reader(photos)
  batch_size = max(cores // 2, 8)
  count, active, met = 8 * batch_size, set(), threading.Event()

  def wait(indices):
    active.add(threading.get_ident())
    if len(active) == cores:
      met.set()
    assert met.wait(timeout=20)  # Until each core has a part.
    return read([index % SIZE for index in indices])

  batches = loader.load_batches(
      wait,
      lambda number: range(count)[number * batch_size :][:batch_size],
      range(-(-count // batch_size)),
      batch_size=batch_size,
  )
  assert sum(len(batch.label) for batch in batches) == count
  assert "prefetch" not in caplog.text
