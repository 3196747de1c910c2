"""The page: complete, self-contained and safe, for any run."""

import base64
import dataclasses
import html.parser
import io
import json
import os
import re
import shutil

import jax
import numpy as np
from PIL import Image
import pytest

import command
from jssl import config as configs, data, loop, report
from jssl.encoder import Encoder
from jssl.evals import results
from jssl.evals.features import Features
from jssl.methods import METHODS
from jssl.report import curves, embedding_map, page, tables
import tiny

_EVIL = "<script>alert(1)</script>"
# Elements that end without a closing tag; those of SVG close themselves.
_VOID = {"meta", "link", "img", "br", "hr", "wbr"}


class _Page(html.parser.HTMLParser):
  """Checks that elements nest, and collects tags, attributes and text."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.attributes, self.text = [], [], [], []
    self.broken = ""
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += [(tag, *pair) for pair in attrs]
    if tag == "wbr":  # A possible line break within a word.
      self.broken = self.text.pop()
    names = [name for name, _ in attrs]
    assert len(names) == len(set(names)), (tag, attrs)
    if tag not in _VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += [(tag, *pair) for pair in attrs]

  def handle_endtag(self, tag):
    assert self.open and self.open.pop() == tag, (tag, self.getpos())

  def handle_data(self, text):
    if not self.open or self.open[-1] not in ("script", "style"):
      self.text.append(self.broken + text)
      self.broken = ""

  def values(self, name):
    return [value for _, key, value in self.attributes if key == name]

  @property
  def words(self):
    return " ".join(" ".join(self.text).split())


def _check(path):
  """Checks what every page must satisfy; returns it, parsed."""
  text = path.read_text()
  assert len(text) < 5e6
  parsed = _Page(text)
  # Nothing is loaded: all addresses are data, or anchors in the page.
  for tag, name, value in parsed.attributes:
    if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
      assert value.startswith(("data:", "#")), (tag, name, value[:80])
  assert "@import" not in text
  for address in re.findall(r"url\(([^)]*)\)", text):
    assert address.startswith(("#", "${sprite}")), address
  assert "://" not in re.sub(r'content="[^"]*"', "", text)
  assert "default-src 'none'" in parsed.values("content")[-1]
  # Anchors exist, and are unique.
  ids = parsed.values("id")
  assert len(ids) == len(set(ids))
  places = parsed.values("href") + parsed.values("xlink:href")
  assert {x[1:] for x in places if x.startswith("#")} <= set(ids)
  used = re.findall(r"url\(#([^)]*)\)", text)
  assert set(used) <= set(ids)
  for tag, name, value in parsed.attributes:
    if tag == "img" and name == "src":
      _decode(value)
  assert parsed.tags.count("img") == len(
      [1 for tag, name, _ in parsed.attributes if (tag, name) == ("img", "alt")]
  )
  return parsed


def _decode(uri):
  image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
  image.load()
  return image


def _config(dataset, name="moco_v2", **changes):
  config = configs.base(dataset)
  config.update(
      batch_size=8,
      image_size=8,
      epochs=1.0,
      method={"name": name},
      net={"name": "resnet8", "width": 4, "stem": "cifar", "patch_size": 2},
      augment={"name": "crop_and_flip"},
      optimizer=configs.sgd(learning_rate=0.1, weight_decay=0.0),
      data={"canvas": 12},
      eval={"k": 5, "every_epochs": 1.0},
      log={"every_steps": 1},
  )
  config.update(changes)
  return config


def _save(folder, count, *, channels=3):
  """Saves images of mixed sizes."""
  folder.mkdir(parents=True, exist_ok=True)
  random = np.random.default_rng(0)
  for i in range(count):
    size = random.integers(6, 20, 2)
    pixels = random.integers(0, 256, (*size, channels), np.uint8)
    if channels == 1:
      pixels = pixels[..., 0]
    Image.fromarray(pixels).save(folder / f"{i:02}.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A run on a flat folder of images of mixed sizes, without labels."""
  folder = tmp_path_factory.mktemp("photos")
  _save(folder, 40)
  config = _config(
      f"folder:{folder}",
      method={"name": "simclr", "dim": 8, "hidden_dim": 8},
  )
  workdir = tmp_path_factory.mktemp("runs") / "flat"
  loop.train(config, str(workdir))
  return workdir


