"""Evaluating a finished run."""

import dataclasses
import functools
import json
import os
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

import command
from jssl import config as configs, encoder, loop
from jssl.evals import evaluation, protocols, results
import tiny_run


def _config(name, dataset, **changes):
  config = configs.of_method(name, dataset)
  config.update(changes)
  return config


def _run(folder, dataset, data_dir, epochs=1.0, **data):
  """A run of a few steps."""
  config = _config(
      "rotation",
      dataset,
      epochs=epochs,
      batch_size=16,
      image_size=16,
      net={"width": 8, "name": "resnet8", "stem": "cifar"},
      data={"data_dir": str(data_dir), **data},
  )
  loop.train(config, str(folder))
  return str(folder)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, data_dir):
  """A run on some digits."""
  part = dict(train="train[:320]", test="test[:200]")
  return _run(tmp_path_factory.mktemp("run"), "digits", data_dir, 0.1, **part)


@pytest.fixture(scope="module")
def content(workdir):
  """The results of the default protocols."""
  return evaluation.evaluate(workdir)


def _json(workdir, name="digits"):
  path = pathlib.Path(workdir, "evaluation", f"{name}.json")
  return json.loads(path.read_text())


def _limit(monkeypatch, **arguments):
  """Makes fine-tuning short."""
  tune = protocols.fine_tune
  monkeypatch.setattr(
      protocols,
      "fine_tune",
      lambda *a, **k: tune(*a, **{**k, **arguments}),
  )


@pytest.mark.slow
def test_every_stage_and_the_baselines_are_evaluated(workdir, content):
  assert content == _json(workdir)
  assert content["dataset"] == "digits"
  assert (content["train_images"], content["test_images"]) == (320, 200)
  stages = ["pooled", "stage_1", "stage_2", "stage_3"]
  assert {name: sorted(x) for name, x in content["results"].items()} == {
      "trained": stages,
      "untrained": stages,
      "raw pixels": ["pooled"],
  }
  for stages in content["results"].values():
    for row in stages.values():
      for name in ("knn", "linear", "one_shot", "five_shot", "ten_shot"):
        low, high = row[name]["interval"]
        assert 0.1 < low < row[name]["accuracy"] < high <= 1
      assert 1 <= row["rank"] <= 256
      assert 0 <= row["alignment"] <= 4 and row["uniformity"] <= 0
  pixels = content["results"]["raw pixels"]["pooled"]
  assert pixels["knn"]["accuracy"] > 0.9
  assert pixels["linear"]["accuracy"] > 0.85


def test_trained_and_untrained_are_two_encoders(workdir, content):
  trained = encoder.load(workdir)
  fresh = encoder.untrained(trained)
  images = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 1), np.uint8)
  one = trained.encode(trained.params, images)
  other = fresh.encode(fresh.params, images)
  assert np.max(np.abs(one - other)) > 1e-3
  rows = content["results"]
  assert rows["trained"] != rows["untrained"]


def test_the_table_has_every_row_and_measure(workdir, content):
  text = pathlib.Path(workdir, "evaluation", "digits.md").read_text()
  assert text == results.markdown(content)
  lines = text.splitlines()
  assert lines[0].startswith("digits: 320 training and 200 test images")
  head = [cell.strip() for cell in lines[2].strip("| ").split("|")]
  assert head[:6] == [
      "encoder",
      "knn",
      "linear",
      "one shot",
      "five shot",
      "ten shot",
  ]
  rows = [line for line in lines[4:] if line.startswith("|")]
  names = [line.split("|")[1].strip() for line in rows]
  assert names[0] == "trained" and names[-1] == "raw pixels"
  assert "untrained, stage_2" in names and len(names) == 9
  knn = content["results"]["trained"]["pooled"]["knn"]
  low, high = knn["interval"]
  star = "*" if knn["at_edge"] else ""
  assert f"| {knn['accuracy']:.3f}{star} ({low:.3f} to {high:.3f}) |" in rows[0]
  # A note explains the accuracies with a star, if there are any.
  stars = sum(row.count("*") for row in rows)
  edges = [line for line in lines if line.startswith("- * The best setting")]
  assert len(edges) == bool(stars)


