"""Experiments: their encoder, the export of their step, their batches."""

import os
import re
import shutil
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import data, experiment, load_encoder, loop, make_step, report
from jssl.config import build, of_method
from jssl.evals import summary
from jssl.recorder import read_metrics, Recorder
from jssl.step import init_state
import tiny


def _config(data_dir, **changes):
  config = of_method("moco_v2", "digits")
  config.data.data_dir = str(data_dir)
  config.update(changes)
  return config


def _short(data_dir, *, epochs=1.0, every_steps=4):
  """A config of a tiny net that trains for a moment."""
  return _config(
      data_dir,
      epochs=epochs,
      net={"width": 8},
      method={"queue_size": 256},
      log={"every_steps": every_steps},
  )


def _train(config, workdir):
  """Trains.

  Returns:
    The numbers of rows that `watch` saw, and the modules that computed
    features.
  """
  seen, computed = [], []

  def counted(module, function):
    def count(*arguments, **keywords):
      computed.append(module.__name__.rpartition(".")[2])
      return function(*arguments, **keywords)

    return count

  with pytest.MonkeyPatch.context() as patch:
    for module, name in (
        (loop, "compute_for_scores"),
        (summary, "compute_for_scores"),
        (report.run, "compute"),
    ):
      patch.setattr(module, name, counted(module, getattr(module, name)))
    loop.train(config, workdir, watch=lambda rows: seen.append(len(rows)))
  return seen, computed


@pytest.fixture(scope="module")
def first(tmp_path_factory, data_dir):
  """The folder of a short run, its config, and what `_train` returns."""
  workdir = str(tmp_path_factory.mktemp("run"))
  config = _short(data_dir)
  return workdir, config, *_train(config, workdir)


@pytest.fixture(scope="module")
def again(first, tmp_path_factory):
  """The same of a copy of that run, trained again: it is evaluated again."""
  workdir = str(tmp_path_factory.mktemp("again") / "run")
  shutil.copytree(first[0], workdir)
  return workdir, first[1], *_train(first[1], workdir)


@pytest.fixture(scope="module")
def finished(first):
  """The folder of a short run, and its config."""
  return first[:2]


@pytest.mark.slow
def test_load_encoder_gives_the_features_of_the_run(finished):
  workdir, config = finished
  encode, params = load_encoder(workdir)
  exp = experiment.make(config)
  images = exp.test.image[:5]
  features = encode(params, images)
  assert features.shape == (5, 32) and features.dtype == jnp.float32
  np.testing.assert_allclose(
      encode(params, images.astype(np.float32) / 255), features, atol=1e-5
  )
  stages = encode(params, images, stages=True)
  assert stages["stage_1"].shape == (5, 16, 16, 8)
  np.testing.assert_allclose(stages["pooled"], features, atol=1e-5)
  state = experiment.initial_state(exp)
  untrained = exp.encode((state.params, state.carried), images)
  assert np.abs(untrained - features).max() > 1e-2


def test_gradients_flow_through_the_encoder(finished):
  encode, params = load_encoder(finished[0])
  images = jnp.linspace(0, 1, 2 * 64).reshape(2, 8, 8, 1)
  by_image = jax.grad(lambda x: encode(params, x).sum())(images)
  assert np.isfinite(by_image).all() and np.abs(by_image).max() > 0
  trained, carried = params
  by_param = jax.grad(lambda p: encode((p, carried), images).sum())(trained)
  assert max(np.abs(x).max() for x in jax.tree.leaves(by_param["net"])) > 0


def test_load_encoder_names_what_is_missing(tmp_path):
  with pytest.raises(FileNotFoundError, match="config.json"):
    load_encoder(str(tmp_path))


def test_images_of_a_wrong_rank_are_refused(finished):
  encode, params = load_encoder(finished[0])
  with pytest.raises(ValueError, match=r"\(8, 8, 1\)"):
    encode(params, np.zeros((8, 8, 1), np.uint8))


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_step_of_the_default_config_exports(data_dir, platform):
  config = _config(data_dir, precision="bfloat16")
  method = build.method(config)
  optimizer = build.optimizer(config, steps_per_epoch=9)
  batch = {"image": jax.ShapeDtypeStruct((128, 8, 8, 1), jnp.uint8)}
  state = jax.eval_shape(
      lambda key, batch: init_state(method, optimizer, key, batch),
      jax.random.key(0),
      batch,
  )
  step = jax.jit(make_step(method, optimizer))
  exported = jax.export.export(step, platforms=[platform])(state, batch)
  assert exported.platforms == (platform,)
  assert "bf16" in exported.mlir_module()


def test_devices_share_a_batch_without_overlap(finished):
  _, config = finished
  exp = experiment.make(config)
  indices = next(exp.pipeline.batches(0, 3, 3)).inputs
  assert indices.shape == (8, 3, 16)
  for step in range(3):
    assert len(np.unique(indices[:, step])) == 128