def _summary(**changes):
  row = {"knn": 0.9, "one_shot": 0.5, "five_shot": None, "rank": 9.0}
  return {
      **row,
      "stages": {"stage_1": row},
      "baselines": {"raw_pixels": row, "untrained": {**row, "knn": 0.2}},
      "steps": 4,
      "seconds": 130.0,
      "images_per_second": 1234.5,
      "images": {"train": 40, "test": 30},
      "devices": ["cpu", "cpu"],
      "peak_memory_bytes": {"device": None, "host": 2**31},
      "versions": {"jax": "0.10.2"},
      **changes,
  }


_ROWS = [
    {
        "step": i,
        "epoch": i / 2,
        "seconds": i,
        "loss": 3.0 / i,
        "knn": 0.4,
        "chance_loss": 2.0,
        "rank": 7.0,
        "learning_rate": 0.1,
    }
    for i in (1, 2, 4)
]


def _untrained(
    *,
    classes=("cat", "dog"),
    train=40,
    test=30,
    channels=3,
    method="simclr",
    summary=None,
    workdir="runs/x",
    net=None,
):
  """A run that was never trained, on images of noise."""

  def images(count, seed):
    label = np.arange(count, dtype=np.int32) % max(len(classes), 1)
    return data.Images(
        np.asarray(tiny.images(count, seed))[..., :channels],
        label if classes else None,
        None,
        tuple(classes),
        (),
    )

  made = METHODS[method](net or tiny.Net(), augment=tiny.recipe)
  batch = {"image": np.zeros((1, 8, 8, channels), np.float32)}
  views = made.views(jax.random.key(0), batch)
  params = made.init(jax.random.key(0), views)

  config = _config("digits", method, batch_size=2)
  config.resolved = dict(
      channels=channels,
      classes=list(classes),
      train_images=train,
      fingerprint=0,
  )
  encode = jax.jit(
      lambda p, x, e=None, stages=False: made.encode(*p, x / 255.0),
      static_argnames="stages",
  )
  return report.Run(
      workdir=workdir,
      config=config,
      step=4,
      rows=_ROWS,
      summary=summary,
      encoder=Encoder(config, made, 4, params, encode),
      train=images(train, 0),
      test=images(test, 1),
  )


def _sections(parsed):
  return [
      value
      for tag, name, value in parsed.attributes
      if (tag, name) == ("section", "id")
  ]


@pytest.mark.slow
def test_a_run_without_labels_ends_with_a_report(trained):
  parsed = _check(trained / "report.html")
  expected = "curves views map neighbours features scores run"
  assert _sections(parsed) == expected.split()
  assert "Trained; 4 held-out images cannot show whether" in parsed.words
  assert "The numbers are cosine similarities." in parsed.words
  assert "five-shot" not in parsed.words
  assert "GiB on the host" in parsed.words


@pytest.mark.slow
def test_a_report_has_all_sections_in_order(tmp_path):
  made = _untrained(summary=_summary())
  report.write(made, tmp_path / "report.html")
  parsed = _check(tmp_path / "report.html")
  expected = "curves views map neighbours confusion features scores run"
  assert _sections(parsed) == expected.split()
  words = parsed.words
  assert "Training helped: kNN accuracy on held-out images is 0.900" in words
  assert "2 × cpu" in words and "2.00 GiB on the host" in words
  assert "1,234" in words and "2 min" in words and "jax 0.10.2" in words
  assert "net.width 4" in words and "optimizer.learning_rate 0.1" in words
  assert "by their 5 nearest neighbours among 40 training images" in words
  # Six pictures with four views, twelve queries with five neighbours, eight
  # maps next to their images, and the sprite.
  assert parsed.tags.count("img") == 6 * 5 + 12 * 6 + 8 * 2 + 1
  assert parsed.tags.count("circle") == 30 + 1


