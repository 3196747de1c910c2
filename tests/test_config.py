"""Configs, and the objects that they describe."""

import inspect
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jssl import nets
from jssl.config import (
    base,
    build,
    changes,
    config_files,
    ConfigDict,
    difference,
    load_config,
    lookup,
    of_method,
    presets,
    save_config,
    settings,
)
from jssl.method import Method
from jssl.methods import METHODS

FOLDER = pathlib.Path(__file__).parent.parent / "configs"
FILES = sorted(FOLDER.glob("*.py"))
DATASETS = ("digits", "photos", "cifar10", "imagenet2012", "folder:x")


@pytest.mark.parametrize(
    "section,entry",
    [
        (presets.lars, {"nesterov": True}),
        (presets.adamw, {"momentum": 0.5}),
        (presets.sgd, {"b1": 0.5}),
    ],
)
def test_a_preset_refuses_settings_of_other_optimizers(section, entry):
  with pytest.raises(TypeError, match=next(iter(entry))):
    section(learning_rate=0.1, weight_decay=0.0, **entry)


def _config(dataset="digits", name="moco_v2"):
  return of_method(name, dataset)


@pytest.mark.parametrize(
    "dataset,expected",
    [
        ("digits", (16, 0, "resnet8", "cifar", 1.0)),
        ("photos", (32, 0, "resnet8", "cifar", 1.0)),
        ("cifar10", (32, 0, "resnet18", "cifar", 1.0)),
        ("cifar100", (32, 0, "resnet18", "cifar", 1.0)),
        ("imagenet2012", (224, 512, "resnet50", "imagenet", 0.875)),
        ("imagenet2012:5.1.0", (224, 512, "resnet50", "imagenet", 0.875)),
        ("folder:x", (128, 512, "resnet18", "imagenet", 1.0)),
        ("oxford_flowers102", (128, 512, "resnet18", "imagenet", 1.0)),
    ],
)
def test_base_fits_its_data_set(dataset, expected):
  config = base(dataset)
  assert config.data.name == dataset
  assert expected == (
      config.image_size,
      config.data.canvas,
      config.net.name,
      config.net.stem,
      config.eval.crop_fraction,
  )


def test_lookup_returns_a_known_name():
  assert lookup("config.net.name", "a", {"a": 1, "b": 2}) == "a"


def test_lookup_suggests_the_closest_names():
  with pytest.raises(ValueError) as error:
    lookup("config.net.name", "resnet19", ("resnet18", "vit", "other"))
  assert str(error.value) == (
      "config.net.name is 'resnet19'; expected one of other, resnet18, vit. Did"
      " you mean 'resnet18'?"
  )
  with pytest.raises(ValueError) as error:
    lookup("config.net.name", "zzz", ("resnet18",))
  assert "Did you mean" not in str(error.value)


def test_difference_lists_changed_added_and_removed_entries():
  old = ConfigDict({"a": 1, "b": {"c": (1, 2), "d": 3}, "e": 4})
  new = ConfigDict({"a": 1, "b": {"c": [1, 2], "d": 5}, "f": 6})
  assert difference(old, new) == [
      ("b.d", 3, 5),
      ("e", 4, "(absent)"),
      ("f", "(absent)", 6),
  ]


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_saved_config_is_loaded_unchanged(tmp_path, dataset):
  config = _config(dataset)
  save_config(config, str(tmp_path))
  loaded = load_config(str(tmp_path))
  assert difference(config, loaded) == []
  # A loaded config still builds: tuples have become lists.
  assert isinstance(build.method(loaded), Method)
  assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_config_saved_under_a_former_name_of_an_entry_is_the_same(tmp_path):
  config = _config("photos", "vicreg")
  former = config.to_dict()
  former["optimizer"]["vector_rate"] = former["optimizer"].pop("vector_scale")
  save_config(ConfigDict(former), str(tmp_path))
  loaded = load_config(str(tmp_path))
  assert difference(config, loaded) == []