@pytest.mark.parametrize(
    ("epochs", "expected"), [(1.0, 11), (3.0, 11), (13 / 11, 13), (23 / 11, 20)]
)
def test_steps_per_call_divide_the_training_if_possible(
    finished, epochs, expected
):
  config = finished[1].copy_and_resolve_references()
  config.update(epochs=epochs, steps_per_dispatch=20)
  assert experiment.make(config).steps_per_call == expected


def test_a_call_chosen_by_jssl_is_no_longer_than_an_epoch(
    finished, monkeypatch
):
  config = finished[1].copy_and_resolve_references()
  config.update(batch_size=464, epochs=40.0)  # Three steps per epoch.
  assert experiment.make(config).steps_per_call == 1
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  config.precision = "float32"
  assert experiment.make(config).steps_per_call == 3
  config.steps_per_dispatch = 20
  assert experiment.make(config).steps_per_call == 20


@pytest.mark.slow
def test_an_epoch_has_a_row_however_small_the_set_is(
    tmp_path, data_dir, only_train
):
  config = _short(data_dir, epochs=3.0, every_steps=50)
  loop.train(config, str(tmp_path))
  rows = [row for row in read_metrics(str(tmp_path)) if "loss" in row]
  assert [row["epoch"] for row in rows] == [1, 2, 3]


@pytest.mark.slow
def test_steps_in_one_call_equal_steps_in_many(finished):
  _, config = finished
  exp = experiment.make(config)
  dispatch, held = experiment.make_call(exp), exp.pipeline.resident()
  results = []
  for steps_per_call in (2, 1):
    state = experiment.initial_state(exp)
    for call in exp.pipeline.batches(0, 3, steps_per_call):
      state, metrics = dispatch(state, held, call.inputs)
    results.append((state.params, metrics["loss"][-1]))
  tiny.assert_trees_close(results[0], results[1], 1e-4)


def test_numbers_out_of_range_are_refused(data_dir):
  for changes, name in (
      ({"log": {"every_steps": 0}}, "log.every_steps is 0"),
      ({"eval": {"every_epochs": 0.0}}, "eval.every_epochs is 0"),
      ({"epochs": -1.0}, "epochs is -1"),
      ({"eval": {"k": -1}}, "eval.k is -1"),
  ):
    with pytest.raises(ValueError, match=name):
      experiment.make(_config(data_dir, **changes))


def test_reading_keeps_unfinished_checkpoints(finished, tmp_path):
  shutil.copytree(finished[0], tmp_path / "run")
  unfinished = tmp_path / "run" / "checkpoints" / "99.orbax-checkpoint-tmp"
  unfinished.mkdir()
  load_encoder(str(tmp_path / "run"))
  assert unfinished.exists()


def test_batch_that_devices_do_not_divide_is_refused(data_dir):
  with pytest.raises(ValueError, match="100.*8 devices"):
    experiment.make(_config(data_dir, batch_size=100))


_SETTINGS = {
    "method": ("moco_v2", "moco_v1", "nnclr", "swav", "simclr"),
    "net": ("resnet8", "vit_micro"),
    "batch_size": (4, 24, 100, 128, 500),
    "groups": (1, 2, 8, 16, 64),
    "micro_batches": (1, 3, 4),
    "queue_size": (96, 1000, 4096, 65536),
    "images": (11, 40, 100, 300),
}


@pytest.fixture
def mistaken(data_dir, monkeypatch):
  """Makes an experiment of some settings, on a set of some images."""

  def make(seed):
    random = np.random.default_rng(seed)
    chosen = {k: random.choice(v).item() for k, v in _SETTINGS.items()}
    config = of_method(chosen["method"], "digits")
    config.data.data_dir = str(data_dir)
    config.net.update(
        name=chosen["net"],
        width=8,
        groups=chosen["groups"],
        micro_batches=chosen["micro_batches"],
    )
    config.batch_size = chosen["batch_size"]
    if "queue_size" in config.method:
      config.method.queue_size = chosen["queue_size"]
    monkeypatch.setattr(
        data,
        "load_images",
        lambda source, **settings: (
            whole.take(np.arange(chosen["images"])),
            False,
        ),
    )
    return config

  whole = data.load("digits", "train", data_dir=str(data_dir))
  return make


def _follow_suggestions(config):
  """Follows the suggestions of messages: the experiment, and their number."""
  for messages in range(3):
    try:
      return experiment.make(config), messages
    except ValueError as error:
      flags = re.findall(r"--config\.([\w.]+)=(\d+)", str(error))
      queue = re.search(r"choose a queue size .* such as (\d+)\.", str(error))
      if queue:
        flags.append(("method.queue_size", queue[1]))
      assert flags, error
      config.update_from_flattened_dict({k: int(v) for k, v in flags})
  raise AssertionError("no suggestion was accepted")