def test_evaluations_of_the_checkpoint_are_shown(tmp_path):
  knn = {"accuracy": 0.8125, "interval": [0.7, 0.9]}
  found = {
      "dataset": "folder:<b>x</b>",
      "step": 4,
      "train_images": 1600,
      "test_images": 20,
      "classes": 2,
      "notes": {"alpha_req": "fewer than 12 <i>directions</i>"},
      "results": {"trained": {"pooled": {"knn": knn, "alpha_req": None}}},
  }
  write = lambda found: results.write(
      found, results.path_for(tmp_path, found["dataset"])
  )
  write(found)
  write({**found, "dataset": "old", "step": 3})
  made = _untrained(summary=_summary(), workdir=str(tmp_path))
  report.write(made, tmp_path / "report.html")
  parsed = _check(tmp_path / "report.html")
  assert _sections(parsed)[-3:] == ["scores", "evaluations", "run"]
  words = parsed.words
  assert "folder:<b>x</b>: 1,600 training and 20 test images, step 4" in words
  assert "0.812 (0.700 to 0.900)" in words and "alpha req" in words
  assert "alpha req: fewer than 12 <i>directions</i>." in words
  assert "old:" not in words


def test_a_folder_whose_name_is_not_utf8_has_a_report(tmp_path):
  made = _untrained(summary=_summary(), workdir="runs/\udcff")
  report.write(made, tmp_path / "report.html")
  assert "runs/" in _check(tmp_path / "report.html").words


def test_names_are_escaped(tmp_path):
  made = _untrained(
      classes=(_EVIL, "</script><b>'\"&amp;"),
      summary=_summary(devices=[_EVIL]),
      workdir=_EVIL,
  )
  made.config.data.name = f"folder:{_EVIL}"
  made.config.net.name = _EVIL
  report.write(made, tmp_path / "report.html")
  parsed = _check(tmp_path / "report.html")
  text = (tmp_path / "report.html").read_text()
  assert "<script>alert" not in text and "<b>'" not in text
  # The data of the map, and what reads them.
  assert parsed.tags.count("script") == 2
  assert parsed.words.count(_EVIL) > 10
  start = text.index('id="map-data">') + len('id="map-data">')
  names = json.loads(text[start : text.index("</script>", start)])["names"]
  assert names[:2] == [_EVIL, "</script><b>'\"&amp;"]


def test_names_in_a_comparison_are_escaped(tmp_path):
  runs = [_untrained(workdir=f"runs/{name}") for name in (_EVIL[:7], "$x^2$")]
  runs[0].config.net.name = _EVIL
  report.write_comparison(runs, tmp_path / "c.html")
  parsed = _check(tmp_path / "c.html")
  assert "script" not in parsed.tags
  assert _EVIL in parsed.words and "$x^2$" in parsed.words


@pytest.mark.parametrize(
    "options",
    [
        {"classes": ("only",), "channels": 1, "train": 40},
        {"train": 4, "test": 1},
        {"train": 3, "test": 5, "classes": ("a", "b", "c", "absent")},
        {"channels": 1, "classes": (), "train": 40},
    ],
)
def test_small_and_odd_sets_are_reported(tmp_path, options):
  made = _untrained(summary=_summary(), **options)
  made.config.eval.k = 0  # As many neighbours as the smallest class has images.
  report.write(made, tmp_path / "report.html")
  parsed = _check(tmp_path / "report.html")
  assert "neighbours" in _sections(parsed)
  assert ("confusion" in _sections(parsed)) == (
      len(options.get("classes", "ab")) > 1
  )
  assert ("by their nearest neighbour among 3" in parsed.words) == (
      options["train"] == 3
  )


def test_sections_of_features_that_are_not_finite_are_left_out(tmp_path):
  made = _untrained(summary=_summary())
  params = jax.tree.map(lambda x: x * np.nan, made.encoder.params)
  broken = dataclasses.replace(made.encoder, params=params)
  made = dataclasses.replace(made, encoder=broken)
  report.write(made, tmp_path / "report.html")
  parsed = _check(tmp_path / "report.html")
  assert _sections(parsed) == ["curves", "views", "scores", "run"]


def test_reports_of_generative_methods_show_reconstructions(tmp_path):
  made = _untrained(method="denoising", summary=_summary())
  report.write(made, tmp_path / "report.html")
  parsed = _check(tmp_path / "report.html")
  assert "reconstructions" in _sections(parsed)
  for words in ("input", "output", "original"):
    assert [text.strip() for text in parsed.text].count(words) == 10