def test_configs_in_the_working_directory_come_first(tmp_path, monkeypatch):
  (tmp_path / "configs").mkdir()
  for name in ("mine", "byol"):
    text = f"get_config = lambda dataset: {name!r}"
    (tmp_path / "configs" / f"{name}.py").write_text(text)
  monkeypatch.chdir(tmp_path)
  assert of_method("mine", "digits") == "mine"
  assert of_method("byol", "digits") == "byol"
  assert of_method("moco_v2", "digits").method.name == "moco_v2"
  assert set(config_files()) == set(METHODS) | {"mine", "moco_v3_vit"}
  with pytest.raises(ValueError, match="Did you mean 'mine'"):
    of_method("mina", "digits")


def test_configs_next_to_an_installed_jssl_are_ignored(tmp_path, monkeypatch):
  for path in ("site/jssl/configs/mine.py", "site/configs/other.py"):
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).touch()
  monkeypatch.chdir(tmp_path)
  package = tmp_path / "site/jssl/config/settings.py"
  monkeypatch.setattr(settings, "__file__", str(package))
  assert list(config_files()) == ["mine"]


def test_a_folder_without_a_config_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match="config.json.*--workdir"):
    load_config(str(tmp_path))


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_config_builds(path, dataset):
  config = of_method(path.stem, dataset)
  # A file per method, under its name, and one that is for transformers.
  assert config.method.name == path.stem.removesuffix("_vit")
  assert config.method.name in METHODS
  assert isinstance(build.method(config, axis_name="devices"), Method)
  schedule = build.schedule(config, steps_per_epoch=10)
  optimizer = build.optimizer(config, steps_per_epoch=10)
  assert isinstance(optimizer, optax.GradientTransformation)
  assert max(float(schedule(step)) for step in (0, 10, 100)) > 0


def test_every_method_has_a_config():
  assert {path.stem for path in FILES} == set(METHODS) | {"moco_v3_vit"}


def test_the_learning_rate_is_proportional_to_the_batch_size():
  config = _config()
  config.batch_size = 4 * config.optimizer.reference_batch_size
  schedule = build.schedule(config, steps_per_epoch=10)
  assert float(schedule(0)) == pytest.approx(4 * config.optimizer.learning_rate)
  config.optimizer.reference_batch_size = 0
  schedule = build.schedule(config, steps_per_epoch=10)
  assert float(schedule(0)) == pytest.approx(config.optimizer.learning_rate)


def test_a_config_decides_net_augmentation_and_head():
  config = _config()
  config.net.width = 8
  config.image_size = 8
  config.method.update(dim=24, queue_size=64)
  method = build.method(config)
  batch = {"image": jax.ShapeDtypeStruct((2, 16, 16, 1), jnp.uint8)}
  views = jax.eval_shape(method.views, jax.random.key(0), batch)
  assert [view.shape for view in views] == [(2, 8, 8, 1)] * 2
  params, carried = jax.eval_shape(method.init, jax.random.key(0), views)
  assert params["net"]["stem"]["kernel"].shape == (3, 3, 1, 8)
  assert carried.queue.keys.shape == (64, 24)


@pytest.mark.parametrize(
    "section,wrong,nearest",
    [
        ("net", "resnet19", "resnet18"),
        ("augment", "moco_v3", "moco_v2"),
        ("method", "moco_v9", "moco_v1"),
    ],
)
def test_an_unknown_name_is_refused_with_a_suggestion(section, wrong, nearest):
  config = _config()
  config[section].name = wrong
  with pytest.raises(ValueError) as error:
    build.method(config)
  message = str(error.value)
  assert f"config.{section}.name is {wrong!r}" in message
  assert f"{nearest!r}" in message.split("Did you mean")[1]


@pytest.mark.parametrize(
    "section,wrong,nearest",
    [
        ("net", "widht", "width"),
        ("augment", "blur_probabilty", "blur_probability"),
        ("method", "temprature", "temperature"),
    ],
)
def test_an_unknown_key_is_refused_with_a_suggestion(section, wrong, nearest):
  config = _config("cifar10")
  with config.unlocked():
    config[section][wrong] = 1
  with pytest.raises(ValueError) as error:
    build.method(config)
  message = str(error.value)
  assert f"A key of config.{section} is {wrong!r}" in message
  assert f"{nearest!r}" in message.split("Did you mean")[1]


