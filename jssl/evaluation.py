"""Evaluates a trained encoder and its baselines by every protocol."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jssl import augment as augmentation
from jssl import build
from jssl import config as configs
from jssl import data
from jssl import encoder as encoders
from jssl import experiment
from jssl.config import lookup
from jssl.config import set_name
from jssl.encoder import Encoder
from jssl.evals import evaluations
from jssl.evals import features as extraction
from jssl.evals import fine_tune as tuning
from jssl.evals import frozen
from jssl.evals import intervals
from jssl.evals import quality
from jssl.evals.linear_augmented import augmented_linear_probe
from jssl.evals.minibatches import LabelledImages
from jssl.progress import Progress

_SHARES = {"1% of labels": 0.01, "10% of labels": 0.1}
_ENCODERS = ("trained", "untrained", "raw pixels")
_TUNED = ("semi_supervised", "fine_tune")  # They change the encoder.
PROTOCOLS = (*frozen.LABELLED, "label_free", "linear_augmented", *_TUNED)
DEFAULT_PROTOCOLS = ("knn", "linear", "few_shot", "label_free")

# The range of torchvision's RandomResizedCrop, which protocols of ImageNet use.
_CROP_SCALE = (0.08, 1.0)
# Sets whose pictures mean something else when mirrored: handwriting, and
# numbers in photographs.
_HANDWRITING = ("digits", "mnist", "emnist", "kmnist", "mnist_corrupted")
_NUMBERS = ("svhn_cropped",)
_NUMBERS_SCALE = (0.5, 1.0)  # A smaller part may be another number.


class Subject(NamedTuple):
  """An encoder to be evaluated, and the data.

  What belongs to the encoder is the run's: the size of its images, the
  statistics that its net subtracts, its precision. How pictures are cut follows
  the evaluated set.

  Attributes:
    trained: The run, its state that of the encoder.
    train: Images whose labels may be used.
    test: Images that the accuracy is measured on.
    params: What the run's `encode` takes first; None for raw pixels.
    encode_whole: The run's `encode` without a central crop, for views.
    crop_fraction: Side of the central crop, see `encoder.make_encode`.
    augment: The recipe for what is trained on labels.
  """

  trained: Encoder
  train: data.Images
  test: data.Images
  params: Any
  encode_whole: Callable[..., Any]
  crop_fraction: float
  augment: Callable[..., jax.Array]


def evaluate(
    workdir: str,
    *,
    protocols: Sequence[str] | None = None,
    dataset: str | None = None,
    data_dir: str | None = None,
) -> dict[str, Any]:
  """Evaluates the encoder of a run, every stage of it, and its baselines.

  The encoder is frozen, BatchNorm with its running statistics, except where it
  is fine-tuned. Baselines are raw pixels and the net before training;
  fine-tuned, that is the same net trained with labels alone.

  Args:
    workdir: The run's folder.
    protocols: Some of "knn", "linear", "few_shot", "label_free",
      "linear_augmented" (of views of the training images), "semi_supervised"
      (fine-tuning by 1% and 10% of the labels) and "fine_tune" (by all). None
      for those of the first four that apply: without labels "label_free".
    dataset: Another data set to evaluate on (transfer), as in a config; the
      run's by default.
    data_dir: Where TFDS keeps its sets; as for the run by default.

  Returns:
    What is written to the run's folder, see `evaluations.write`. Results of
    other protocols at the same step, on the same pictures, are kept.

  Raises:
    ValueError: If a protocol is unknown or needs labels that are not there, or
      the images have other channels.
    FileNotFoundError: If the folder holds no run, or no checkpoint yet.
    OSError: If the result cannot be written.
  """
  for name in protocols or ():
    lookup("A protocol", name, PROTOCOLS)
  with contextlib.closing(Progress(step=0, total=None)) as progress:
    trained = encoders.load(workdir)
    name = dataset or trained.config.data.name
    config = _config_for(trained.config, dataset, data_dir)
    target = evaluations.target(
        workdir, name, variant=_variant(trained.config.data, config.data)
    )
    with progress.stage(f"loading {name}"):
      sources = _open(config, dataset is not None)
      train, test = (experiment.load_images(config, x) for x in sources)
    for note in dict.fromkeys(train.notes + test.notes):
      progress.log(f"WARNING: {note}")
    _check_channels(trained, train, name)
    protocols, notes = _applicable(protocols, train, test, name)
    notes |= _left_out(train, test)
    results: dict[str, Any] = {}
    subjects = _subjects(trained, config, train, test, name)
    for i, (encoder, subject) in enumerate(subjects, start=1):
      which = f"{encoder} ({i} of {len(_ENCODERS)})"
      announce = lambda text: progress.stage(f"{which}: {text}")
      found = _evaluate_one(subject, protocols, announce)
      results[encoder] = {
          stage: _without_missing(row, notes) for stage, row in found.items()
      }
  content = {
      "dataset": name,
      "step": trained.step,
      "train_images": len(train.image),
      "test_images": len(test.image),
      "classes": len(train.classes),
      "contents": [_identity(source) for source in sources],
      "canvas": config.data.canvas,
      "crop_fraction": config.eval.crop_fraction,
      "notes": notes,
      "results": results,
  }
  return evaluations.write(content, target)


def _config_for(config, dataset, data_dir):
  """The run's config, changed to load the pictures of another set.

  The central crop and the canvas are the defaults of the evaluated set; of two
  sets of a kind, such as two folders, the run's own. A canvas of three times
  the encoder's images is enough for every crop, and keeps memory small.
  """
  own, config = config, config.copy_and_resolve_references()
  config.data.data_dir = data_dir or config.data.data_dir
  if dataset is None:
    return config
  config.data.update(name=dataset, train="train", test="test")
  default = configs.base(dataset)
  canvas = min(default.data.canvas, 3 * config.image_size)
  if set_name(dataset) != set_name(own.data.name):
    config.data.canvas = canvas
    config.eval.crop_fraction = default.eval.crop_fraction
  elif not config.data.canvas:  # The run's pictures were of one size.
    config.data.canvas = canvas
  return config


def _open(config, transfer):
  """Opens both splits; drops the canvas where another set needs none."""
  train, test = (experiment.open_split(config, x) for x in ("train", "test"))
  if transfer and train.size and test.size:
    config.data.canvas = 0  # All are of one size, which is kept.
  return train, test


def _variant(own, evaluated):
  """What tells a set apart from the run's own of the same name."""
  keys = ["data_dir"]
  if own.name == evaluated.name:
    keys += ["train", "test"]
  return [evaluated[key] for key in keys if evaluated[key] != own[key]]


