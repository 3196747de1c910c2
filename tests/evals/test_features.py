"""Features of many images, and those with a known label."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.data import Images
from jssl.evals import features as features_module
from jssl.evals.features import compute, Features, labelled


def _images(count, label=None):
  random = np.random.default_rng(count)
  return Images(
      image=random.integers(0, 256, (count, 4, 4, 1), np.uint8),
      label=label,
      extent=None,
      classes=() if label is None else ("a", "b"),
      skipped=(),
  )


@jax.jit
def _encode_both(params, images):
  pixels = params * images.astype(jnp.float32)
  return {"pooled": pixels.sum((1, 2)), "stage_1": pixels}


def _encode(params, images, extent, *, stages):
  assert extent is None and stages
  return _encode_both(params, images)


def _encoder(params):
  return types.SimpleNamespace(encode=_encode, params=params)


@pytest.mark.parametrize("batch_size", [16, 64])
def test_batches_do_not_change_features(batch_size):
  train, test = _images(35), _images(20)
  features = compute(_encoder(2.0), train, test, batch_size=batch_size)
  for images, found in ((train, features.train), (test, features.test)):
    pixels = 2.0 * images.image
    np.testing.assert_allclose(found["pooled"], pixels.sum((1, 2)), rtol=1e-6)
    # Maps are averaged.
    np.testing.assert_allclose(found["stage_1"], pixels.mean((1, 2)), rtol=1e-6)


def test_training_images_may_be_left_out():
  features = compute(_encoder(1.0), None, _images(5), batch_size=8)
  assert features.train is None and len(features.test["pooled"]) == 5


def _features(train, test):
  rows = lambda count: {"pooled": np.arange(count, dtype=np.float32)[:, None]}
  return Features(None if train is None else rows(train), rows(test))


def test_images_without_a_label_are_left_out():
  train = _images(4, np.array([0, -1, 1, -1]))
  test = _images(3, np.array([-1, 1, 0]))
  found = labelled(_features(4, 3), train, test)
  assert found.train[:, 0].tolist() == [0, 2]
  assert found.train_label.tolist() == [0, 1]
  assert found.test[:, 0].tolist() == [1, 2]
  assert found.test_label.tolist() == [1, 0]
  assert found.classes == ("a", "b")


def test_there_are_no_labelled_features_without_labels():
  some, none = np.array([0, 1]), np.array([-1, -1])
  features = _features(2, 2)
  assert labelled(features, _images(2, some), _images(2, some)) is not None
  assert labelled(features, _images(2), _images(2, some)) is None
  assert labelled(features, _images(2, some), _images(2)) is None
  assert labelled(features, _images(2, none), _images(2, some)) is None
  not_encoded = _features(None, 2)
  assert labelled(not_encoded, _images(2, some), _images(2, some)) is None


def test_no_map_of_a_stage_leaves_the_device():
  lowered = features_module._pooled_stages.lower(
      _encode, 1.0, jnp.zeros((8, 4, 4, 1)), None
  )
  shapes = {x.shape for x in jax.tree.leaves(lowered.out_info)}
  assert shapes == {(8, 1)}
