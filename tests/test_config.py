"""Configs, and the objects that they describe."""

import inspect
import pathlib

import jax
import jax.numpy as jnp
import optax
import pytest

from jssl import build
from jssl import config as configs
from jssl import nets
from jssl.method import Method
from jssl.methods import METHODS

FOLDER = pathlib.Path(__file__).parent.parent / "configs"
FILES = sorted(FOLDER.glob("*.py"))
DATASETS = ("digits", "photos", "cifar10", "imagenet2012", "folder:x")
# Methods that take a vision transformer alone.
VIT_METHODS = ("ijepa", "mae", "simmim")


def _config(dataset="digits", name="moco_v2"):
  return configs.of_method(name, dataset)


@pytest.mark.parametrize(
    "dataset,expected",
    [
        ("digits", (16, 0, "resnet8", "cifar", 1.0)),
        ("photos", (32, 0, "resnet8", "cifar", 1.0)),
        ("cifar10", (32, 0, "resnet18", "cifar", 1.0)),
        ("cifar100", (32, 0, "resnet18", "cifar", 1.0)),
        ("imagenet2012", (224, 256, "resnet50", "imagenet", 0.875)),
        ("imagenet2012:5.1.0", (224, 256, "resnet50", "imagenet", 0.875)),
        ("folder:x", (128, 160, "resnet18", "imagenet", 1.0)),
        ("oxford_flowers102", (128, 160, "resnet18", "imagenet", 1.0)),
    ],
)
def test_base_fits_its_data_set(dataset, expected):
  config = configs.base(dataset)
  assert config.data.name == dataset
  assert expected == (
      config.image_size,
      config.data.canvas,
      config.net.name,
      config.net.stem,
      config.eval.crop_fraction,
  )


def test_lookup_gives_a_known_name_back():
  assert configs.lookup("config.net.name", "a", {"a": 1, "b": 2}) == "a"


def test_lookup_names_the_nearest():
  with pytest.raises(ValueError) as error:
    configs.lookup("config.net.name", "resnet19", ("resnet18", "vit", "other"))
  assert str(error.value) == (
      "config.net.name is 'resnet19'; expected one of other, resnet18, vit. Did"
      " you mean 'resnet18'?"
  )
  with pytest.raises(ValueError) as error:
    configs.lookup("config.net.name", "zzz", ("resnet18",))
  assert "Did you mean" not in str(error.value)


def test_difference_lists_what_changed_appeared_and_went():
  old = configs.ConfigDict({"a": 1, "b": {"c": (1, 2), "d": 3}, "e": 4})
  new = configs.ConfigDict({"a": 1, "b": {"c": [1, 2], "d": 5}, "f": 6})
  assert configs.difference(old, new) == [
      ("b.d", 3, 5),
      ("e", 4, "(absent)"),
      ("f", "(absent)", 6),
  ]


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_saved_config_is_loaded_as_it_was(tmp_path, dataset):
  config = _config(dataset)
  configs.save(config, str(tmp_path))
  loaded = configs.load(str(tmp_path))
  assert configs.difference(config, loaded) == []
  # A loaded config still builds: tuples have become lists.
  assert isinstance(build.method(loaded), Method)
  assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_files_here_come_before_those_of_jssl(tmp_path, monkeypatch):
  (tmp_path / "configs").mkdir()
  for name in ("mine", "byol"):
    text = f"get_config = lambda dataset: {name!r}"
    (tmp_path / "configs" / f"{name}.py").write_text(text)
  monkeypatch.chdir(tmp_path)
  assert configs.of_method("mine", "digits") == "mine"
  assert configs.of_method("byol", "digits") == "byol"
  assert configs.of_method("moco_v2", "digits").method.name == "moco_v2"
  assert set(configs.files()) == set(METHODS) | {"mine"}
  with pytest.raises(ValueError, match="Did you mean 'mine'"):
    configs.of_method("mina", "digits")


def test_what_lies_beside_an_installed_jssl_is_not_its_own(
    tmp_path, monkeypatch
):
  for path in ("site/jssl/configs/mine.py", "site/configs/other.py"):
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).touch()
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(configs, "__file__", str(tmp_path / "site/jssl/x.py"))
  assert list(configs.files()) == ["mine"]


def test_a_folder_without_a_config_is_not_a_run(tmp_path):
  with pytest.raises(FileNotFoundError, match="config.json.*--workdir"):
    configs.load(str(tmp_path))


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_config_builds(path, dataset):
  config = configs.of_method(path.stem, dataset)
  # One file a method, under its name.
  assert config.method.name == path.stem and path.stem in METHODS
  assert isinstance(build.method(config, axis_name="devices"), Method)
  schedule = build.schedule(config, steps_per_epoch=10)
  optimizer = build.optimizer(config, steps_per_epoch=10)
  assert isinstance(optimizer, optax.GradientTransformation)
  assert max(float(schedule(step)) for step in (0, 10, 100)) > 0


def test_every_method_has_a_config():
  assert {path.stem for path in FILES} == set(METHODS)


def test_the_learning_rate_grows_with_the_batch():
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
def test_an_unknown_name_is_refused_with_the_nearest(section, wrong, nearest):
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
def test_an_unknown_key_is_refused_with_the_nearest(section, wrong, nearest):
  config = _config("cifar10")
  with config.unlocked():
    config[section][wrong] = 1
  with pytest.raises(ValueError) as error:
    build.method(config)
  message = str(error.value)
  assert f"A key of config.{section} is {wrong!r}" in message
  assert f"{nearest!r}" in message.split("Did you mean")[1]


def test_optimizer_schedule_and_precision_are_checked_alike():
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


def test_a_recipe_that_the_config_leaves_out_is_none(monkeypatch):
  given = _built_with(monkeypatch, _config("digits", "byol"))
  assert given["second_augment"] is None
  given = _built_with(monkeypatch, _config("cifar10", "byol"))
  assert given["second_augment"].keywords["solarize_probability"] == 0.2


def test_small_views_have_their_own_size():
  config = _config("imagenet2012", "swav")
  batch = {"image": jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.uint8)}
  method = build.method(config)
  views = jax.eval_shape(method.views, jax.random.key(0), batch)
  assert views.large.shape == (2, 2, 224, 224, 3)
  assert views.small.shape == (6, 2, 96, 96, 3)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("net", ["resnet50", "vit_tiny"])
def test_a_net_is_changed_by_its_name_alone(path, net):
  config = configs.of_method(path.stem, "cifar10")
  config.net.name = net
  if path.stem in VIT_METHODS and not net.startswith("vit"):
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
  with pytest.raises(ValueError, match="momentum is 1.5"):
    build.method(config)
  config = _config("cifar10", "dino")
  config.method.teacher_temperature.value = -0.07
  config.method.teacher_temperature.start = -0.07
  with pytest.raises(ValueError, match="teacher_temperature is -0.07"):
    build.method(config)
  config = _config("cifar10", "moco_v3")
  config.method.momentum.typo = 1
  with pytest.raises(ValueError, match="config.method.momentum is 'typo'"):
    build.method(config)


@pytest.mark.parametrize("name", ["constant", "cosine"])
def test_a_schedule_is_changed_by_its_name_alone(name):
  config = _config("cifar10", "simclr")
  config.optimizer.schedule.name = name
  schedule = build.schedule(config, steps_per_epoch=10)
  assert float(schedule(0)) == pytest.approx(0.06 * 512 / 128)


def test_a_vision_transformer_learns_positions_of_the_config_s_size():
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


def test_accumulation_counts_updates_and_scales_the_rate():
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
