"""What `jssl.embed` prints and draws of neighbours and near-duplicates."""

import io
import types

import numpy as np
from PIL import Image
import pytest

from jssl import data
from jssl.embed import formats, search


def _encoded(i):
  """A picture whose gray shows its number."""
  file = io.BytesIO()
  Image.new("RGB", (30, 20), (i, i, i)).save(file, "png")
  return file.getvalue()


def _gallery(folder, rows, *, label=None, classes=(), broken=(), **more):
  """A plan and a file of features; picture 0 was left out, so it has no row."""
  count = len(rows)
  names = more.get("names") or [f"{i}.png" for i in range(1, count + 1)]

  def read(index):
    return [
        data.Record(b"?" if i in broken else _encoded(i), -1, str(i))
        for i in index
    ]

  plan = types.SimpleNamespace(
      about={"dataset": more.get("dataset", f"folder:{folder}")},
      source=data.Source("gallery", count + 1, read, ()),
  )
  features = formats.FeatureFile(
      folder / "x.npz",
      {},
      formats.Columns(names, np.arange(1, count + 1), label, classes),
      rows.shape,
      lambda a, b: rows[a:b],
  )
  return plan, features


@pytest.fixture
def drawn(monkeypatch):
  """The grids that were drawn: (thumbnails, path, title) of each."""
  grids = []

  def grid(rows, path, *, title, **_):
    assert all(len(row) == 4 for row in rows[:-1])
    grids.append(([x for row in rows for x in row], path, title))

  monkeypatch.setattr(search.figures, "grid", grid)
  return grids


def _number(thumbnail):
  """The number of the picture that a thumbnail shows."""
  (value,) = np.unique(thumbnail.pixels)
  return int(value)


def _fan(count):
  """Rows whose similarity to the first falls from row to row."""
  angles = np.linspace(0, 1.5, count)
  return np.float32(np.stack([np.cos(angles), np.sin(angles)], axis=1))


def _show_neighbours(tmp_path, rows, *, query=None, name="q.png", **gallery):
  plan, features = _gallery(tmp_path, rows, **gallery)
  path = tmp_path / name
  path.parent.mkdir(exist_ok=True)
  path.write_bytes(_encoded(200))
  query = rows[0] if query is None else query
  search.show_neighbours(plan, features, search.Query(str(path), query))


def test_ten_neighbours_are_printed_and_drawn(tmp_path, drawn, capsys):
  rows = _fan(30)
  _show_neighbours(tmp_path, rows)
  first, *lines, last = capsys.readouterr().out.splitlines()
  path = tmp_path / "x.neighbours.png"
  assert first == f"Nearest to {tmp_path}/q.png, by cosine similarity:"
  assert lines == [f"  {rows[0] @ rows[i]:.4f}  {i + 1}.png" for i in range(10)]
  assert last == f"Drawn in {path}"
  ((shown, target, title),) = drawn
  assert (target, title) == (path, f"nearest to {tmp_path}/q.png")
  assert [_number(x) for x in shown] == [200, *range(1, 11)]
  assert shown[0].caption == f"query\n{tmp_path}/q.png"
  assert shown[3].caption == f"{rows[0] @ rows[2]:.4f}\n3.png"
  assert shown[0].pixels.shape == (20, 30, 3)  # Small ones are not enlarged.


def test_a_picture_of_the_folder_is_not_its_own_neighbour(
    tmp_path, drawn, capsys
):
  names = [f"{i}.png" for i in range(1, 13)]
  names[4] = "a/q.png"
  _show_neighbours(tmp_path, _fan(12), name="a/q.png", names=names)
  output = capsys.readouterr().out
  assert "  a/q.png" not in output and "  4.png" in output
  assert 5 not in [_number(x) for x in drawn[0][0]]


@pytest.mark.parametrize("kind", ["outside", "not listed", "other source"])
def test_a_picture_from_elsewhere_has_all_rows(tmp_path, drawn, capsys, kind):
  del drawn
  (tmp_path / "photos").mkdir()
  names = ["q.png" if kind != "not listed" else "1.png", "2.png"]
  dataset = "digits" if kind == "other source" else f"folder:{tmp_path}/photos"
  _show_neighbours(
      tmp_path,
      _fan(2),
      name="photos/q.png" if kind == "not listed" else "q.png",
      names=names,
      dataset=dataset,
  )
  assert names[0] in capsys.readouterr().out.splitlines()[1]


def test_the_folder_may_be_a_link(tmp_path, drawn, capsys):
  del drawn
  (tmp_path / "photos").mkdir()
  (tmp_path / "link").symlink_to(tmp_path / "photos")
  _show_neighbours(
      tmp_path,
      _fan(3),
      name="photos/q.png",
      names=["q.png", "b.png", "c.png"],
      dataset=f"folder:{tmp_path}/link",
  )
  assert "  q.png" not in capsys.readouterr().out


