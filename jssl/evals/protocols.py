"""The protocols: ways to evaluate an encoder, in one table.

To add one, add a function and a row of `PROTOCOLS`.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import numpy as np

from jssl import augment, embeddings
from jssl.config import build
from jssl.data import Images, labels_of
from jssl.data.images import evenly
from jssl.encoder import (
    backbone,
    Encoder,
    make_encode,
    make_trainable,
    pool_stages,
    prepare,
    RAW_PIXELS_SIZE,
)
from jssl.evals import intervals, quality
from jssl.evals.features import extract, Features, Labelled, labelled
from jssl.evals.fine_tune import fine_tune
from jssl.evals.knn import knn_sweep
from jssl.evals.linear import linear_probe, LinearProbe
from jssl.evals.linear_augmented import augmented_linear_probe
from jssl.evals.scores import few_shot_draws, nearest_classes

Results = dict[str, dict[str, Any]]  # For each stage, measures by name.

_PAIRED = 2048  # Images for measures of pairs: of all images, or of two views.
_KS = (1, 5, 10, 20, 50, 100, 200)
_TEMPERATURES = (0.03, 0.07, 0.1, 0.2, 0.5)
_SHOTS = {"one_shot": 1, "five_shot": 5, "ten_shot": 10}
_FEWEST_DIRECTIONS = 12  # Fewer are too few to fit a slope, see `alpha_req`.
# With fewer images, the held-out part that chooses a setting is empty.
_FEWEST_TO_CHOOSE_BY = 6
_SHARES = {"1% of labels": 0.01, "10% of labels": 0.1}


@dataclasses.dataclass(frozen=True)
class Missing:
  """The result of a measure that does not apply.

  Attributes:
    reason: The reason, a sentence without its period.
  """

  reason: str


@dataclasses.dataclass(frozen=True)
class Subject:
  """An encoder that is evaluated, and the data.

  Attributes:
    encoder: The encoder, or raw pixels.
    train: Images whose labels may be used.
    test: Images that the encoder is evaluated on.
    augment: The augmentation for training with labels.
    features: The features of these images if a protocol needs them;
      `features.train` may be those of some training images if no protocol needs
      their labels.
  """

  encoder: Encoder
  train: Images
  test: Images
  augment: Callable[..., jax.Array]
  features: Features = Features(None, {})


@dataclasses.dataclass(frozen=True)
class Protocol:
  """A way to evaluate an encoder.

  Attributes:
    needs: Any of "features" (of both splits), "labels" (of both splits), and
      "net" (which is trained, so the protocol does not apply to raw pixels).
    measure: A function from a subject to its results.
  """

  needs: frozenset[str]
  measure: Callable[[Subject], Results]


def _knn(x: Labelled) -> dict[str, Any]:
  """Nearest neighbours; a tenth of `train` chooses k and temperature."""
  chosen, edge = _choose_votes(x)
  predicted = nearest_classes(x, **chosen)
  accuracy = intervals.of_images(predicted, x.test_label)
  return {"knn": {**accuracy, **chosen, "at_edge": list(edge)}}


def _choose_votes(x):
  if len(x.train) == 1:  # There is nothing to choose by.
    return {"k": 1, "temperature": _TEMPERATURES[0]}, ()
  order = np.asarray(jax.random.permutation(jax.random.key(0), len(x.train)))
  held_out, rest = np.split(order, [max(1, len(order) // 10)])
  grid = {
      "k": [k for k in _KS if k <= len(rest)],
      "temperature": list(_TEMPERATURES),
  }
  predicted = knn_sweep(
      x.train[held_out],
      x.train[rest],
      x.train_label[rest],
      ks=grid["k"],
      temperatures=grid["temperature"],
      num_classes=len(x.classes),
  )
  correct = np.asarray(predicted) == x.train_label[held_out]
  accuracy = np.mean(correct, axis=-1)
  best = np.unravel_index(np.argmax(accuracy), accuracy.shape)
  chosen = {name: values[i] for i, (name, values) in zip(best, grid.items())}
  return chosen, intervals.at_edge(accuracy, best, grid, limits={"k": 1})


def _linear(x: Labelled) -> dict[str, Any]:
  missing = _too_few_to_choose(len(x.train))
  if missing:
    return {"linear": missing}
  probe = linear_probe(
      jax.random.key(0),
      x.train,
      x.train_label,
      x.test,
      num_classes=len(x.classes),
  )
  return {"linear": _probe_result(probe, x.test_label)}


def _too_few_to_choose(count):
  """Returns why `count` labelled images cannot choose a setting, or None."""
  if count >= _FEWEST_TO_CHOOSE_BY:
    return None
  return Missing(
      f"choosing a setting takes {_FEWEST_TO_CHOOSE_BY} labelled training"
      f" images, but there {'is' if count == 1 else 'are'} {count}"
  )


def _probe_result(probe: LinearProbe, labels: np.ndarray) -> dict[str, Any]:
  return {
      **intervals.of_images(probe.predicted, labels),
      "learning_rate": probe.learning_rate,
      "weight_decay": probe.weight_decay,
      "at_edge": list(probe.at_edge),
  }


def _few_shot(x: Labelled) -> dict[str, Any]:
  """Few-shot accuracy with 1, 5 and 10 labels per class, ten draws each.

  Test images of a class without labelled training images cannot be classified
  correctly.
  """
  present, counts = np.unique(x.train_label, return_counts=True)
  fewest = int(counts.min())
  missing = Missing(
      f"class {x.classes[present[counts.argmin()]]} has {fewest} labelled"
      f" training image{'s' * (fewest != 1)}"
  )
  result = {}
  for name, shots in _SHOTS.items():
    draws = few_shot_draws(x, shots)
    result[name] = missing if draws is None else intervals.of_draws(draws)
  return result


def _per_stage(
    measure: Callable[[Labelled], dict[str, Any]],
) -> Callable[[Subject], Results]:
  """Applies a measure of labelled features to every stage."""
  return lambda subject: {
      stage: measure(x) for stage, x in _labelled_stages(subject).items()
  }


def _labelled_stages(subject: Subject) -> dict[str, Labelled]:
  found = {
      stage: labelled(
          subject.features, subject.train, subject.test, stage=stage
      )
      for stage in subject.features.test
  }
  return {stage: x for stage, x in found.items() if x is not None}


def _label_free(subject: Subject) -> Results:
  views, found = _paired_views(subject), {}
  for stage, test in subject.features.test.items():
    rows = test[evenly(len(test), quality.RANK_IMAGES)]
    if subject.features.train:  # Rank and alpha-ReQ need many images.
      train = subject.features.train[stage]
      more = evenly(len(train), quality.RANK_IMAGES - len(rows))
      rows = np.concatenate([rows, train[more]])
    paired = test[evenly(len(test), _PAIRED)]
    found[stage] = {
        "rank": _of_several(quality.rankme, rows),
        "alpha_req": _alpha_req(rows),
        "alignment": float(quality.alignment(*views[stage])),
        "uniformity": _of_several(quality.uniformity, paired),
        "feature_std": _of_several(embeddings.feature_std, paired),
    }
  return found


def _of_several(measure, rows):
  if len(rows) < 2:
    return Missing("one image has no spread")
  return float(measure(rows))


def _alpha_req(rows):
  if min(len(rows) - 1, rows.shape[1]) < _FEWEST_DIRECTIONS:
    return Missing(
        f"a slope takes {_FEWEST_DIRECTIONS} directions or more to fit"
    )
  return float(quality.alpha_req(rows))


def _paired_views(subject: Subject) -> dict[str, np.ndarray]:
  """Features `[2, n, D]` of two views of some test images.

  The views are those of the run's augmentation, even on another data set.
  """
  recipe = build.recipe(subject.encoder.config)
  assert recipe is not None  # Every method has an augmentation.
  make_views = jax.jit(
      lambda key, batch: augment.make_views(key, batch, (recipe, recipe))
  )
  encode = jax.jit(_make_encode_views(subject.encoder))
  batch = subject.test.evenly(_PAIRED).batch()
  batch.pop("label", None)
  pair = [
      extract(lambda x, _: encode(subject.encoder.params, x), np.asarray(views))
      for views in make_views(jax.random.key(0), batch)
  ]
  return jax.tree.map(lambda *x: np.stack(x), *pair)


def _make_encode_views(encoder: Encoder) -> Callable[..., dict[str, jax.Array]]:
  """Encodes views, which are cropped already, and returns all stages."""
  size = encoder.config.image_size
  if not encoder.params:
    size = min(size, RAW_PIXELS_SIZE)
  encode = make_encode(encoder.method, image_size=size)
  return lambda params, views: pool_stages(encode(params, views, stages=True))


def _linear_augmented(subject: Subject) -> Results:
  """The linear probe on augmented training images."""
  stages = _labelled_stages(subject)
  known = subject.train.labelled()
  missing = _too_few_to_choose(len(known))
  if missing:
    return {stage: {"linear_augmented": missing} for stage in stages}
  probes = augmented_linear_probe(
      jax.random.key(0),
      _make_encode_views(subject.encoder),
      subject.encoder.params,
      subject.train.batch(known),
      {stage: x.train for stage, x in stages.items()},
      {stage: x.test for stage, x in stages.items()},
      num_classes=len(subject.train.classes),
      augment=subject.augment,
  )
  return {
      stage: {
          "linear_augmented": _probe_result(probe, stages[stage].test_label)
      }
      for stage, probe in probes.items()
  }


def _tune(subject: Subject, share: float) -> dict[str, Any]:
  """Fine-tunes with a share of the labels; accuracy on the test images."""
  encoder, train = subject.encoder, subject.train
  index = _share_of_each_class(labels_of(train), share)
  classify = fine_tune(
      jax.random.key(0),
      make_trainable(encoder),
      backbone(encoder).variables,
      train.batch(index),
      num_classes=len(train.classes),
      augment=subject.augment,
  )
  size, crop = encoder.config.image_size, encoder.config.eval.crop_fraction
  logits = jax.jit(lambda x, e: classify(prepare(x, e, size, crop)))
  test = subject.test.take(subject.test.labelled())
  scores = extract(logits, test.image, extent=test.extent)
  accuracy = intervals.of_images(scores.argmax(axis=-1), labels_of(test))
  return {**accuracy, "labels": len(index)}


def _share_of_each_class(labels: np.ndarray, share: float) -> np.ndarray:
  """Indices of a share of each class's images, the same ones every time."""
  random, chosen = np.random.default_rng(0), []
  for label in range(labels.max() + 1):
    own = random.permutation(np.flatnonzero(labels == label))
    chosen.append(own[: max(1, round(share * len(own)))])
  return np.sort(np.concatenate(chosen))


def _per_share(shares: dict[str, float]) -> Callable[[Subject], Results]:
  """Fine-tunes with each share of the labels."""
  return lambda subject: {
      "pooled": {name: _tune(subject, x) for name, x in shares.items()}
  }


_OF_LABELLED = frozenset({"features", "labels"})
_OF_TUNED = frozenset({"labels", "net"})

PROTOCOLS = {
    "knn": Protocol(_OF_LABELLED, _per_stage(_knn)),
    "linear": Protocol(_OF_LABELLED, _per_stage(_linear)),
    "few_shot": Protocol(_OF_LABELLED, _per_stage(_few_shot)),
    "label_free": Protocol(frozenset({"features"}), _label_free),
    "linear_augmented": Protocol(_OF_LABELLED, _linear_augmented),
    "semi_supervised": Protocol(_OF_TUNED, _per_share(_SHARES)),
    "fine_tune": Protocol(_OF_TUNED, _per_share({"fine_tune": 1.0})),
}
DEFAULT_PROTOCOLS = ("knn", "linear", "few_shot", "label_free")
