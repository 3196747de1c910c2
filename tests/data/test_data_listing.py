"""The cached listings of large folders."""

import json
import os
import time

import pytest

from jssl.data import listing


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """Six pictures in folders that changed long ago; five are many here."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setattr(listing, "_CACHED", 5)
  folder = tmp_path / "photos"
  for name in (
      "a/1.jpg",
      "a/2.JPG",
      "a/deep/3.png",
      "b/4.jpg",
      "5.jpg",
      "b/ü\udcff.jpg",
      ".hidden.jpg",
      ".dir/6.jpg",
      "b/7.txt",
  ):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"")
  _settle(folder)
  return folder


def _settle(folder):
  past = time.time() - 60
  for parent, _, _ in os.walk(folder):
    os.utime(parent, (past, past))


def _list(folder):
  return sorted(listing.list_files(folder, (".jpg", ".png")).names)


EXPECTED = sorted(
    ["a/1.jpg", "a/2.JPG", "a/deep/3.png", "b/4.jpg", "5.jpg", "b/ü\udcff.jpg"]
)


@pytest.fixture
def walks(monkeypatch):
  """Counts how often folders are walked through."""
  calls, walk = [], os.walk

  def counted(*arguments, **options):
    calls.append(1)
    return walk(*arguments, **options)

  monkeypatch.setattr(os, "walk", counted)
  return calls


def test_a_large_folder_is_listed_once(folder, walks):
  assert _list(folder) == EXPECTED
  assert _list(folder) == EXPECTED
  assert len(walks) == 1
  listing.list_files(
      folder, (".png",)
  )  # Other suffixes have a listing of their own.
  assert len(walks) == 2


def test_a_small_folder_is_not_cached(folder, walks, monkeypatch, tmp_path):
  monkeypatch.setattr(listing, "_CACHED", 7)
  assert _list(folder) == _list(folder) == EXPECTED
  assert len(walks) == 2 and not (tmp_path / "cache").exists()


@pytest.mark.parametrize("change", ["new", "gone", "renamed", "new folder"])
def test_a_folder_that_changed_is_listed_again(folder, walks, change):
  _list(folder)
  if change == "new":
    (folder / "a" / "deep" / "8.jpg").write_bytes(b"")
    expected = sorted([*EXPECTED, "a/deep/8.jpg"])
  elif change == "gone":
    (folder / "b" / "4.jpg").unlink()
    expected = [name for name in EXPECTED if name != "b/4.jpg"]
  elif change == "renamed":
    (folder / "5.jpg").rename(folder / "6.jpg")
    expected = sorted({*EXPECTED, "6.jpg"} - {"5.jpg"})
  else:
    (folder / "c").mkdir()
    expected = EXPECTED
  assert _list(folder) == expected
  assert len(walks) == 2


def test_a_folder_being_filled_is_not_cached(folder, walks):
  (folder / "a" / "8.jpg").write_bytes(b"")
  assert _list(folder) == _list(folder)
  assert len(walks) == 2


def test_a_damaged_listing_is_replaced(folder, walks, tmp_path):
  _list(folder)
  (cached,) = (tmp_path / "cache").rglob("*.json")
  whole = cached.read_bytes()
  other = json.dumps({"names": [0, 0, 0]}).encode()
  for content in (b"", b"nonsense", b"\xff", whole[:200], other):
    cached.write_bytes(content)
    assert _list(folder) == EXPECTED
  assert len(walks) == 6


def test_without_a_place_for_it_nothing_is_cached(
    folder, walks, tmp_path, monkeypatch
):
  (tmp_path / "file").write_text("")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  assert _list(folder) == _list(folder) == EXPECTED
  assert len(walks) == 2