def test_features_of_the_run_are_not_computed_again():
  made = _untrained(train=6000, test=30)
  rows = lambda count: {"pooled": np.arange(count, dtype=np.float32)[:, None]}
  made = dataclasses.replace(
      made,
      encoder=dataclasses.replace(made.encoder, encode=None),
      features=Features(rows(6000), rows(30)),
  )
  train, test = report.splits(made)
  assert (len(train.index), train.total) == (5000, 6000)
  np.testing.assert_array_equal(train.features[:, 0], train.index)
  np.testing.assert_array_equal(test.features[:, 0], np.arange(30))
  np.testing.assert_array_equal(
      train.images.image[-1], made.train.image[train.index[-1]]
  )


def test_training_features_are_computed_if_the_run_has_none_of_them():
  made = _untrained()
  computed, _ = report.splits(made)
  test_only = Features(None, {"pooled": np.zeros((30, 1), np.float32)})
  train, test = report.splits(dataclasses.replace(made, features=test_only))
  np.testing.assert_array_equal(train.features, computed.features)
  assert not test.features.any()


def test_reports_of_many_classes_and_images_stay_small(tmp_path, monkeypatch):
  # Noise is the worst case for JPEG, and t-SNE of many images is slow.
  place = lambda x: (np.random.default_rng(0).normal(size=(len(x), 2)), "t-SNE")
  monkeypatch.setattr(embedding_map, "project", place)
  names = tuple(f"class number {i}" for i in range(1000))
  made = _untrained(classes=names, train=6000, test=2000, summary=_summary())
  random = np.random.default_rng(0)
  large = random.integers(0, 256, (2000, 64, 64, 3), np.uint8)
  made = dataclasses.replace(
      made, test=dataclasses.replace(made.test, image=large)
  )
  report.write(made, tmp_path / "report.html")
  parsed = _check(tmp_path / "report.html")
  assert "1,500 of the 2,000 held-out images" in parsed.words
  assert "5,000 of the 6,000 training images" in parsed.words
  assert "The most common mistakes." in parsed.words


def test_an_unfinished_run_is_reported(trained, tmp_path):
  workdir = tmp_path / "run"
  shutil.copytree(trained, workdir)
  (workdir / "summary.json").unlink()
  config = json.loads((workdir / "config.json").read_text())
  config["epochs"] = 9.0
  (workdir / "config.json").write_text(json.dumps(config))
  made = report.load(str(workdir))
  report.write(made, workdir / "report.html")
  parsed = _check(workdir / "report.html")
  assert re.search(r"Not finished, at step 4 of 3\d; after", parsed.words)
  assert "map" in _sections(parsed) and "scores" not in _sections(parsed)


def test_the_summary_of_an_earlier_step_is_ignored(trained, tmp_path):
  workdir = tmp_path / "run"
  shutil.copytree(trained, workdir)
  summary = json.loads((workdir / "summary.json").read_text())
  assert report.read(str(workdir)).summary == summary
  (workdir / "summary.json").write_text(json.dumps({**summary, "steps": 2}))
  assert report.read(str(workdir)).summary is None


def test_a_run_whose_images_are_gone_is_reported_without_them(
    trained, tmp_path
):
  workdir = tmp_path / "run"
  shutil.copytree(trained, workdir)
  config = json.loads((workdir / "config.json").read_text())
  config["data"]["name"] = "folder:/gone/<b>"
  (workdir / "config.json").write_text(json.dumps(config))
  Image.new("RGB", (30, 20)).save(workdir / "reconstructions.png")
  report.write(report.load(str(workdir)), workdir / "report.html")
  parsed = _check(workdir / "report.html")
  assert "since they could not be loaded: There is no folder" in parsed.words
  assert _sections(parsed) == ["curves", "reconstructions", "scores", "run"]
  assert "36 to train on, 4 held out" in parsed.words


def test_training_succeeds_if_the_report_fails(
    trained, tmp_path, monkeypatch, capfd
):
  workdir = tmp_path / "a run"
  shutil.copytree(trained, workdir)

  def fail(*arguments):
    raise RuntimeError("no such luck\nand more")

  monkeypatch.setattr(report, "write", fail)
  result = loop.train(configs.load_config(str(workdir)), str(workdir))
  assert result == json.loads((workdir / "summary.json").read_text())
  lines = capfd.readouterr().err.splitlines()
  (line,) = [x for x in lines if "report.html could not" in x]
  assert "RuntimeError: no such luck" in line
  assert f"python -m jssl.report --workdir='{workdir}'" in line


