"""What a trained encoder is worth, by every protocol, beside its baselines."""

from collections.abc import Callable, Sequence
import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jssl import augment as augmentation
from jssl import build
from jssl import data
from jssl import encoder as encoders
from jssl import run as runs
from jssl.config import lookup
from jssl.config import set_name
from jssl.encoder import Trained
from jssl.evals import evaluations
from jssl.evals import features as extraction
from jssl.evals import fine_tune as tuning
from jssl.evals import frozen
from jssl.evals import intervals
from jssl.evals.linear_augmented import augmented_linear_probe
from jssl.evals.minibatches import LabelledImages

_SHARES = {"1% of labels": 0.01, "10% of labels": 0.1}
_ENCODERS = ("trained", "untrained", "raw pixels")


class Subject(NamedTuple):
  """An encoder to be judged, and the data.

  Attributes:
    trained: The run, its state that of the encoder.
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


_TRAINED = ("linear_augmented", "semi_supervised", "fine_tune")
PROTOCOLS = (*frozen.LABELLED, "label_free", *_TRAINED)


def evaluate(
    workdir: str,
    *,
    protocols: Sequence[str] = ("knn", "linear", "few_shot", "label_free"),
    dataset: str | None = None,
    data_dir: str | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
  """Judges the encoder of a run, every stage of it, and its baselines.

  The encoder is frozen, BatchNorm with its running statistics, but where it is
  fine-tuned. Baselines are raw pixels and the net before training; fine-tuned,
  that is the same net trained with labels alone.

  Args:
    workdir: The run's folder.
    protocols: Some of "knn", "linear", "few_shot", "label_free",
      "linear_augmented" (of views of the training images), "semi_supervised"
      (fine-tuning by 1% and 10% of the labels) and "fine_tune" (by all).
    dataset: Another data set to judge by (transfer), as in a config; the run's
      by default.
    data_dir: Where TFDS keeps its sets; as for the run by default.
    say: Told what is going on.

  Returns:
    What is written to the run's folder, see `evaluations.write`. Results of
    other protocols at the same step stay.

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
  whole = encoders.make_encode(
      trained.method, image_size=trained.config.image_size
  )
  results = {}
  for name in _ENCODERS:
    own = trained._replace(state=fresh) if name == "untrained" else trained
    params = None if name == "raw pixels" else own.params
    subject = Subject(own, train, test, params, whole)
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
  return evaluations.write(content, workdir)


def _load(trained, dataset, data_dir):
  config = trained.config.copy_and_resolve_references()
  config.data.data_dir = data_dir or config.data.data_dir
  config.data.canvas = config.data.canvas or _canvas(config, dataset)
  if dataset is not None:
    config.data.update(name=dataset, train="train", test="test")
  return [
      runs.some_images(config, runs.open_source(config, split))
      for split in ("train", "test")
  ]


def _canvas(config, dataset):
  """Folders hold pictures of many sizes."""
  if dataset and dataset.startswith("folder:"):
    return 2 * config.image_size
  return 0


def _check(protocols, trained, train, test, dataset):
  channels, expected = train.image.shape[-1], trained.config.resolved.channels
  if channels != expected:
    raise ValueError(
        f"{dataset} has images of {channels} channels, and the encoder was"
        f" trained on {expected}; evaluate on images of {expected}, or train on"
        f" {dataset}."
    )
  labelled = train.label is not None and test.label is not None
  needs = [x for x in protocols if x != "label_free"]
  if needs and not labelled:
    raise ValueError(
        f"{dataset} has no labels, which {', '.join(needs)} need; give"
        " --protocols=label_free, or another --dataset: a folder has labels if"
        " its pictures lie in one sub-folder a class."
    )


def _judge(subject: Subject, protocols) -> dict[str, dict[str, Any]]:
  """Results of one encoder: for each stage, measures by name."""
  labelled = [name for name in protocols if name in frozen.LABELLED]
  augmented = "linear_augmented" in protocols
  results: dict[str, dict[str, Any]] = {"pooled": {}}
  if labelled or augmented or "label_free" in protocols:
    encode = _encode(subject)
    test = _extract(encode, subject.test)
    results = {stage: {} for stage in test}
  if labelled or augmented:
    train = _extract(encode, subject.train)
    pairs = {x: _labelled(subject, train[x], test[x]) for x in test}
  for stage, name in itertools.product(results, labelled):
    measure = frozen.LABELLED[name]
    results[stage] |= measure(jax.random.key(0), pairs[stage])
  if "label_free" in protocols:
    views = _views(subject)
    for stage in test:
      results[stage] |= frozen.label_free(test[stage], views[stage])
  if augmented:
    for stage, found in _probe_augmented(subject, pairs).items():
      results[stage] |= found
  if subject.params is not None:
    shares = _SHARES if "semi_supervised" in protocols else {}
    if "fine_tune" in protocols:
      shares = {**shares, "fine_tune": 1.0}
    for name, share in shares.items():
      results["pooled"][name] = _tune(subject, share)
  return results