@pytest.mark.parametrize("key", ["net", "axis_name", "augment"])
def test_arguments_that_are_no_keys_are_refused(key):
  config = _config("cifar10")
  with config.unlocked():
    config.method[key] = "x"
  with pytest.raises(ValueError, match=f"config.method is '{key}'") as error:
    build.method(config)
  assert f"{key!r}" not in str(error.value).split("expected")[1]


@pytest.mark.parametrize(
    "dataset,k",
    [("digits", 20), ("cifar10", 0), ("imagenet2012", 200), ("folder:x", 0)],
)
def test_the_k_of_knn_is_chosen_unless_a_protocol_is_known(dataset, k):
  assert _config(dataset).eval.k == k


def test_a_run_on_changed_pictures_says_so():
  old, new = (_config("folder:photos") for _ in range(2))
  for config, count in ((old, 53), (new, 52)):
    config.resolved = dict(channels=3, fingerprint=count, train_images=count)
  with pytest.raises(ValueError, match="removed.*53 training.*52 now.*Restore"):
    changes.check_same(old, new, "runs/mine")
  new.seed = 1
  with pytest.raises(ValueError, match="config.seed: 0 in the run, 1 now"):
    changes.check_same(old, new, "runs/mine")


def test_optimizer_schedule_and_precision_are_checked():
  config = _config()
  config.optimizer.schedule.name = "cosinus"
  with pytest.raises(ValueError, match="Did you mean 'cosine'"):
    build.schedule(config, steps_per_epoch=10)
  config = _config()
  config.optimizer.name = "sdg"
  with pytest.raises(ValueError, match="Did you mean 'sgd'"):
    build.optimizer(config)
  with pytest.raises(ValueError, match="Did you mean 'bfloat16'"):
    build.precision("float16")
  assert build.precision("bfloat16") == jnp.bfloat16
  # A CPU gains nothing from bfloat16.
  assert build.precision("auto") == jnp.float32


def _built_with(monkeypatch, config, **arguments):
  """The net and the arguments that a method's constructor is given."""
  given = {}

  def constructor(net, *, axis_name=None, **more):
    given.update(more, net=net, axis_name=axis_name)

  constructor.__signature__ = inspect.signature(METHODS[config.method.name])
  monkeypatch.setitem(METHODS, config.method.name, constructor)
  build.method(config, **arguments)
  return given


@pytest.mark.parametrize("epochs", [300.0, 600.0])
def test_the_ema_decay_of_ijepa_reaches_1_at_the_end(epochs, monkeypatch):
  given = {}
  make = METHODS["ijepa"]

  def method(net, *, momentum, **arguments):
    given["momentum"] = momentum
    return make(net, momentum=momentum, **arguments)

  method.__signature__ = inspect.signature(make)
  monkeypatch.setitem(METHODS, "ijepa", method)
  config = _config("imagenet2012", "ijepa")
  config.epochs = epochs
  build.method(config, steps_per_epoch=2)
  momentum = given["momentum"]
  np.testing.assert_allclose(momentum(0), 0.996, rtol=1e-6)
  np.testing.assert_allclose(momentum(epochs), 0.998, rtol=1e-6)
  assert momentum(2 * epochs) == 1.0


def test_initial_weights_of_transformers_follow_the_official_code():
  expected = {"mae": "mae", "simmim": "simmim", "ijepa": "ijepa"}
  expected |= {"dino": "dino", "moco_v3": "moco_v3"}
  for name, start in expected.items():
    assert _config("imagenet2012", name).net.weight_init == start
  net = build.net(_config("imagenet2012", "simmim"))
  assert net.positions == "relative" and net.pooling == "patches"
  assert net.layer_scale == 0.1 and not net.key_bias
  # As many as the authors' encoder.
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  shapes = jax.eval_shape(net.init, jax.random.key(0), images)["params"]
  count = sum(x.size for x in jax.tree.leaves(shapes))
  assert count == 85_665_360


def test_epochs_of_a_method_become_steps(monkeypatch):
  config = _config("imagenet2012", "dino")
  given = _built_with(monkeypatch, config, steps_per_epoch=7)
  assert given["frozen_steps"] == 7 and "frozen_epochs" not in given


