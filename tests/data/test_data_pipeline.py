"""Input pipelines: streamed and resident data train alike."""

import dataclasses
import functools
import shutil

import jax
import numpy as np
from PIL import Image
import pytest

from jssl import data, experiment, loop
from jssl.data import pipeline
from jssl.recorder import read_metrics
import tiny_run

SIZE = 60


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  folder = tmp_path_factory.mktemp("photos")
  random = np.random.default_rng(0)
  for i in range(SIZE):
    path = folder / ("ab"[i % 2]) / f"{i:03}.png"
    path.parent.mkdir(exist_ok=True)
    pixels = random.integers(0, 256, (20 + i % 5, 24, 3))
    Image.fromarray(np.uint8(pixels)).save(path)
  return folder


def _config(folder, method="simclr", **changes):
  config = tiny_run.config(method)
  config.epochs = 2.0
  config.data.name = f"folder:{folder}"
  config.data.workers = 0
  config.log.every_steps = 1
  config.eval.k = 3
  config.checkpoint.every_epochs = 0.4
  config.update_from_flattened_dict(changes)
  return config


def _train(config, workdir):
  loop.train(config, str(workdir))
  rows = read_metrics(str(workdir))
  return [row["loss"] for row in rows if "loss" in row], rows


@pytest.fixture(scope="module")
def resident(photos, tmp_path_factory):
  return _train(_config(photos), tmp_path_factory.mktemp("resident"))


@pytest.mark.slow
def test_a_stream_trains_exactly_as_memory_does(resident, photos, tmp_path):
  config = _config(photos, **{"data.stream": "always"})
  losses, rows = _train(config, tmp_path)
  assert losses == resident[0] and len(losses) == 12
  assert rows[-1]["knn"] == resident[1][-1]["knn"]
  assert all(row["replaced"] == 0 for row in rows if "loss" in row)


@pytest.mark.slow
def test_a_stream_resumes_in_the_middle(resident, photos, tmp_path):
  streamed = {"data.stream": "always"}
  half = _config(photos, **streamed, epochs=1.0)
  _train(half, tmp_path)
  # The other half from memory: nothing of the model depends on it.
  losses, rows = _train(_config(photos), tmp_path)
  assert losses[:6] == pytest.approx(resident[0][:6], rel=0.2)
  assert [row["step"] for row in rows if "loss" in row] == list(range(1, 13))


def test_sets_that_do_not_fit_are_streamed(photos, monkeypatch):
  config = _config(photos)
  streamed = lambda: experiment.make(config).pipeline.streamed
  assert not streamed()
  config.data.stream = "never"
  assert not streamed()
  monkeypatch.setattr(pipeline, "memory_limit", lambda: 0)
  assert not streamed()
  config.data.stream = "auto"
  assert streamed()
  config.data.stream = "allways"
  with pytest.raises(ValueError, match="allways.*Did you mean 'always'"):
    experiment.make(config)


def test_some_images_of_a_stream_are_evaluated(photos):
  config = _config(photos, **{"data.stream": "always", "eval.max_images": 7})
  exp = experiment.make(config)
  assert (len(exp.train.image), exp.pipeline.size) == (7, 53)
  assert exp.config.resolved.train_images == 53
  assert len(exp.test.image) == 7
  everything = data.load(f"folder:{photos}", "train", canvas=24).image
  index = np.linspace(0, 52, 7).astype(int)
  np.testing.assert_array_equal(exp.train.image, everything[index])


def test_devices_share_a_streamed_batch(photos):
  config = _config(photos, **{"data.stream": "always"})
  (call,) = experiment.make(config).pipeline.batches(3, 4, 20)
  assert call.count == 1
  assert call.inputs["image"].shape == (8, 1, 1, 24, 24, 3)
  assert len(call.inputs["image"].sharding.device_set) == 8
  index = data.batch_indices(0, 3, size=53, batch_size=8)
  everything = data.load(f"folder:{photos}", "train", canvas=24)
  np.testing.assert_array_equal(
      np.concatenate(call.inputs["image"])[:, 0], everything.image[index]
  )
  np.testing.assert_array_equal(
      np.ravel(call.inputs["label"]), everything.label[index]
  )


def _with_broken(photos, tmp_path, count):
  """Copies the pictures, the first of the training set broken."""
  source = data.open_source(f"folder:{photos}", "train")
  for i, record in enumerate(source.read(range(source.length))):
    path = tmp_path / "photos" / record.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(record.encoded[:80] if i < count else record.encoded)
  return tmp_path / "photos"


@pytest.mark.slow
def test_broken_pictures_are_named_once_and_counted(photos, tmp_path, capfd):
  config = _config(
      _with_broken(photos, tmp_path, 2),
      **{"data.stream": "always", "data.test": "train", "data.train": "all"},
  )
  _, rows = _train(config, tmp_path / "run")
  # The second epoch meets them again, unless it leaves them out.
  assert rows[-2]["replaced"] in (2, 3, 4)
  log = capfd.readouterr().err
  broken = [x for x in log.splitlines() if "truncated" in x]
  assert len(broken) == len(set(broken)) == 2


@pytest.mark.parametrize("stream", ["always", "never"])
def test_too_many_broken_pictures_are_refused(photos, tmp_path, stream):
  config = _config(
      _with_broken(photos, tmp_path, 20),
      **{"data.stream": stream, "data.train": "all", "data.test": "all"},
  )
  refused = r"of \d+ pictures of .*max_broken=0.1 (.|\n)*a/0..\.png: "
  with pytest.raises(ValueError, match=refused):
    loop.train(config, str(tmp_path / "run"))