def _identity(source: data.Source) -> list[int]:
  """What tells the pictures of a split from others."""
  about = [source.length, data.fingerprint(source)]
  return about + ([source.fingerprint()] if source.fingerprint else [])


def _check_channels(trained, train, dataset):
  channels, expected = train.image.shape[-1], trained.config.resolved.channels
  if channels != expected:
    raise ValueError(
        f"{dataset} has images of {channels} channels, and the encoder was"
        f" trained on {expected}; evaluate on images of {expected}, or train on"
        f" {dataset}."
    )


def _applicable(
    protocols: Sequence[str] | None, train, test, dataset
) -> tuple[tuple[str, ...], dict[str, str]]:
  """Returns the protocols that can be run, and why others of them cannot.

  Raises:
    ValueError: If some were asked for by name that cannot.
  """
  lacking = [
      name
      for name, images in (("training", train), ("test", test))
      if images.label is None
  ]
  asked = tuple(dict.fromkeys(protocols or DEFAULT_PROTOCOLS))
  needs = [x for x in asked if x != "label_free"]
  if not lacking or not needs:
    return asked, {}
  what = f"the {' and '.join(lacking)} images of {dataset} have no labels"
  if protocols:
    raise ValueError(
        f"{what[0].upper()}{what[1:]}, which {', '.join(needs)} need; give"
        " --protocols=label_free, or another --dataset: a folder has labels if"
        " its pictures lie in one sub-folder per class."
    )
  return ("label_free",), {", ".join(needs): what}


def _left_out(train, test) -> dict[str, str]:
  """Says which pictures are left out, and what accuracies cannot show."""
  notes = {}
  broken = list(dict.fromkeys(train.skipped + test.skipped))
  if broken:
    notes["pictures"] = (
        f"{len(broken):,} are left out, the first of them is {broken[0]}"
    )
  if train.label is None or test.label is None:
    return notes
  parts = [
      f"{count:,} of {len(images.label):,} {name} images"
      for name, images in (("training", train), ("test", test))
      if (count := int((images.label < 0).sum()))
  ]
  if parts:
    notes["labels"] = f"{' and '.join(parts)} have none and are left out"
  absent = len(train.classes) - len(np.unique(train.label[train.label >= 0]))
  if len(train.classes) == 1:
    notes["classes"] = "there is only one, so accuracies show nothing"
  elif absent:
    notes["classes"] = (
        f"{absent:,} of {len(train.classes):,} have no labelled training image,"
        " so their test images cannot be classified correctly"
    )
  return notes


def _subjects(
    trained, config, train, test, dataset
) -> Iterator[tuple[str, Subject]]:
  """Yields the encoders by name."""
  crop_fraction = config.eval.crop_fraction
  make = functools.partial(
      encoders.make_encode, trained.method, image_size=config.image_size
  )
  trained = dataclasses.replace(
      trained,
      encode=make(
          crop_fraction=crop_fraction, channels=config.resolved.channels
      ),
  )
  whole = make()
  fresh = encoders.untrained(trained)
  recipe = _supervised_recipe(dataset, config.image_size)
  for name in _ENCODERS:
    own = fresh if name == "untrained" else trained
    params = None if name == "raw pixels" else own.params
    yield name, Subject(own, train, test, params, whole, crop_fraction, recipe)


def _without_missing(row, notes):
  """Puts None in the place of what does not apply, the reason into notes."""
  missing = {k: x for k, x in row.items() if isinstance(x, frozen.Missing)}
  notes.update({name: x.reason for name, x in missing.items()})
  return row | dict.fromkeys(missing)


