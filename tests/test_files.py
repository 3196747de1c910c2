"""Files are replaced as a whole, and written by one process at a time."""

import json

import pytest

from jssl import files


def test_a_file_is_replaced_at_the_end_of_the_block(tmp_path):
  path = tmp_path / "x.json"
  files.write_json({"a": 1}, path)
  with files.atomic(path) as temporary:
    temporary.write_text("[2]")
    assert json.loads(path.read_text()) == {"a": 1}
  assert json.loads(path.read_text()) == [2]
  assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
  path = tmp_path / "x.json"
  files.write_json({"a": 1}, path)
  with pytest.raises(TypeError):
    files.write_json({"a": object()}, path)
  with pytest.raises(OSError, match="full"):
    with files.atomic(path, suffix=".7.tmp") as temporary:
      assert temporary.name == "x.json.7.tmp"
      temporary.write_text("half")
      raise OSError("the disk is full")
  assert json.loads(path.read_text()) == {"a": 1}
  assert list(tmp_path.iterdir()) == [path]


def test_a_path_is_checked_without_a_trace(tmp_path):
  files.check_writable(tmp_path / "new" / "x.json")
  assert list((tmp_path / "new").iterdir()) == []
  with pytest.raises(OSError, match="new cannot be written.*directory"):
    files.check_writable(tmp_path / "new")
  (tmp_path / "file").touch()
  with pytest.raises(OSError, match="give another name or folder"):
    files.check_writable(tmp_path / "file" / "x.json")


def test_the_lock_is_exclusive_until_the_block_ends(tmp_path):
  path = tmp_path / "run.lock"
  with files.exclusive(path, busy="in use"):
    with pytest.raises(BlockingIOError, match="in use"):
      with files.exclusive(path, busy="in use"):
        pytest.fail("two have it")
  assert not path.exists()
  with files.exclusive(path, busy="in use"):
    assert path.exists()
