"""What a trained encoder is worth, by every protocol, beside its baselines."""

from collections.abc import Callable, Sequence
import functools
import itertools
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jssl import augment as augmentation
from jssl import build
from jssl import data
from jssl import encoder as encoders
from jssl.config import lookup
from jssl.config import set_name
from jssl.config import write_json
from jssl.encoder import Trained
from jssl.evals import features as extraction
from jssl.evals import fine_tune as tuning
from jssl.evals import frozen
from jssl.evals import intervals

_SHARES = {"1% of labels": 0.01, "10% of labels": 0.1}
_NEED_LABELS = ("knn", "linear", "few_shot", "semi_supervised", "fine_tune")
_ENCODERS = ("trained", "untrained", "raw pixels")


class Subject(NamedTuple):
  """An encoder to be judged, and the data.

  Attributes:
    trained: The run.
    train: Images whose labels may be used.
    test: Images that tell the accuracy.
    params: What the run's `encode` takes first; None for raw pixels.
    encode_whole: The run's `encode` without a central crop, for views.
  """

  trained: Trained
  train: data.Images
  test: data.Images
  params: Any
  encode_whole: Callable[..., Any]


PROTOCOLS = (*frozen.LABELLED, "label_free", "semi_supervised", "fine_tune")


def evaluate(
    workdir: str,
    *,
    protocols: Sequence[str] = ("knn", "linear", "few_shot", "label_free"),
    dataset: str | None = None,
    data_dir: str | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
  """Judges the encoder of a run, every stage of it, and its baselines.

  The encoder is frozen, BatchNorm with its running statistics, but where
  fine-tuning changes its weights. Baselines are raw pixels and the net before
  training; fine-tuned, that is the same net trained with labels alone.

  Args:
    workdir: The run's folder.
    protocols: Some of "knn", "linear", "few_shot", "label_free",
      "semi_supervised" (fine-tuning by 1% and 10% of the labels) and
      "fine_tune" (by all).
    dataset: Another data set to judge by (transfer), as in a config; the run's
      by default.
    data_dir: Where TFDS keeps its sets; as for the run by default.
    say: Told what is going on.

  Returns:
    What is written to `WORKDIR/evaluation/DATASET.json`, beside a table in
    Markdown: "dataset", "step", "train_images", "test_images", and in "results"
    for each encoder, stage and measure a dict with "accuracy" and its 95%
    "interval", or a number. Results of other protocols at the same step stay.

  Raises:
    ValueError: If a protocol is unknown or needs labels that are not there, or
      the images have other channels.
    FileNotFoundError: If the folder holds no run, or no checkpoint yet.
  """
  for name in protocols:
    lookup("A protocol", name, PROTOCOLS)
  trained = encoders.load(workdir)
  train, test = _load(trained, dataset, data_dir)
  dataset = dataset or trained.config.data.name
  _check(protocols, trained, train, test, dataset)
  fresh = trained.init(jax.random.key(trained.config.seed))
  params = {
      "trained": trained.params,
      "untrained": (fresh.params, fresh.carried),
      "raw pixels": None,
  }
  whole = encoders.make_encode(
      trained.method, image_size=trained.config.image_size
  )
  results = {}
  for name in _ENCODERS:
    subject = Subject(trained, train, test, params[name], whole)
    say(f"{name}: {', '.join(protocols)} on {dataset}")
    results[name] = _judge(subject, protocols)
  content = {
      "dataset": dataset,
      "step": int(trained.state.step),
      "train_images": len(train.image),
      "test_images": len(test.image),
      "classes": len(train.classes),
      "results": results,
  }
  return _write(content, pathlib.Path(workdir) / "evaluation")


def _load(trained, dataset, data_dir):
  config = trained.config
  load = functools.partial(
      data.load,
      dataset or config.data.name,
      data_dir=data_dir or config.data.data_dir or None,
      canvas=config.data.canvas or _canvas(config, dataset),
  )
  if dataset is None:
    return load(config.data.train), load(config.data.test)
  return load("train"), load("test")


def _canvas(config, dataset):
  """Folders hold pictures of many sizes."""
  if dataset and dataset.startswith("folder:"):
    return 2 * config.image_size
  return None


def _check(protocols, trained, train, test, dataset):
  channels, expected = train.image.shape[-1], trained.config.resolved.channels
  if channels != expected:
    raise ValueError(
        f"{dataset} has images of {channels} channels, and the encoder was"
        f" trained on {expected}; evaluate on images of {expected}, or train on"
        f" {dataset}."
    )
  labelled = train.label is not None and test.label is not None
  if needs := [x for x in protocols if x in _NEED_LABELS and not labelled]:
    raise ValueError(
        f"{dataset} has no labels, which {', '.join(needs)} need; give"
        " --protocols=label_free, or another --dataset: a folder has labels if"
        " its pictures lie in one sub-folder a class."
    )


def _judge(subject: Subject, protocols) -> dict[str, dict[str, Any]]:
  """Results of one encoder: for each stage, measures by name."""
  labelled = [name for name in protocols if name in frozen.LABELLED]
  results = {"pooled": {}}
  if labelled or "label_free" in protocols:
    encode = _encode(subject)
    test = _extract(encode, subject.test)
    results = {stage: {} for stage in test}
  if labelled:
    train = _extract(encode, subject.train)
    for stage, name in itertools.product(test, labelled):
      x = _labelled(subject, train[stage], test[stage])
      results[stage] |= frozen.LABELLED[name](jax.random.key(0), x)
  if "label_free" in protocols:
    views = _views(subject)
    for stage in test:
      results[stage] |= frozen.label_free(test[stage], views[stage])
  if subject.params is not None:
    shares = _SHARES if "semi_supervised" in protocols else {}
    if "fine_tune" in protocols:
      shares = {**shares, "fine_tune": 1.0}
    for name, share in shares.items():
      results["pooled"][name] = _tune(subject, share)
  return results


def _encode(
    subject: Subject, *, whole: bool = False
) -> Callable[..., dict[str, jax.Array]]:
  """From images and extents to pooled features of each stage."""
  config = subject.trained.config
  if subject.params is None:
    crop_fraction = 1.0 if whole else config.eval.crop_fraction
    raw = encoders.make_raw_pixels(
        image_size=config.image_size, crop_fraction=crop_fraction
    )
    return lambda images, extent: {"pooled": raw(images, extent)}
  encode = subject.encode_whole if whole else subject.trained.encode
  encode = functools.partial(encode, subject.params, stages=True)
  return lambda images, extent: encoders.pool_stages(encode(images, extent))


def _extract(encode, images: data.Images) -> dict[str, np.ndarray]:
  return extraction.extract(encode, images.image, extent=images.extent)


def _views(subject: Subject) -> dict[str, np.ndarray]:
  """Features `[2, n, D]` of two views of some test images, by the recipe."""
  recipe = build.recipe(subject.trained.config)
  test, encode = subject.test, _encode(subject, whole=True)
  stride = -(-len(test.image) // frozen.ROWS)
  batch = {"image": jnp.asarray(test.image[::stride])}
  if test.extent is not None:
    batch["extent"] = jnp.asarray(test.extent[::stride])
  make = jax.jit(
      lambda key, batch: augmentation.make_views(key, batch, (recipe, recipe))
  )
  pair = [
      extraction.extract(encode, np.asarray(view))
      for view in make(jax.random.key(0), batch)
  ]
  return jax.tree.map(lambda *x: np.stack(x), *pair)


def _labelled(subject, train, test) -> frozen.Labelled:
  """Leaves out images whose label is -1: not known."""
  known, tested = subject.train.label >= 0, subject.test.label >= 0
  return frozen.Labelled(
      train[known],
      subject.train.label[known],
      test[tested],
      subject.test.label[tested],
      subject.train.classes,
  )


def _tune(subject: Subject, share: float) -> dict[str, Any]:
  """Fine-tunes by a share of the labels; accuracy on the test images."""
  config, images, test = subject.trained.config, subject.train, subject.test
  index = _share_of_each_class(images.label, share)
  classify = tuning.fine_tune(
      jax.random.key(0),
      lambda params, x: subject.trained.method.encode(*params, x)["pooled"],
      subject.params,
      images.image[index],
      images.label[index],
      num_classes=len(images.classes),
      augment=_supervised_recipe(config),
      extent=None if images.extent is None else images.extent[index],
  )
  prepare = functools.partial(
      augmentation.evaluation,
      size=config.image_size,
      crop_fraction=config.eval.crop_fraction,
  )

  @jax.jit
  def logits(x, extent):
    x = augmentation.to_float(x)
    return classify(jax.vmap(lambda x, e: prepare(x, extent=e))(x, extent))

  tested = test.label >= 0
  extent = None if test.extent is None else test.extent[tested]
  scores = extraction.extract(logits, test.image[tested], extent=extent)
  accuracy = intervals.of_images(scores.argmax(axis=-1), test.label[tested])
  return {**accuracy, "labels": len(index)}


def _share_of_each_class(labels: np.ndarray, share: float) -> np.ndarray:
  """Indices of a share of each class's images, the same ones every time."""
  random, chosen = np.random.default_rng(0), []
  for label in range(labels.max() + 1):
    own = random.permutation(np.flatnonzero(labels == label))
    chosen.append(own[: max(1, round(share * len(own)))])
  return np.sort(np.concatenate(chosen))


def _supervised_recipe(config):
  """The mild augmentation of supervised training."""
  if set_name(config.data.name) == "digits":  # A flipped digit is none.
    recipe = augmentation.RECIPES["digits"]
  else:
    recipe = augmentation.RECIPES["crop_and_flip"]
  return functools.partial(recipe, size=config.image_size)


def _write(content: dict[str, Any], folder: pathlib.Path) -> dict[str, Any]:
  """Adds to what is there of the same step, and writes a table beside it."""
  folder.mkdir(parents=True, exist_ok=True)
  name = "".join(c if c.isalnum() else "_" for c in content["dataset"])
  path = folder / f"{name}.json"
  content = _merge(path, content)
  write_json(content, path)
  (folder / f"{name}.md").write_text(table(content))
  return content


def _merge(path: pathlib.Path, content: dict[str, Any]) -> dict[str, Any]:
  """Adds results of other protocols, if the encoder and the data are these."""
  if not path.exists():
    return content
  old = json.loads(path.read_text())
  if any(old.get(x) != content[x] for x in content if x != "results"):
    return content
  merged = old["results"]
  for encoder, stages in content["results"].items():
    for stage, measures in stages.items():
      row = merged.setdefault(encoder, {}).setdefault(stage, {})
      row.update(measures)
  return {**content, "results": merged}


def table(content: dict[str, Any], *, intervals: bool = True) -> str:
  """Returns what `evaluate` found as a table in Markdown.

  Args:
    content: What `evaluate` returned.
    intervals: Whether the 95% intervals stand beside the accuracies.
  """
  rows = {
      name if stage == "pooled" else f"{name}, {stage}": measures
      for name, stages in content["results"].items()
      for stage, measures in stages.items()
  }
  names = list(dict.fromkeys(x for row in rows.values() for x in row))
  cells = [["encoder", *(x.replace("_", " ") for x in names)]]
  for label, row in rows.items():
    cells.append([label, *(_cell(row.get(x), intervals) for x in names)])
  widths = [max(map(len, column)) for column in zip(*cells)]
  cells.insert(1, ["-" * width for width in widths])
  lines = [
      f"| {' | '.join(map(str.ljust, line, widths))} |" for line in cells
  ]
  kind = "; 95% intervals over test images or draws" if intervals else ""
  title = (
      f"{content['dataset']}: {content['train_images']:,} training and"
      f" {content['test_images']:,} test images, step {content['step']}{kind}"
  )
  return "\n".join([title, "", *lines, ""])


def _cell(value: Any, intervals: bool) -> str:
  if value is None:
    return "-"
  if not isinstance(value, dict):
    return f"{value:#.3g}"
  text = f"{value['accuracy']:.3f}"
  if not intervals:
    return text
  low, high = value["interval"]
  return f"{text} ({low:.3f} to {high:.3f})"