def test_classes_are_named_unless_the_path_shows_them(tmp_path, drawn, capsys):
  del drawn
  _show_neighbours(
      tmp_path,
      _fan(4),
      label=np.array([0, 0, -1, 1]),
      classes=("cat", "dog"),
      names=["cat/1.png", "cats/cat.png", "3.png", "4.png"],
  )
  lines = capsys.readouterr().out.splitlines()[1:5]
  assert [line.split("  ")[-1] for line in lines] == [
      "cat/1.png",
      "cats/cat.png (cat)",
      "3.png",
      "4.png (dog)",
  ]


def test_pictures_that_cannot_be_decoded_are_black(tmp_path, drawn):
  _show_neighbours(tmp_path, _fan(3), broken={2})
  assert [_number(x) for x in drawn[0][0]] == [200, 1, 0, 3]


def _twins(count):
  """`count` pairs of equal rows, which have nothing else in common."""
  return np.repeat(np.eye(count, dtype=np.float32), 2, axis=0)


def test_pairs_of_equal_similarity_are_in_the_order_of_the_rows(
    tmp_path, monkeypatch
):
  monkeypatch.setattr(search, "_BLOCK", 5)
  rows = np.tile(_twins(4), (2, 1))  # Of 16, four are equal each.
  _, features = _gallery(tmp_path, rows)
  i, j = np.nonzero(np.triu(rows @ rows.T, 1))
  expected = np.stack([i, j], axis=1)
  pairs = search.duplicates(features, 1.0)
  np.testing.assert_array_equal(pairs.rows, expected)
  few = search.duplicates(features, 1.0, limit=7)
  np.testing.assert_array_equal(few.rows, expected[:7])
  assert few.count == pairs.count == len(expected) == 24


def test_equal_directions_reach_a_threshold_of_1_in_spite_of_rounding(
    tmp_path,
):
  rows = np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)
  _, features = _gallery(tmp_path, np.concatenate([rows, 3 * rows]))
  pairs = search.duplicates(features, 1.0)
  assert pairs.similarity.min() < 1
  assert {*map(tuple, pairs.rows)} == {(i, i + 50) for i in range(50)}


@pytest.mark.parametrize("count", [1, 12, 13, 100, 102])
def test_a_hundred_pairs_are_printed_and_twelve_drawn(
    tmp_path, drawn, capsys, count
):
  plan, features = _gallery(tmp_path, _twins(count))
  search.show_duplicates(plan, features, 0.95)
  first, *lines, last = capsys.readouterr().out.splitlines()
  assert first == f"{count} pairs of cosine similarity 0.95 or more"
  expected = [f"  1.0000  {i}.png  {i + 1}.png" for i in range(1, 2 * count, 2)]
  if count > 100:
    expected[100:] = [f"  and {count - 100} more"]
  assert lines == expected
  path, few = tmp_path / "x.duplicates.png", min(count, 12)
  assert last == f"Drawn in {path}"
  ((shown, target, title),) = drawn
  assert (target, title) == (path, f"the {few} closest of {count} pairs")
  assert [_number(x) for x in shown] == [*range(1, 2 * few + 1)]
  assert [x.caption for x in shown[:2]] == [
      f"pair 1: 1.0000\n{i}.png" for i in (1, 2)
  ]


def test_without_pairs_nothing_is_drawn(tmp_path, drawn, capsys):
  plan, features = _gallery(tmp_path, np.eye(5, dtype=np.float32))
  search.show_duplicates(plan, features, 0.5)
  assert capsys.readouterr().out == "0 pairs of cosine similarity 0.5 or more\n"
  assert not drawn


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.001, float("nan")])
def test_a_threshold_out_of_range_is_refused(tmp_path, threshold):
  _, features = _gallery(tmp_path, _twins(2))
  with pytest.raises(ValueError, match=f"is {threshold}; expected a cosine"):
    search.duplicates(features, threshold)


def test_a_query_that_is_no_picture_is_refused(tmp_path, monkeypatch):
  (tmp_path / "x.png").write_bytes(b"x")

  def refuse(plan, encoded):
    raise ValueError(f"{plan} read {encoded!r}")

  monkeypatch.setattr(search.compute, "encode_picture", refuse)
  with pytest.raises(
      ValueError, match=r"x.png is not a picture: p read b'x'. Give a picture"
  ):
    search.query("p", str(tmp_path / "x.png"))
  with pytest.raises(FileNotFoundError, match="There is no file .*none.png"):
    search.query("p", str(tmp_path / "none.png"))
  with pytest.raises(FileNotFoundError, match="There is no file"):
    search.query("p", str(tmp_path))  # A folder.