def test_a_section_of_a_method_becomes_a_function_of_the_step(monkeypatch):
  config = _config("imagenet2012", "dino")
  given = _built_with(monkeypatch, config, steps_per_epoch=10)
  momentum, temperature = given["momentum"], given["teacher_temperature"]
  steps = 10 * int(config.epochs)
  assert momentum(0) == pytest.approx(0.996) and momentum(steps) == 1.0
  for step, value in ((0, 0.04), (150, 0.055), (300, 0.07), (900, 0.07)):
    assert float(temperature(step)) == pytest.approx(value)


def test_a_recipe_that_the_config_lacks_is_none(monkeypatch):
  given = _built_with(monkeypatch, _config("digits", "byol"))
  assert given["second_augment"] is None
  given = _built_with(monkeypatch, _config("cifar10", "byol"))
  assert given["second_augment"].keywords["solarize_probability"] == 0.2


def test_local_views_have_their_own_size():
  config = _config("imagenet2012", "swav")
  batch = {"image": jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.uint8)}
  method = build.method(config)
  views = jax.eval_shape(method.views, jax.random.key(0), batch)
  assert views.global_crops.shape == (2, 2, 224, 224, 3)
  assert views.local_crops.shape == (6, 2, 96, 96, 3)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("net", ["resnet50", "vit_tiny"])
def test_a_net_is_changed_by_its_name_alone(path, net):
  config = of_method(path.stem, "cifar10")
  needs_patches = "patches" in build.method(config).needs
  config.net.name = net
  if needs_patches and not net.startswith("vit"):
    message = f"{path.stem} works on .* a ResNet; set net.name to vit_tiny"
    with pytest.raises(ValueError, match=message):
      build.method(config)
  else:
    assert isinstance(build.method(config), Method)


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
def test_an_optimizer_is_changed_by_its_name_alone(name):
  for config in (_config("imagenet2012", "dino"), _config("cifar10", "byol")):
    config.optimizer.name = name
    optimizer = build.optimizer(config, steps_per_epoch=10)
    assert isinstance(optimizer, optax.GradientTransformation)


@pytest.mark.parametrize("dataset", ["imagenet2012", "cifar10"])
@pytest.mark.parametrize("name", ["constant", "cosine"])
def test_a_momentum_is_changed_by_its_name_alone(name, dataset, monkeypatch):
  config = _config(dataset, "byol")
  config.method.momentum.name = name
  momentum = _built_with(monkeypatch, config)["momentum"]
  assert momentum(0) == pytest.approx(0.99)
  end = 0.99 if name == "constant" else 1.0
  assert momentum(10**6) == pytest.approx(end)


def test_a_schedule_out_of_range_is_refused():
  config = _config("cifar10", "byol")
  config.method.momentum.value = 1.5
  with pytest.raises(ValueError, match="method.momentum.value is 1.5"):
    build.method(config)
  config = _config("cifar10", "dino")
  config.method.teacher_temperature.value = -0.07
  config.method.teacher_temperature.start = -0.07
  with pytest.raises(
      ValueError, match="method.teacher_temperature.start is -0.07"
  ):
    build.method(config)
  config = _config("cifar10", "moco_v3")
  config.method.momentum.typo = 1
  with pytest.raises(ValueError, match="config.method.momentum is 'typo'"):
    build.method(config)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name,key",
    [
        ("simclr", "optimizer.learning_rate"),
        ("simclr", "optimizer.reference_batch_size"),
        ("simclr", "optimizer.schedule.end"),
        ("simclr", "optimizer.schedule.warmup_epochs"),
        ("dino", "optimizer.weight_decay.value"),
        ("dino", "optimizer.weight_decay.end"),
        ("dino", "optimizer.clip_norm"),
        ("rotation", "optimizer.schedule.factor"),
        ("byol", "method.momentum.end"),
        ("dino", "method.teacher_temperature.start"),
        ("simclr", "optimizer.momentum"),
        ("barlow_twins", "optimizer.vector_scale"),
    ],
)
def test_an_invalid_number_is_refused_with_its_name(name, key, value):
  config = _config("imagenet2012", name)
  *sections, last = key.split(".")
  section = config
  for part in sections:
    section = section[part]
  with section.ignore_type():
    section[last] = value
  shown = f"{key.split('.')[-1]} is {value}; expected"
  with pytest.raises(ValueError, match=shown) as error:
    build.method(config)
    build.schedule(config, steps_per_epoch=10)
    build.optimizer(config, steps_per_epoch=10)
  if key not in ("optimizer.clip_norm", "optimizer.momentum"):
    assert key in str(error.value) or "vector_scale" in key