def _encode(subject: Subject) -> Callable[..., dict[str, jax.Array]]:
  """From pictures and extents to pooled features of each stage."""
  config = subject.trained.config
  if subject.params is None:
    raw = encoders.make_raw_pixels(
        image_size=config.image_size, crop_fraction=config.eval.crop_fraction
    )
    return lambda images, extent: {"pooled": raw(images, extent)}
  encode = functools.partial(
      subject.trained.encode, subject.params, stages=True
  )
  return lambda images, extent: encoders.pool_stages(encode(images, extent))


def _encode_views(
    subject: Subject,
) -> Callable[[Any, jax.Array], dict[str, jax.Array]]:
  """From parameters and views, cut already, to features of each stage."""
  if subject.params is None:
    size = subject.trained.config.image_size
    raw = encoders.make_raw_pixels(image_size=size)
    return lambda params, views: {"pooled": raw(views, None)}
  return lambda params, views: encoders.pool_stages(
      subject.encode_whole(params, views, stages=True)
  )


def _extract(encode, images: data.Images) -> dict[str, np.ndarray]:
  return extraction.extract(encode, images.image, extent=images.extent)


def _views(subject: Subject) -> dict[str, np.ndarray]:
  """Features `[2, n, D]` of two views of some test images, by the recipe."""
  recipe = build.recipe(subject.trained.config)
  assert recipe is not None  # Every method has one.
  test, encode = subject.test, _encode_views(subject)
  stride = -(-len(test.image) // frozen.ROWS)
  batch = {"image": jnp.asarray(test.image[::stride])}
  if test.extent is not None:
    batch["extent"] = jnp.asarray(test.extent[::stride])
  make = jax.jit(
      lambda key, batch: augmentation.make_views(key, batch, (recipe, recipe))
  )
  pair = [
      extraction.extract(
          lambda x, _: encode(subject.params, x), np.asarray(view)
      )
      for view in make(jax.random.key(0), batch)
  ]
  return jax.tree.map(lambda *x: np.stack(x), *pair)


def _labelled(subject, train, test) -> frozen.Labelled:
  """Leaves out images whose label is -1: not known."""
  labels, test_labels = map(data.labels_of, (subject.train, subject.test))
  known, tested = labels >= 0, test_labels >= 0
  return frozen.Labelled(
      train[known],
      labels[known],
      test[tested],
      test_labels[tested],
      subject.train.classes,
  )


def _probe_augmented(
    subject: Subject, pairs: dict[str, frozen.Labelled]
) -> dict[str, dict[str, Any]]:
  """Linear probes of all stages, of views of the training images."""
  known = np.flatnonzero(data.labels_of(subject.train) >= 0)
  probes = augmented_linear_probe(
      jax.random.key(0),
      _encode_views(subject),
      subject.params,
      _some(subject.train, known),
      {stage: x.train for stage, x in pairs.items()},
      {stage: x.test for stage, x in pairs.items()},
      num_classes=len(subject.train.classes),
      augment=_supervised_recipe(subject.trained.config),
  )
  return {
      stage: frozen.probed("linear_augmented", probe, pairs[stage])
      for stage, probe in probes.items()
  }


def _some(images: data.Images, index: np.ndarray) -> LabelledImages:
  """Some of the images, which have labels."""
  extent = None if images.extent is None else images.extent[index]
  labels = data.labels_of(images)
  return LabelledImages(images.image[index], labels[index], extent)


def _tune(subject: Subject, share: float) -> dict[str, Any]:
  """Fine-tunes by a share of the labels; accuracy on the test images."""
  config, test = subject.trained.config, subject.test
  index = _share_of_each_class(data.labels_of(subject.train), share)
  classify = tuning.fine_tune(
      jax.random.key(0),
      encoders.make_trainable(subject.trained),
      encoders.backbone(subject.trained).variables,
      _some(subject.train, index),
      num_classes=len(subject.train.classes),
      augment=_supervised_recipe(config),
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

  labels = data.labels_of(test)
  tested = labels >= 0
  extent = None if test.extent is None else test.extent[tested]
  scores = extraction.extract(logits, test.image[tested], extent=extent)
  accuracy = intervals.of_images(scores.argmax(axis=-1), labels[tested])
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