def _evaluate_one(
    subject: Subject,
    protocols: Sequence[str],
    announce: Callable[[str], contextlib.AbstractContextManager],
) -> dict[str, dict[str, Any]]:
  """Results of one encoder: for each stage of its net, measures by name."""
  frozen_only = [x for x in protocols if x in frozen.LABELLED]
  if subject.params is None:  # Pixels cannot be fine-tuned.
    protocols = [x for x in protocols if x not in _TUNED]
  order = {name: i for i, name in enumerate(protocols, start=1)}
  evaluating = lambda name: announce(
      f"evaluating {name} ({order[name]} of {len(order)})"
  )
  results: dict[str, dict[str, Any]] = {"pooled": {}}
  train: dict[str, np.ndarray] = {}
  if set(protocols) - set(_TUNED):
    encode, images = _encode(subject), subject.train
    if set(protocols) <= {"label_free", *_TUNED}:
      images = _as_many_as_rank_takes(subject)
    count = f"{len(images.image):,} training and {len(subject.test.image):,}"
    with announce(f"encoding {count} test images"):
      test = _extract(encode, subject.test)
      if len(images.image):
        train = _extract(encode, images)
    results = {stage: {} for stage in test}
  labelled = frozen_only or "linear_augmented" in protocols
  if labelled:
    pairs = {x: _labelled(subject, train[x], test[x]) for x in test}
  for name in frozen_only:
    with evaluating(name):
      for stage, row in results.items():
        row |= frozen.LABELLED[name](jax.random.key(0), pairs[stage])
  if "label_free" in protocols:
    with evaluating("label_free"):
      views = _views(subject)
      for stage, row in results.items():
        more = train.get(stage, test[stage][:0])
        row |= frozen.label_free(test[stage], views[stage], more=more)
  if "linear_augmented" in protocols:
    with evaluating("linear_augmented"):
      for stage, found in _probe_augmented(subject, pairs).items():
        results[stage] |= found
  for name in [x for x in protocols if x in _TUNED]:
    with evaluating(name):
      shares = {"fine_tune": 1.0} if name == "fine_tune" else _SHARES
      for measure, share in shares.items():
        results["pooled"][measure] = _tune(subject, share)
  return results


def _as_many_as_rank_takes(subject: Subject) -> data.Images:
  """Training images that RankMe needs in addition to the test images."""
  images = subject.train
  wanted = max(quality.RANK_IMAGES - len(subject.test.image), 0)
  if wanted >= len(images.image):
    return images
  index = extraction.evenly(len(images.image), wanted)
  return images._replace(
      image=images.image[index],
      label=None if images.label is None else images.label[index],
      extent=None if images.extent is None else images.extent[index],
  )


def _encode(subject: Subject) -> Callable[..., dict[str, jax.Array]]:
  """From pictures and extents to pooled features of each stage."""
  config = subject.trained.config
  if subject.params is None:
    raw = encoders.make_raw_pixels(
        image_size=config.image_size, crop_fraction=subject.crop_fraction
    )
    return lambda images, extent: raw(None, images, extent, stages=True)
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
    return lambda params, views: raw(None, views, stages=True)
  return lambda params, views: encoders.pool_stages(
      subject.encode_whole(params, views, stages=True)
  )


def _extract(encode, images: data.Images) -> dict[str, np.ndarray]:
  return extraction.extract(encode, images.image, extent=images.extent)


def _views(subject: Subject) -> dict[str, np.ndarray]:
  """Features `[2, n, D]` of two views of some test images.

  The views are those that the encoder was trained to see as one, by the run's
  recipe, whatever set is evaluated.
  """
  recipe = build.recipe(subject.trained.config)
  assert recipe is not None  # Every method has one.
  test, encode = subject.test, jax.jit(_encode_views(subject))
  index = extraction.evenly(len(test.image), frozen.PAIRED)
  batch = {"image": jnp.asarray(test.image[index])}
  if test.extent is not None:
    batch["extent"] = jnp.asarray(test.extent[index])
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
  missing = frozen.too_few_to_choose(len(known))
  if missing:
    return {stage: {"linear_augmented": missing} for stage in pairs}
  probes = augmented_linear_probe(
      jax.random.key(0),
      _encode_views(subject),
      subject.params,
      _some(subject.train, known),
      {stage: x.train for stage, x in pairs.items()},
      {stage: x.test for stage, x in pairs.items()},
      num_classes=len(subject.train.classes),
      augment=subject.augment,
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
      augment=subject.augment,
  )
  prepare = functools.partial(
      augmentation.evaluation,
      size=config.image_size,
      crop_fraction=subject.crop_fraction,
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


def _supervised_recipe(dataset, size):
  """The mild augmentation of supervised training on a set of pictures."""
  name = set_name(dataset)
  if name in _HANDWRITING:
    return functools.partial(augmentation.digits, size=size)
  if name in _NUMBERS:
    recipe, scale = augmentation.random_resized_crop, _NUMBERS_SCALE
  else:
    recipe, scale = augmentation.crop_and_flip, _CROP_SCALE
  return functools.partial(recipe, size=size, scale=scale)