@pytest.mark.slow
def test_results_of_other_protocols_are_added(workdir, content, monkeypatch):
  _limit(monkeypatch, epochs=1)
  more = evaluation.evaluate(workdir, protocols=["semi_supervised"])
  row = more["results"]["trained"]["pooled"]
  assert row["knn"] == content["results"]["trained"]["pooled"]["knn"]
  # At least one image per class; a tenth of them.
  assert row["1% of labels"]["labels"] == 10
  assert 28 < row["10% of labels"]["labels"] < 37
  assert "1% of labels" not in more["results"]["raw pixels"]["pooled"]
  # Results of another checkpoint are replaced.
  path = pathlib.Path(workdir, "evaluation", "digits.json")
  path.write_text(json.dumps({**more, "step": 7}))
  last = evaluation.evaluate(workdir, protocols=["label_free"])
  assert set(last["results"]["raw pixels"]["pooled"]) == {
      "rank",
      "alpha_req",
      "alignment",
      "uniformity",
      "feature_std",
  }


@pytest.mark.slow
def test_augmented_probes_classify_digits_at_every_stage(workdir, monkeypatch):
  probe = protocols.augmented_linear_probe
  short = functools.partial(probe, epochs=30, batch_size=32)
  monkeypatch.setattr(protocols, "augmented_linear_probe", short)
  more = evaluation.evaluate(workdir, protocols=["linear_augmented"])
  for name, stages in more["results"].items():
    for stage, row in stages.items():
      found = row["linear_augmented"]
      low, high = found["interval"]
      assert low < found["accuracy"] < high, (name, stage)
      assert found["learning_rate"] > 0 and found["weight_decay"] >= 0
  trained = more["results"]["trained"]["pooled"]["linear_augmented"]
  assert trained["accuracy"] > 0.6


@pytest.mark.slow
def test_fine_tuning_learns_digits(workdir, monkeypatch):
  _limit(monkeypatch, epochs=12, learning_rate=4e-3)
  more = evaluation.evaluate(workdir, protocols=["fine_tune"])
  for name in ("trained", "untrained"):
    row = more["results"][name]["pooled"]["fine_tune"]
    assert row["labels"] == 320
    assert row["accuracy"] > 0.5


def _folder(path, channels="RGB", classes=("cat", "dog"), count=6):
  random = np.random.default_rng(0)
  for split in ("train", "test"):
    for name in classes:
      (path / split / name).mkdir(parents=True)
      for i in range(count):
        size = random.integers(17, 30, 2)
        pixels = random.integers(0, 255, (*size, 3), np.uint8)
        Image.fromarray(pixels).convert(channels).save(
            path / split / name / f"{i}.png"
        )
  return f"folder:{path}"


