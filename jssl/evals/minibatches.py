"""Batches of labelled images, for training with labels."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

# As `jssl.data.Images.batch` gives them: "image" uint8 `[N, H, W, C]`, "label"
# int `[N]` and, for images on a canvas, "extent" `[N, 2]`.
Arrays = dict[str, np.ndarray]


def batch(arrays: Arrays, index: np.ndarray) -> dict[str, jax.Array]:
  """Returns the images at an index on the device, for `augment.make_views`."""
  return {name: jnp.asarray(x[index]) for name, x in arrays.items()}


def shuffled(
    key: jax.Array, arrays: Arrays, *, epochs: int, batch_size: int
) -> Iterator[dict[str, jax.Array]]:
  """Yields batches of equal size, in a new order each epoch.

  Args:
    key: A PRNG key, for the order.
    arrays: The images; those that do not fill a batch are left out until the
      next epoch.
    epochs: Passes over the images.
    batch_size: Images per batch, at most as many as there are.
  """
  count = len(arrays["image"])
  steps = count // batch_size
  seed = int(jax.random.bits(key, dtype=jnp.uint32))
  for epoch in range(epochs):
    order = np.random.default_rng([seed, epoch]).permutation(count)
    for index in order[: steps * batch_size].reshape(steps, batch_size):
      yield batch(arrays, index)
