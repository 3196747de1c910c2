"""Batches of labelled images, for what is trained with labels."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class LabelledImages(NamedTuple):
  """Images of known classes.

  Attributes:
    image: uint8 `[N, H, W, C]`.
    label: int `[N]`.
    extent: True heights and widths `[N, 2]`, see `jssl.data.Images`, or None.
  """

  image: np.ndarray
  label: np.ndarray
  extent: np.ndarray | None = None


def batch(images: LabelledImages, index: np.ndarray) -> dict[str, jax.Array]:
  """Returns some images on the device, as `augment.make_views` takes them."""
  named = images._asdict().items()
  return {name: jnp.asarray(x[index]) for name, x in named if x is not None}


def shuffled(
    key: jax.Array, images: LabelledImages, *, epochs: int, batch_size: int
) -> Iterator[dict[str, jax.Array]]:
  """Yields batches of equal size, in another order each epoch.

  Args:
    key: A PRNG key, for the order.
    images: What is cut into batches; what does not fill one is left out until
      the next epoch.
    epochs: Passes over the images.
    batch_size: Images a batch, at most as many as there are.
  """
  count = len(images.image)
  steps = count // batch_size
  seed = int(jax.random.bits(key, dtype=jnp.uint32))
  for epoch in range(epochs):
    order = np.random.default_rng([seed, epoch]).permutation(count)
    for index in order[: steps * batch_size].reshape(steps, batch_size):
      yield batch(images, index)