@pytest.mark.slow
def test_another_data_set_of_other_sizes(tmp_path, data_dir):
  # Trained on pictures without classes, evaluated on two classes.
  pictures = tmp_path / "flat"
  pictures.mkdir()
  for i in range(20):
    pixels = np.random.default_rng(i).integers(0, 255, (20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(pictures / f"{i}.png")
  workdir = _run(tmp_path / "run", f"folder:{pictures}", data_dir)
  with pytest.raises(ValueError, match="have no labels, which knn, few_shot"):
    evaluation.evaluate(workdir, protocols=["knn", "few_shot", "label_free"])
  # By default, all protocols that apply are run.
  free = evaluation.evaluate(workdir)
  (note,) = [x for x in free["notes"] if "knn" in x]
  assert note == "knn, linear, few_shot"
  assert "have no labels" in free["notes"][note]
  assert "- knn, linear, few shot: the training" in results.markdown(free)
  assert free["classes"] == 0
  assert free["results"]["trained"]["pooled"]["rank"] >= 1
  other = _folder(tmp_path / "classes")
  content = evaluation.evaluate(
      workdir,
      protocols=["knn", "few_shot"],
      dataset=other,
  )
  row = content["results"]["trained"]["pooled"]
  assert content["classes"] == 2 and content["test_images"] == 12
  assert row["five_shot"] is not None and row["ten_shot"] is None
  assert content["notes"]["ten_shot"] == (
      "class cat has 6 labelled training images"
  )
  assert len(list(pathlib.Path(workdir, "evaluation").glob("*.json"))) == 2


def test_images_of_other_channels_are_refused(workdir, tmp_path):
  with pytest.raises(ValueError, match="3 channels, and .* trained on 1"):
    evaluation.evaluate(workdir, dataset=_folder(tmp_path))


def test_an_unknown_protocol_is_refused(workdir):
  with pytest.raises(ValueError, match="'knm'.* Did you mean 'knn'"):
    evaluation.evaluate(workdir, protocols=["knm"])


def _labelled_folder(root, files):
  """A folder of pictures with these names, of different smooth colors."""
  for i, name in enumerate(files):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0:20, 0:26] / 26
    waves = np.stack([np.sin(3 * x + i), np.cos(4 * y - i), x * y], -1)
    Image.fromarray(np.uint8(127 + 100 * waves)).save(path)
  return f"folder:{root}"


@pytest.fixture(scope="module")
def colors(tmp_path_factory):
  """A run on RGB pictures, with random parameters."""
  path = tmp_path_factory.mktemp("colors")
  tiny_run.save(path, tiny_run.config())
  return str(path)


_PAIR = ["cat/1.png", "cat/2.png", "dog/3.png", "dog/4.png"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "train,linear",
    [
        (_PAIR, "6 labelled training images, but there are 4"),
        (_PAIR[:1], "6 labelled training images, but there is 1"),
    ],
)
def test_a_few_labelled_pictures_are_enough_for_knn(
    colors, tmp_path, train, linear
):
  files = [f"train/{name}" for name in train]
  files += ["test/cat/5.png", "test/dog/6.png"]
  found = evaluation.evaluate(
      colors,
      dataset=_labelled_folder(tmp_path, files),
      protocols=[*protocols.DEFAULT_PROTOCOLS, "linear_augmented"],
  )
  for stages in found["results"].values():
    for row in stages.values():
      assert 0 <= row["knn"]["accuracy"] <= 1
      assert 0 <= row["one_shot"]["accuracy"] <= 1
      assert row["rank"] >= 1
      for name in ("linear", "linear_augmented", "five_shot", "alpha_req"):
        assert row[name] is None
  assert found["notes"]["linear"].endswith(linear)
  assert found["notes"]["linear_augmented"].endswith(linear)
  assert "class cat has" in found["notes"]["five_shot"]
  one = found["results"]["trained"]["pooled"]
  if len(train) == 1:  # No dog has a label.
    assert one["one_shot"]["accuracy"] == one["knn"]["accuracy"] == 0.5
    assert found["notes"]["classes"].startswith("1 of 2 have no labelled")
  else:
    assert "classes" not in found["notes"]
  text = results.markdown(found)
  assert f"- linear: {found['notes']['linear']}." in text


@pytest.mark.slow
def test_pictures_without_a_label_are_left_out_and_counted(
    colors, tmp_path, monkeypatch
):
  files = [
      f"{split}/{i % 2}/{i}.png"
      for split in ("train", "test")
      for i in range(8)
  ]
  dataset = _labelled_folder(tmp_path, files)
  load = evaluation.experiment.load_images

  def unlabelled(config, source):
    images = load(config, source)
    labels = images.label.copy()
    labels[:3] = -1
    return dataclasses.replace(images, label=labels)

  monkeypatch.setattr(evaluation.experiment, "load_images", unlabelled)
  found = evaluation.evaluate(
      colors, dataset=dataset, protocols=["knn", "few_shot"]
  )
  assert found["notes"]["labels"] == (
      "3 of 8 training images and 3 of 8 test images have no label and are"
      " left out"
  )
  low, high = found["results"]["trained"]["pooled"]["knn"]["interval"]
  assert high - low > 0.4  # Of five images.


def test_a_setting_at_the_edge_is_marked_in_the_table():
  chosen = {"accuracy": 0.5, "interval": [0.4, 0.6], "learning_rate": 10.0}
  table = lambda edge: results.markdown({
      "dataset": "digits",
      "step": 7,
      "train_images": 9,
      "test_images": 9,
      "results": {"trained": {"stage_1": {"linear": chosen | edge}}},
  })
  text = table({"at_edge": ["learning_rate"]})
  assert "| 0.500* (0.400 to 0.600) |" in text
  assert "(trained, stage_1, linear: learning rate 10)" in text
  assert "*" not in table({"at_edge": []})


@pytest.mark.slow
def test_results_of_an_edited_set_are_replaced(colors, tmp_path):
  files = [f"{split}/{name}" for split in ("train", "test") for name in _PAIR]
  dataset = _labelled_folder(tmp_path, files)
  evaluation.evaluate(colors, dataset=dataset, protocols=["knn"])
  kept = evaluation.evaluate(colors, dataset=dataset, protocols=["few_shot"])
  assert set(kept["results"]["trained"]["pooled"]) >= {"knn", "one_shot"}
  image = Image.open(tmp_path / files[0])
  image.transpose(Image.Transpose.ROTATE_180).save(tmp_path / files[0])
  new = evaluation.evaluate(colors, dataset=dataset, protocols=["few_shot"])
  assert "knn" not in new["results"]["trained"]["pooled"]


def test_files_have_short_unique_names(tmp_path):
  long = "folder:/" + "/".join(["a" * 200] * 10)
  names = [
      "digits",
      "folder:a-b",
      "folder:a_b",
      "folder:a b",
      "folder:照片",
      "folder:圖片",
      "folder:../照片",
      "folder:\udcff",
      "图片",
      "cifar10:3.0.2",
      "cifar10_3_0_2",
      long + "x",
      long + "y",
      "",
  ]
  paths = [results.path_for(tmp_path, name) for name in names]
  paths.append(results.path_for(tmp_path, "digits", variant=["elsewhere"]))
  assert len({path.name.lower() for path in paths}) == len(paths)
  for path in paths:
    assert path.name.isascii() and len(path.name) < 64
    assert path.parent == tmp_path / "evaluation"
    assert re.fullmatch("[a-z0-9].*", path.name)  # Not an option of a command.
  assert paths[0].name == "digits.json"
  # A folder is the same for relative and absolute paths.
  here = results.path_for(tmp_path, "folder:x")
  assert here == results.path_for(tmp_path, f"folder:{os.getcwd()}/x/")


def test_slices_and_folders_of_one_name_have_different_files():
  own = configs.of_method("moco_v2", "digits")
  own.data.update(train="train[:10%]", data_dir="here")
  variant = lambda *changes: evaluation._variant(
      own.data, evaluation._config_for(own, *changes).data
  )
  assert variant(None, None) == variant(None, "here") == []
  assert variant("digits", None) == ["train"]
  assert variant("digits", "there") == ["there", "train"]
  assert variant("mnist", None) == []
  assert variant("mnist", "there") == ["there"]


def test_results_of_any_name_are_written(colors, tmp_path, capsys):
  root = tmp_path / "照片" / ("long" * 50) / ("path" * 50)
  files = [f"{split}/{name}" for split in ("train", "test") for name in _PAIR]
  dataset = _labelled_folder(root, files)
  (root / "read.me").write_text("no picture")
  found = evaluation.evaluate(colors, dataset=dataset, protocols=["knn"])
  # Files that are left out are reported, as in training.
  assert "1 ending in .me" in capsys.readouterr().err
  path = results.path_for(colors, dataset)
  assert json.loads(path.read_text()) == found
  assert "照片" in path.with_suffix(".md").read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_written_is_refused_first(
    colors, tmp_path, monkeypatch
):
  workdir = tmp_path / "run"
  shutil.copytree(colors, workdir, ignore=shutil.ignore_patterns("evaluation"))
  (workdir / "evaluation").write_text("in the way")
  monkeypatch.setattr(evaluation, "_evaluate_encoder", None)  # Not reached.
  with pytest.raises(OSError, match=r"evaluation/.*\.json cannot be written"):
    evaluation.evaluate(str(workdir), dataset=_folder(tmp_path / "set"))


@pytest.mark.parametrize(
    "dataset,flips",
    [
        ("digits", False),
        ("mnist", False),
        ("emnist/letters:3.1.0", False),
        ("svhn_cropped", False),
        ("cifar10", True),
        ("imagenet2012", True),
        ("folder:digits", True),
    ],
)
def test_the_recipe_is_that_of_the_evaluated_set(dataset, flips):
  recipe = evaluation._supervised_recipe(dataset, 8)
  # Bright on the right, so that a mirror image is bright on the left.
  image = jnp.tile(jnp.arange(16.0)[None, :, None] / 16, (16, 1, 3))
  views = jax.jit(jax.vmap(lambda key: recipe(key, image)))(
      jax.random.split(jax.random.key(0), 64)
  )
  rising = views[:, :, 5].mean((1, 2)) > views[:, :, 2].mean((1, 2))
  assert (0.3 < np.mean(rising) < 0.7) if flips else rising.all()


def test_crops_of_supervised_training_are_those_of_imagenet():
  recipe = evaluation._supervised_recipe("imagenet2012", 8)
  image = jnp.tile(jnp.arange(64.0)[None, :, None] / 64, (64, 1, 3))
  views = jax.jit(jax.vmap(lambda key: recipe(key, image)))(
      jax.random.split(jax.random.key(0), 500)
  )
  widths = np.ptp(np.asarray(views[..., 0]), axis=(1, 2)) * 8 / 7
  # The scale is of the area: at an aspect of 1 the side is its root.
  assert np.min(widths) < 0.3 and np.mean(widths < 0.42) > 0.1


@pytest.mark.parametrize(
    "own,dataset,expected",
    [
        # The central crop of ImageNet would cut digits and others.
        (("imagenet2012", 0.875), "digits", 1.0),
        (("digits", 1.0), "imagenet2012", 0.875),
        # A user's setting for one folder is kept for another.
        (("folder:a", 0.9), "folder:b", 0.9),
        (("folder:a", 0.9), None, 0.9),
    ],
)
def test_the_central_crop_is_that_of_the_evaluated_set(own, dataset, expected):
  name, fraction = own
  config = configs.of_method("moco_v2", name)
  config.eval.crop_fraction = fraction
  size = config.image_size
  made = evaluation._config_for(config, dataset, None)
  assert made.eval.crop_fraction == expected
  assert made.image_size == size
  assert config.eval.crop_fraction == fraction  # That of the run is unchanged.


@pytest.mark.parametrize(
    "own,dataset,expected",
    [
        # Three times the encoder's 32 pixels, or 128.
        (("cifar10", 0), "imagenet2012", 96),
        (("folder:a", 64), "imagenet2012", 384),
        (("imagenet2012", 256), "digits", 0),
        # A user's setting for one folder is kept for another.
        (("folder:a", 64), "folder:b", 64),
        (("folder:a", 0), "folder:b", 384),
        (("imagenet2012", 256), "folder:b", 512),
        (("folder:a", 64), None, 64),
        (("folder:a", 0), None, 0),
    ],
)
def test_the_canvas_is_that_of_the_evaluated_set(own, dataset, expected):
  name, canvas = own
  config = configs.of_method("moco_v2", name)
  config.data.canvas = canvas
  made = evaluation._config_for(config, dataset, None)
  assert made.data.canvas == expected
  assert config.data.canvas == canvas  # That of the run is unchanged.


def test_pictures_of_two_sizes_are_evaluated_on_a_canvas(tmp_path):
  made = tiny_run.config()
  made.data.canvas = 0
  tiny_run.save(tmp_path / "run", made)
  files = [f"{split}/{name}" for split in ("train", "test") for name in _PAIR]
  dataset = _labelled_folder(tmp_path / "photos", files)
  Image.new("RGB", (640, 600)).save(tmp_path / "photos" / files[0])
  found = evaluation.evaluate(
      str(tmp_path / "run"), dataset=dataset, protocols=["knn"]
  )
  assert found["canvas"] == 3 * made.image_size


def test_pictures_of_one_size_are_not_resized_to_the_canvas(data_dir):
  config = configs.of_method("moco_v2", "folder:a")
  assert config.data.canvas
  made = evaluation._config_for(config, "digits", str(data_dir))
  evaluation._open(made, True)
  assert made.data.canvas == 0


@pytest.mark.slow
def test_the_command_prints_a_table(workdir, content):
  result = command.run("evaluate", f"--workdir={workdir}", "--protocols=knn")
  assert "| raw pixels" in result.stdout
  lines = result.stderr.splitlines()
  start = lines.index("loading digits")
  assert lines[start : start + 5] == [
      "loading digits",
      "trained (1 of 3): encoding 320 training and 200 test images",
      "trained (1 of 3): evaluating knn (1 of 1)",
      "untrained (2 of 3): encoding 320 training and 200 test images",
      "untrained (2 of 3): evaluating knn (1 of 1)",
  ]
  knn = content["results"]["trained"]["pooled"]["knn"]["accuracy"]
  assert re.search(rf"\| {knn:.3f}\*? +\|", result.stdout)
  assert f"is in {workdir}/evaluation" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments,message",
    [
        (
            (),
            (
                "--workdir is missing; a command looks like\n  python -m"
                " jssl.evaluate"
            ),
        ),
        (("--workdir=nowhere",), "is not the folder of a run"),
    ],
)
def test_the_command_reports_what_is_wrong(arguments, message):
  assert message in command.run("evaluate", *arguments, code=1).stderr
