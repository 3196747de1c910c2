"""Images in memory: rows, labels and batches."""

import numpy as np
from PIL import Image
import pytest

from jssl import data
from jssl.data import loader, reader


def _images(count=7, **changes):
  fields = dict(
      image=np.arange(count, dtype=np.uint8)[:, None, None, None],
      label=np.arange(count, dtype=np.int32) % 3 - 1,
      extent=np.tile(np.arange(count, dtype=np.int32)[:, None], (1, 2)),
      classes=("a", "b"),
      skipped=(),
  )
  return data.Images(**fields | changes)


@pytest.mark.parametrize("index", [[4, 0], np.arange(7) % 2 == 1])
def test_rows_are_taken_of_every_array(index):
  images = _images().take(np.asarray(index))
  expected = np.arange(7)[index]
  np.testing.assert_array_equal(images.image.ravel(), expected)
  np.testing.assert_array_equal(images.label, expected % 3 - 1)
  np.testing.assert_array_equal(images.extent[:, 1], expected)
  assert images.classes == ("a", "b")
  assert _images(label=None).take(np.arange(2)).label is None


def test_some_images_are_evenly_spaced():
  images = _images()
  assert images.evenly(3).image.ravel().tolist() == [0, 3, 6]
  assert images.evenly(0).image.shape == (0, 1, 1, 1)
  assert images.evenly(7) is images and images.evenly(99) is images


def test_labelled_images_are_found():
  assert _images().labelled().tolist() == [1, 2, 4, 5]
  assert _images(label=None).labelled().tolist() == []


def test_a_batch_has_what_the_set_has():
  batch = _images().batch(np.array([5, 1]))
  assert list(batch) == ["image", "label", "extent"]
  assert batch["image"].ravel().tolist() == [5, 1]
  assert batch["label"].tolist() == [1, 0]
  assert list(_images(label=None, extent=None).batch()) == ["image"]


def test_pictures_load_in_order_from_any_position(tmp_path):
  for i in range(11):
    Image.new("L", (4, 4), 10 * i).save(tmp_path / f"{i:02}.png")
  (tmp_path / "06.png").write_bytes(b"broken")
  source = data.open_source(f"folder:{tmp_path}", "all")
  geometry = data.measure(source, 4)
  batches = list(loader.load_in_order(source, geometry, batch_size=4, start=3))
  assert [batch.index.tolist() for batch in batches] == [
      [3, 4, 5, 6],
      [*range(7, 11)],
  ]
  first, _ = batches
  assert first.whole == [0, 1, 2] and list(first.broken) == [3]
  joined = np.concatenate([batch.image[:, 0, 0, 0] for batch in batches])
  assert joined.tolist() == [30, 40, 50, 0, 70, 80, 90, 100]
  assert not list(
      loader.load_in_order(source, geometry, batch_size=4, start=11)
  )


def test_parts_of_a_batch_join_with_their_broken_rows(tmp_path, monkeypatch):
  for i in range(10):
    Image.new("L", (4, 4), i).save(tmp_path / f"{i:02}.png")
  for i in (1, 7):
    (tmp_path / f"{i:02}.png").write_bytes(b"broken")
  source = data.open_source(f"folder:{tmp_path}", "all")
  read = reader.make_reader(source, data.measure(source, 4))
  (batch,) = loader.load_batches(
      read, lambda _: range(10), range(1), batch_size=10, part=3
  )
  assert sorted(batch.broken) == [1, 7]
  assert batch.broken[7].startswith("07.png")
  assert batch.name == [f"{i:02}.png" for i in range(10)]