def test_runs_are_compared(tmp_path):
  one = _untrained(workdir="runs/one", summary=_summary())
  two = _untrained(workdir="runs/two")
  two.config.net.width = 99
  report.write_comparison([one, two], tmp_path / "comparison.html")
  parsed = _check(tmp_path / "comparison.html")
  words = parsed.words
  assert "one Training helped" in words and "two Not finished" in words
  assert "net.width 4 99" in words
  assert "optimizer.learning_rate" not in words  # It does not differ.
  assert "different data sets" not in words
  two.config.data.name = "photos"
  report.write_comparison([one, two], tmp_path / "comparison.html")
  assert "different data sets" in _check(tmp_path / "comparison.html").words


def test_names_of_runs_are_short_and_unique():
  names = page._short_names(["/a/runs/x/1", "/a/runs/y/1", "/a/runs/y/1"])
  assert names == ["x/1", "y/1 (1)", "y/1 (2)"]
  assert page._short_names(["/a/run", "/a/run"]) == ["run (1)", "run (2)"]


def test_a_report_is_written_atomically(tmp_path, monkeypatch):
  path = tmp_path / "report.html"
  path.write_text("before")
  monkeypatch.setattr(os, "replace", lambda *_: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    report.write_comparison([_untrained()], path)
  assert path.read_text() == "before"


def test_the_command_writes_the_same_report(trained, tmp_path):
  output = tmp_path / "again.html"
  done = command.run("report", f"--workdir={trained}", f"--output={output}")
  assert done.stdout + done.stderr == f"Wrote {output}\n"
  # Encoder and images are those at the end of training.
  before = _check(trained / "report.html").words
  assert _check(output).words == before


def test_the_command_compares_runs(trained, tmp_path):
  other = tmp_path / "other"
  shutil.copytree(trained, other)
  done = command.run("report", f"--workdir={other}", f"--workdir={trained}")
  assert done.stdout + done.stderr == f"Wrote {other}/comparison.html\n"
  assert "The configs are the same." in _check(other / "comparison.html").words


@pytest.mark.slow
def test_errors_of_the_command_name_the_remedy(trained, tmp_path):
  (tmp_path / "empty").mkdir()
  shutil.copy(trained / "config.json", tmp_path / "empty")
  for arguments, expected in (
      ((), "--workdir is missing"),
      ((f"--workdir={tmp_path}/none",), "--workdir of python -m jssl.train"),
      ((f"--workdir={tmp_path}/empty",), "train first"),
      (
          (f"--workdir={trained}", f"--output={tmp_path}/no/x.html"),
          f"there is no folder {tmp_path}/no",
      ),
      (
          (f"--workdir={trained}", f"--output={tmp_path}/{'x' * 254}"),
          "cannot be written (File name too long)",
      ),
  ):
    assert expected in command.run("report", *arguments, code=1).stderr
  assert not (tmp_path / "none").exists()
  assert not (tmp_path / "empty" / "checkpoints").exists()


def test_curves_take_the_colors_of_the_page_and_stay_small():
  points = [(float(i), float(np.sin(i / 300))) for i in range(10_000)]
  panel = curves.Panel(
      "a & b", [curves.Curve("", points, 0), curves.Curve("", [(0, 1)], 9)]
  )
  svg = panel.svg
  parsed = _Page(svg)
  assert parsed.tags[0] == "svg" and len(svg) < 50_000
  assert "var(--line-0)" in svg and "var(--line-1)" in svg
  assert "currentColor" in svg
  assert "#0102" not in svg
  assert not {"metadata", "style"} & set(parsed.tags)


def test_thinning_keeps_the_last_point():
  points = [(i, i) for i in range(1001)]
  thin = curves._thin(points)
  assert len(thin) <= 400 and thin[-1] == (1000, 1000)
  assert curves._thin(points[:400]) == points[:400]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, ""),
        (0.4, "0 s"),
        (119.0, "119 s"),
        (150.0, "2 min"),
        (7200.0, "2 h 0 min"),
        (12_000.0, "3 h 20 min"),
    ],
)
def test_durations_are_readable(seconds, expected):
  assert tables.duration(seconds) == expected