def test_an_ema_decay_above_1_is_refused():
  config = _config("imagenet2012", "byol")
  config.method.momentum.end = 1.01
  with pytest.raises(ValueError, match="method.momentum.end is 1.01; .* 1"):
    build.method(config)


@pytest.mark.parametrize("name", ["constant", "cosine"])
def test_a_schedule_is_changed_by_its_name_alone(name):
  config = _config("cifar10", "simclr")
  config.optimizer.schedule.name = name
  schedule = build.schedule(config, steps_per_epoch=10)
  assert float(schedule(0)) == pytest.approx(0.06 * 512 / 128)


def test_a_vision_transformer_has_positions_for_the_image_size():
  config = _config("cifar10", "simclr")
  config.net.name = "vit_tiny"
  net = build.net(config)
  assert (net.image_size, net.patch_size, net.width) == (32, 4, 192)


def test_micro_batches_wrap_the_net():
  config = _config("cifar10", "simclr")
  assert not isinstance(build.net(config), nets.MicroBatched)
  config.net.micro_batches = 4
  net = build.net(config)
  assert isinstance(net, nets.MicroBatched) and net.parts == 4


def test_accumulation_counts_updates_and_scales_the_learning_rate():
  config = _config("cifar10", "simclr")
  config.accumulate_steps = 4
  schedule = build.schedule(config, steps_per_epoch=100)
  assert float(schedule(0)) == pytest.approx(4 * 0.06 * 512 / 128)
  # 200 epochs of 25 updates.
  assert float(schedule(2500)) == pytest.approx(float(schedule(0)) / 2)
  assert float(schedule(5000)) == pytest.approx(0.0, abs=1e-9)
  optimizer = build.optimizer(config, steps_per_epoch=100)
  params = {"w": jnp.ones((2, 2))}
  state = optimizer.init(params)
  for i in range(4):
    updates, state = optimizer.update(params, state, params)
    assert bool(jnp.any(updates["w"])) == (i == 3)


def _updates(config, step):
  """Updates of a matrix and a vector at a step, and what they were made of."""
  optimizer = build.optimizer(config, steps_per_epoch=10)
  keys = jax.random.split(jax.random.key(0), 4)
  params = {
      "w": 1e3 * jax.random.normal(keys[0], (4, 3)),
      "b": jax.random.normal(keys[1], (3,)),
  }
  gradient = {
      "w": jax.random.normal(keys[2], (4, 3)),
      "b": jax.random.normal(keys[3], (3,)),
  }
  state = optimizer.init(params)
  zeros = jax.tree.map(jnp.zeros_like, gradient)
  updates = None
  for i in range(step + 1):
    seen = gradient if i == step else zeros
    # Without momentum of earlier steps: decay moves it a little.
    updates, state = optimizer.update(seen, state, params)
  return params, gradient, updates


def test_barlow_twins_steps_are_those_of_the_published_run():
  """LARS of the paper's code, on a sixteenth of the gradient of 16 GPUs."""
  config = _config("imagenet2012", "barlow_twins")
  config.optimizer.momentum = 0.0
  params, gradient, updates = _updates(config, step=100)
  w, b = (np.asarray(params[key], np.float64) for key in "wb")
  given_w, given_b = (
      np.asarray(gradient[key], np.float64) / 16 for key in "wb"
  )
  # After the warm-up of ten epochs, of ten steps here, at batch 2048.
  move = given_w + 1e-6 * w
  move *= 0.001 * np.linalg.norm(w) / np.linalg.norm(move)
  np.testing.assert_allclose(updates["w"], -0.2 * 8 * move, rtol=1e-5)
  np.testing.assert_allclose(updates["b"], -0.0048 * 8 * given_b, rtol=1e-5)
  # Where the decay counts 16 times as much, it shows.
  wrong = given_w * 16 + 1e-6 * w
  wrong *= 0.001 * np.linalg.norm(w) / np.linalg.norm(wrong)
  assert np.abs(wrong - move).max() > 1e-3 * np.abs(move).max()
  assert config.method.off_diagonal_weight == 0.0051


