"""Checkpoints that a disk, another model or another version has spoiled."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jssl import checkpoint, encoder
from jssl.checkpoint import Checkpoints
from jssl.step import TrainState


def _state(step, width=300):
  params = {"w": jnp.linspace(0, step, width), "b": jnp.ones((3, 2)) * step}
  return TrainState(
      jnp.asarray(step, jnp.int32),
      params,
      {"mean": jnp.arange(4.0) * step},
      optax.adam(0.1).init(params),
      jax.random.key(5),
  )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A folder with the checkpoints of steps 1 and 2."""
  folder = tmp_path_factory.mktemp("saved")
  checkpoints = Checkpoints(str(folder))
  for step in (1, 2):
    checkpoints.save(step, _state(step))
  checkpoints.close()
  return folder


def _restore(folder, like=None, **arguments):
  checkpoints = Checkpoints(str(folder), **arguments)
  try:
    state = checkpoints.restore(_state(0) if like is None else like)
  finally:
    checkpoints.close()
  return state, checkpoints.unreadable


def _same(a, b):
  plain = lambda x: jax.tree.leaves(x._replace(key=jax.random.key_data(x.key)))
  return all(map(np.array_equal, plain(a), plain(b)))


def test_the_newest_comes_back_as_it_was(saved):
  state, unreadable = _restore(saved)
  assert _same(state, _state(2)) and unreadable == []
  assert state.key.dtype == jax.random.key(0).dtype
  assert len(state.params["w"].sharding.device_set) == 8


def _flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 0x40
  path.write_bytes(content)


def _truncate(path):
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    "damage", [_flip, _truncate, lambda path: path.unlink()]
)
def test_damage_of_any_file_is_detected_or_harmless(saved, tmp_path, damage):
  at = saved / "checkpoints" / "2"
  names = [p.relative_to(saved) for p in at.rglob("*") if p.is_file()]
  names = [name for name in names if (saved / name).stat().st_size]
  reported = []
  for i, name in enumerate(names):
    folder = tmp_path / str(i)
    shutil.copytree(saved, folder)
    damage(folder / name)
    state, unreadable = _restore(folder)
    if unreadable:
      assert _same(state, _state(1)), name
      assert "step 2 cannot be read" in unreadable[0]
      assert "using that of step 1" in unreadable[0]
      aside = folder / "checkpoints" / "unreadable" / "2"
      assert aside.is_dir()
      reported.append(str(name))
    else:
      assert _same(state, _state(2)), name
  needed = ("state/manifest.ocdbt", "state/d/", "about/metadata")
  assert all(
      any(part in name for name in reported) for part in needed
  ), reported


def test_a_run_resumes_from_before_a_damaged_checkpoint(saved, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(saved, folder)
  shutil.rmtree(folder / "checkpoints" / "2" / "state")
  checkpoints = Checkpoints(str(folder))
  checkpoints.restore(_state(0))
  assert checkpoints.latest == 1
  checkpoints.save(2, _state(2))
  checkpoints.close()
  state, unreadable = _restore(folder)
  assert _same(state, _state(2)) and not unreadable


def test_a_reader_moves_nothing(saved, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(saved, folder)
  shutil.rmtree(folder / "checkpoints" / "2" / "about")
  state, unreadable = _restore(folder, read_only=True)
  assert _same(state, _state(1)) and len(unreadable) == 1
  assert (folder / "checkpoints" / "2" / "state").is_dir()
  assert not (folder / "checkpoints" / "unreadable").exists()


def test_values_that_changed_are_not_taken(saved, tmp_path, monkeypatch):
  """A file whose damage nothing else notices, by the sum of its array."""
  described = checkpoint._described

  def another(state):
    about = described(state)
    name = ".params['w']"
    about["arrays"][name] = about["arrays"][name][:-8] + "00000000"
    about["checksum"] = checkpoint._checksum_of(about["arrays"])
    return about

  monkeypatch.setattr(checkpoint, "_described", another)
  checkpoints = Checkpoints(str(tmp_path))
  checkpoints.save(1, _state(1))
  checkpoints.close()
  monkeypatch.undo()
  with pytest.raises(ValueError, match=r"params\['w'\] has changed since"):
    _restore(tmp_path)


def test_when_all_are_damaged_nothing_is_lost(saved, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(saved, folder)
  for step in "12":
    (folder / "checkpoints" / step / "state" / "_METADATA").write_text("{")
  before = sorted(folder.rglob("*"))
  with pytest.raises(ValueError, match="step 2: .*step 1: .*Restore a copy"):
    _restore(folder)
  assert sorted(folder.rglob("*")) == before


def test_another_model_is_refused_and_named(saved):
  with pytest.raises(
      ValueError,
      match=r"\['w'\]: float32\[300\] in the checkpoint, float32\[301\] now",
  ):
    _restore(saved, _state(0, width=301))
  more = _state(0)._replace(carried={"queue": jnp.zeros(3)})
  with pytest.raises(ValueError, match="queue'.: absent in the checkpoint"):
    _restore(saved, more)
  assert (saved / "checkpoints" / "2").is_dir()


def _of_another_optimizer():
  state = _state(0)
  return state._replace(opt_state=optax.sgd(0.1, 0.9).init(state.params))


def test_another_optimizer_does_not_keep_its_encoder_from_being_read(saved):
  like = encoder.State(*_of_another_optimizer()[:3])
  checkpoints = Checkpoints(str(saved), read_only=True)
  state = checkpoints.restore(like, partial=True)
  checkpoints.close()
  assert type(state) is encoder.State and int(state.step) == 2
  for actual, expected in zip(
      jax.tree.leaves(state), jax.tree.leaves(_state(2)[:3]), strict=True
  ):
    np.testing.assert_array_equal(actual, expected)
  with pytest.raises(ValueError, match="another version(.|\n)*Use the version"):
    _restore(saved, _of_another_optimizer())
  with pytest.raises(ValueError, match="It can still be evaluated and export"):
    _restore(saved, _of_another_optimizer())


def test_a_part_is_checked_like_the_whole(saved, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(saved, folder)
  shutil.rmtree(folder / "checkpoints" / "2" / "state" / "d")
  checkpoints = Checkpoints(str(folder), read_only=True)
  part = encoder.State(*_state(0)[:3])
  assert int(checkpoints.restore(part, partial=True).step) == 1
  assert "step 2 cannot be read" in checkpoints.unreadable[0]
  more = part._replace(carried={"queue": jnp.zeros(3)})
  with pytest.raises(
      ValueError, match="1 arrays.*\n.*queue'.: absent"
  ) as raised:
    checkpoints.restore(more, partial=True)
  assert "evaluated and exported" not in str(raised.value)
  checkpoints.close()


def test_another_format_is_refused(saved, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(saved, folder)
  path = folder / "checkpoints" / "2" / "about" / "metadata"
  about = json.loads(path.read_text())
  path.write_text(json.dumps(about | {"format": 99}))
  with pytest.raises(ValueError, match="has format 99, but .* reads format 1"):
    _restore(folder)


def test_an_empty_folder_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match="train first"):
    _restore(tmp_path)