def _with_labels(monkeypatch, known):
  """Opens sets of which only so many pictures have a label."""
  opened = data.open_source

  def open_source(*arguments, **options):
    source = opened(*arguments, **options)

    def read(indices):
      return [
          record if index < known else dataclasses.replace(record, label=-1)
          for index, record in zip(indices, source.read(indices))
      ]

    return dataclasses.replace(source, read=read)

  monkeypatch.setattr(data, "open_source", open_source)


def _supcon(photos, stream):
  changes = {"data.stream": stream, "optimizer.schedule.warmup_epochs": 1.0}
  return _config(photos, "supcon", **changes)


@pytest.mark.parametrize("stream", ["always", "never"])
def test_labels_that_are_all_unknown_are_none(photos, monkeypatch, stream):
  _with_labels(monkeypatch, 0)
  exp = experiment.make(_supcon(photos, stream))
  assert exp.pipeline.classes == () and exp.config.resolved.classes == []
  (note,) = exp.train.notes
  assert "no picture of" in note and "(train) has a label" in note
  for call in exp.pipeline.batches(0, 1, 1):
    resident = exp.pipeline.resident()
    first = jax.tree.map(lambda x: x[0, 0], call.inputs)
    assert "label" not in exp.pipeline.batch(resident, first)
  with pytest.raises(ValueError, match="no labels, and supcon learns"):
    experiment.initial_state(exp)


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["always", "never"])
def test_some_unknown_labels_are_reported_and_trained_with(
    photos, monkeypatch, tmp_path, capfd, stream
):
  _with_labels(monkeypatch, 40)
  losses, _ = _train(_supcon(photos, stream), tmp_path)
  assert len(losses) == 12 and np.isfinite(losses).all()
  log = capfd.readouterr().err
  assert "13 of 53 pictures of " in log and "have no label (-1)" in log


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["always", "never"])
def test_remarks_are_reported_once(photos, tmp_path, capfd, stream):
  folder = tmp_path / "photos"
  shutil.copytree(photos, folder)
  for i in range(6):
    deep = np.full((20, 24), 4000 + i, np.uint16)
    Image.fromarray(deep).save(folder / "a" / f"{2 * i:03}.png")
    (folder / "b" / f"{i}.heic").write_bytes(b"")
  config = _config(folder, **{"data.stream": stream, "data.train": "all"})
  _train(config, tmp_path / "run")
  log = capfd.readouterr().err.splitlines()
  (deep,) = [line for line in log if "16 bits" in line and "(all)" in line]
  assert "6 of 60 pictures" in deep and "above 4,005" in deep
  assert deep.endswith("(the first: a/000.png)")
  assert not [line for line in log if "is one of the pictures" in line]
  (others,) = [line for line in log if ".heic" in line]
  assert "6 ending in .heic" in others and "convert" in others


@pytest.mark.slow
def test_a_stream_reports_remarks_beyond_its_sample(photos, tmp_path, capfd):
  folder = tmp_path / "photos"
  shutil.copytree(photos, folder)
  for i in range(10, 30, 2):
    deep = np.full((20, 24), 4000, np.uint16)
    Image.fromarray(deep).save(folder / "a" / f"{i:03}.png")
  config = _config(
      folder,
      **{"data.stream": "always", "data.train": "all", "eval.max_images": 2},
  )
  _train(config, tmp_path / "run")
  log = capfd.readouterr().err.splitlines()
  (deep,) = [line for line in log if "is one of the pictures" in line]
  assert "above 4,000" in deep and "a/0" in deep


def test_a_stream_is_not_larger_than_its_batch(photos):
  source = data.open_source(f"folder:{photos}", "train")
  some = data.decode_all(data.sample(source, 3), data.measure(source, 24))
  with pytest.raises(ValueError, match="53 images, fewer than one batch of 64"):
    data.streamed_pipeline(source, some, batch_size=64, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["always", "never"])
def test_nothing_is_compiled_after_the_first_step(photos, stream):
  exp = experiment.make(_config(photos, **{"data.stream": stream}))
  dispatch, state = experiment.make_call(exp), experiment.initial_state(exp)
  resident, compiled = exp.pipeline.resident(), []
  jax.monitoring.register_event_duration_secs_listener(
      lambda event, *_, **__: "backend_compile" in event and compiled.append(1)
  )
  after = []
  for call in exp.pipeline.batches(0, 4, 1):
    state, metrics = dispatch(state, resident, call.inputs)
    jax.block_until_ready(metrics)
    after.append(len(compiled))
  assert after[0] > 0 and after[-1] == after[0]


@pytest.mark.parametrize("side,dimensions", [(8, 2), (96, 2), (128, 4)])
def test_images_are_gathered_from_rows_where_they_are_small(side, dimensions):
  random = np.random.default_rng(0)
  image = random.integers(0, 256, (5, side, side, 3), np.uint8)
  rows = data.as_rows({"image": image, "label": np.arange(5)})
  assert rows["image"].ndim == dimensions
  index = np.array([3, 0, 3])
  take = jax.jit(functools.partial(data.take, shape=image.shape[1:]))
  batch = take(rows, index)
  np.testing.assert_array_equal(batch["image"], image[index])
  np.testing.assert_array_equal(batch["label"], index)