@pytest.mark.parametrize("name", ["rotation", "jigsaw", "relative_position"])
def test_pretexts_of_imagenet_drop_twice_after_a_warm_up(name):
  """15, 25 and 5 of google/revisiting-self-supervised."""
  config = _config("imagenet2012", name)
  schedule = build.schedule(config, steps_per_epoch=10)
  expected = {0: 0, 25: 0.05, 50: 0.1, 149: 0.1, 150: 0.01, 250: 0.001}
  expected[349] = 0.001
  for step, value in expected.items():
    assert float(schedule(step)) == pytest.approx(value, rel=1e-5), step
  assert config.epochs == 35


def test_rotation_on_cifar_has_nesterov_momentum():
  config = _config("cifar10", "rotation")
  assert config.optimizer.nesterov
  # The second of two equal steps: 1 + 0.9 * (1 + 0.9) times the first gradient.
  config.optimizer.weight_decay = 0.0
  optimizer = build.optimizer(config, steps_per_epoch=10)
  params = {"w": jnp.ones((2, 2))}
  state = optimizer.init(params)
  for expected in (1.9, 2.71):
    updates, state = optimizer.update(params, state, params)
    np.testing.assert_allclose(updates["w"], -0.1 * expected, rtol=1e-6)


def test_dino_clips_each_parameter():
  config = _config("imagenet2012", "dino")
  assert config.optimizer.clip_norm == 3.0
  assert config.optimizer.clip_per_parameter
  assert not _config("cifar10", "dino").optimizer.clip_per_parameter


def test_swav_warms_up_from_its_codes_start():
  schedule = build.schedule(_config("imagenet2012", "swav"), steps_per_epoch=10)
  for step, value in {0: 0.3, 50: 2.55, 100: 4.8, 2000: 4.8e-3}.items():
    assert float(schedule(step)) == pytest.approx(value, rel=1e-5)


def test_swav_scales_biases_and_norms_too():
  config = _config("imagenet2012", "swav")
  params, _, updates = _updates(config, step=100)
  # Of LARC: a step as long as 0.001 of the parameter, times 0.3 * 16.
  for key in "wb":
    share = np.linalg.norm(updates[key]) / np.linalg.norm(params[key])
    assert share == pytest.approx(0.001 * 4.8, rel=5e-3)  # Decay counts little.


def test_moco_v3_has_the_recipe_of_its_transformer():
  config = _config("imagenet2012", "moco_v3_vit")
  net = build.net(config)
  assert (net.width, net.depth, net.heads, net.patch_size) == (384, 12, 12, 16)
  assert net.positions == "sincos" and net.pooling == "token"
  assert (config.epochs, config.batch_size) == (300, 4096)
  expected = {
      "projector_layers": 3,
      "predictor_norm": True,
      "hidden_dim": 4096,
      "temperature": 0.2,
      "freeze_patch": True,
  }
  assert expected.items() <= config.method.to_dict().items()
  assert config.method.momentum.value == 0.99
  for view in (config.augment, config.second_augment):
    assert tuple(view.scale) == (0.08, 1.0)
  schedule = build.schedule(config, steps_per_epoch=1)
  assert float(schedule(40)) == pytest.approx(1.5e-4 * 16)
  assert float(schedule(20)) == pytest.approx(1.5e-4 * 8)
  assert float(schedule(300)) == pytest.approx(0, abs=1e-9)
  # Biases and norms decay too.
  optimizer = build.optimizer(config, steps_per_epoch=1)
  params = {"bias": jnp.ones(3)}
  state = optimizer.init(params)
  zeros = jax.tree.map(jnp.zeros_like, params)
  for _ in range(41):
    updates, state = optimizer.update(zeros, state, params)
  np.testing.assert_allclose(updates["bias"], -0.1 * 1.5e-4 * 16, rtol=1e-5)