@pytest.mark.slow
def test_a_suggested_batch_size_is_accepted(mistaken):
  followed = 0
  for seed in range(50):
    config = mistaken(seed)
    exp, messages = _follow_suggestions(config)
    # The second is of a multiple that is larger than the set.
    assert messages <= 2
    assert len(exp.train.image) >= config.batch_size
    if messages:
      assert not config.method.get("queue_size", 0) % config.batch_size
      followed += 1
  assert followed > 25


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5, 6])
def test_a_step_takes_a_suggested_batch_size(mistaken, seed):
  seed *= 1000
  while not (followed := _follow_suggestions(mistaken(seed)))[1]:
    seed += 1
  exp, _ = followed
  arguments = (
      jax.eval_shape(exp.init, jax.random.key(0)),
      jax.eval_shape(exp.pipeline.resident),
      next(exp.pipeline.batches(0, 1, 1)).inputs,
  )
  jax.eval_shape(experiment.make_call(exp), *arguments)


def test_a_set_smaller_than_the_devices_is_refused(mistaken, monkeypatch):
  monkeypatch.setitem(_SETTINGS, "images", (7,))
  config = mistaken(0)
  config.update(batch_size=64, net={"groups": 1, "micro_batches": 1})
  with pytest.raises(ValueError, match="7 images, fewer than the 8 devices"):
    experiment.make(config)


@pytest.mark.parametrize(
    "key",
    ["method.name", "net.name", "optimizer.name", "optimizer.schedule.name"],
)
def test_an_unknown_name_is_refused_before_data_is_opened(
    key, data_dir, monkeypatch
):
  config = _config(data_dir)
  config.update_from_flattened_dict({key: "sdg"})
  monkeypatch.setattr(data, "open_source", lambda *_, **__: pytest.fail("data"))
  with pytest.raises(ValueError, match=f"config.{key} is 'sdg'; expected one"):
    experiment.make(config)


def test_the_method_is_made_once(data_dir, monkeypatch):
  made, real = [], build.method

  def counted(*arguments, **keywords):
    made.append(keywords["steps_per_epoch"])
    return real(*arguments, **keywords)

  monkeypatch.setattr(build, "method", counted)
  assert experiment.make(_short(data_dir)).steps_per_epoch == 11
  assert made == [11]


@pytest.mark.slow
def test_features_of_the_last_state_are_computed_once(first, again):
  for workdir, _, _, computed in (first, again):
    # The loop for the trained encoder, the summary for its two baselines.
    assert computed == ["loop", "summary", "summary"]
    assert os.path.exists(os.path.join(workdir, "report.html"))


@pytest.mark.slow
def test_a_watch_sees_each_row_as_it_is_written(first, again):
  workdir, _, seen, _ = first
  rows = read_metrics(workdir)
  # Three of metrics, and the evaluation at the end.
  assert seen == [1, 2, 3, 4] and len(rows) == 4 and "rank" in rows[-1]
  # A run that is resumed, or finished, shows its earlier rows at once.
  assert again[2] == [4]


@pytest.mark.slow
@pytest.mark.parametrize(
    "method,reason",
    [
        ("simclr", "nt_xent got a global batch of 1 image"),
        ("moco_v3", "A BatchNorm group has a single image"),
        ("byol", "A BatchNorm group has a single image"),
    ],
)
def test_a_batch_of_one_is_refused_before_a_step_is_compiled(
    tmp_path, data_dir, method, reason
):
  done = subprocess.run(
      [
          *(sys.executable, "-m", "jssl.train", f"--data_dir={data_dir}"),
          *(f"--config={method}:digits", f"--workdir={tmp_path}"),
          *("--config.batch_size=1", "--config.net.width=8"),
      ],
      env={**os.environ, "JAX_NUM_CPU_DEVICES": "1", "JAX_LOG_COMPILES": "1"},
      capture_output=True,
      text=True,
      check=False,
  )
  assert done.returncode == 1
  assert f"config.batch_size is 1: {reason}" in done.stderr
  compiled = set(re.findall(r"Compiling \w+\(([^)]*)\)", done.stderr))
  assert compiled  # Small programs are, and are logged.
  assert not compiled & {"step", "call", "<lambda>"}


def test_gray_images_get_the_average_of_the_colors_statistics(data_dir):
  config = _config(data_dir, net={"width": 8, "name": "resnet8"})
  with config.ignore_type():
    config.net.update(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
  exp = experiment.make(config)
  assert exp.config.resolved.channels == 1
  assert (exp.config.net.mean, exp.config.net.std) == (0.449, 0.226)
  assert tuple(config.net.mean) == (0.485, 0.456, 0.406)
  state = jax.eval_shape(exp.init, jax.random.key(0))
  # Not three channels of one.
  assert state.params["net"]["stem"]["kernel"].shape[2] == 1


@pytest.mark.parametrize("images,warned", [(1, False), (9, False), (10, True)])
def test_a_few_held_out_images_are_no_collapse(
    tmp_path, capsys, images, warned
):
  exp = types.SimpleNamespace(
      learning_rate=lambda step: 0.1,
      total_steps=2,
      steps_per_epoch=1,
      test=types.SimpleNamespace(image=np.zeros((images, 8, 8, 1))),
  )
  recorder = Recorder(exp, str(tmp_path), step=0)
  recorder.evaluation(1, {"rank": 1.0, "encoder_std": 0.0})
  recorder.close()
  assert ("collapse" in capsys.readouterr().err) == warned
