"""Batches of labelled images."""

import jax
import numpy as np

from jssl.evals import minibatches


def _batches(key=0, extent=None, **arguments):
  images = {"image": np.arange(10)[:, None], "label": np.arange(10) + 100}
  if extent is not None:
    images["extent"] = extent
  settings = dict(epochs=2, batch_size=4) | arguments
  return list(minibatches.shuffled(jax.random.key(key), images, **settings))


def test_an_epoch_has_full_batches_without_repetition():
  batches = _batches()
  assert len(batches) == 2 * 2
  for epoch in (batches[:2], batches[2:]):
    seen = np.concatenate([batch["image"][:, 0] for batch in epoch])
    assert len(seen) == 8 and len(set(seen)) == 8
  for batch in batches:
    np.testing.assert_array_equal(batch["label"], batch["image"][:, 0] + 100)
    assert "extent" not in batch


def test_the_order_differs_between_epochs_and_keys():
  image = lambda batch: np.asarray(batch["image"])
  one, again, other = _batches(), _batches(), _batches(key=1)
  np.testing.assert_array_equal(image(one[0]), image(again[0]))
  assert not np.array_equal(image(one[0]), image(one[2]))
  assert not np.array_equal(image(one[0]), image(other[0]))


def test_extents_go_with_their_images():
  extent = np.stack([np.arange(10), np.arange(10) + 1], axis=1)
  for batch in _batches(extent=extent):
    np.testing.assert_array_equal(batch["extent"][:, 0], batch["image"][:, 0])