def test_heads_of_a_transformer_are_settable():
  config = _config("imagenet2012", "moco_v3")
  config.net.name = "vit_small"
  assert build.net(config).heads == 6
  config.net.heads = 12
  assert build.net(config).heads == 12
  config.net.name = "resnet18"  # Has none.
  assert isinstance(build.net(config), nets.ResNet)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_results_of_lightly_are_labelled_as_the_best_epoch(path):
  text = " ".join(path.read_text().split())
  if "lightly" in text:
    assert "each of the best of 200 epochs on the test set" in text
    assert "at batch 512" in text and "128" in text


def _view(name, scale, method="bilinear", **more):
  return {"name": name, "scale": scale, "method": method, **more}


def _byol(scale, method, first, second, operations="torchvision"):
  """Two views, of (blur, solarize) each."""
  return [
      _view(
          "byol",
          scale,
          method,
          operations=operations,
          blur_probability=blur,
          solarize_probability=solarize,
      )
      for blur, solarize in (first, second)
  ]


def _simclr(scale, method, operations, **more):
  return _view(
      "simclr",
      scale,
      method,
      operations=operations,
      strength=1.0,
      blur_probability=0.5,
      **more,
  )


_PAIR = (1.0, 0.0), (0.1, 0.2)
_MOCO_V2 = _view("moco_v2", (0.2, 1.0), blur_probability=0.5)
# Of each method's official code for ImageNet: the views it trains on.
OFFICIAL_VIEWS = {
    "moco_v1": [_view("moco_v1", (0.2, 1.0))],
    "moco_v2": [_MOCO_V2],
    "simsiam": [_MOCO_V2],
    "simclr": [_simclr((0.08, 1.0), "bicubic", "simclr")],
    "swav": [
        _simclr((0.14, 1.0), "bilinear", "torchvision"),
        _simclr((0.05, 0.14), "bilinear", "torchvision", size=96),
    ],
    "byol": _byol((0.08, 1.0), "bicubic", *_PAIR, "byol"),
    "moco_v3": _byol((0.2, 1.0), "bilinear", *_PAIR),
    "moco_v3_vit": _byol((0.08, 1.0), "bilinear", *_PAIR),
    "barlow_twins": _byol((0.08, 1.0), "bicubic", *_PAIR),
    "vicreg": _byol((0.08, 1.0), "bicubic", *_PAIR),
    "dino": [
        *_byol((0.4, 1.0), "bicubic", *_PAIR),
        {
            **_byol((0.05, 0.4), "bicubic", (0.5, 0.0), _PAIR[1])[0],
            "size": 96,
        },
    ],
    "mae": [
        _view("crop_and_flip", (0.2, 1.0), "bicubic", flip_probability=0.5)
    ],
    "simmim": [_view("crop_and_flip", (0.67, 1.0), flip_probability=0.5)],
    "ijepa": [_view("crop_and_flip", (0.3, 1.0), flip_probability=0.0)],
}
_SECTIONS = ("augment", "second_augment", "local_augment")


@pytest.mark.parametrize("method", OFFICIAL_VIEWS)
def test_views_of_imagenet_are_those_of_the_official_code(method):
  config = _config("imagenet2012", method)
  views = [config[x].to_dict() for x in _SECTIONS if x in config]
  assert views == OFFICIAL_VIEWS[method]


@pytest.mark.parametrize("method", config_files())
def test_views_of_cifar_are_not_blurred(method):
  config = _config("cifar10", method)
  for section in _SECTIONS:
    if section in config:
      assert not config[section].get("blur_probability", 0.0)
      # Of the CIFAR recipes that are followed, solo-learn's is bicubic.
      expected = "bicubic" if method in ("vicreg", "mae") else "bilinear"
      assert config[section].get("method", "bilinear") == expected


def test_rotations_of_cifar_are_of_padded_windows():
  assert _config("cifar10", "rotation").augment.to_dict() == {
      "name": "pad_crop_and_flip",
      "padding": 4,
  }
