"""MoCo's queue of keys: a ring buffer carried from step to step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jssl.embeddings import l2_normalize


class Queue(NamedTuple):
  """Keys of earlier batches.

  Attributes:
    keys: Unit vectors, float32 `[K, D]`.
    pointer: Row that the next batch overwrites first, int32 `[]`; in [0, K).
  """

  keys: jax.Array
  pointer: jax.Array


def init(key: jax.Array, size: int, dim: int) -> Queue:
  """Makes a queue of random unit vectors.

  Args:
    key: A PRNG key.
    size: Number of keys, K.
    dim: Length of a key, D.

  Returns:
    The queue, with its pointer at row 0.

  Raises:
    ValueError: If `size` or `dim` is not positive.

  Example:
    >>> import jax
    >>> from jssl import queue
    >>> keys = queue.init(jax.random.key(0), 4096, 128).keys
    >>> keys.shape, float((keys[0] ** 2).sum().round(4))
    ((4096, 128), 1.0)
  """
  if size < 1 or dim < 1:
    raise ValueError(
        f"A queue of size {size} and dim {dim} holds nothing; both must be at"
        " least 1."
    )
  keys = l2_normalize(jax.random.normal(key, (size, dim)))
  return Queue(keys, jnp.zeros((), jnp.int32))


def push(queue: Queue, keys: jax.Array) -> Queue:
  """Overwrites the oldest keys with a new batch: first in, first out.

  Args:
    queue: The queue.
    keys: The batch of **all** devices, `[B, D]`, normalised here. Gather the
      keys first, since the queue must be equal on every device.

  Returns:
    The new queue; no gradient flows to `keys`.

  Raises:
    ValueError: If B does not divide K, or the dimensions differ.

  Reference:
    He et al., Momentum Contrast, 2020, algorithm 1.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jssl import queue
    >>> full = queue.init(jax.random.key(0), 4, 2)
    >>> for batch in (jnp.eye(2), -jnp.eye(2), jnp.eye(2)):
    ...   full = queue.push(full, batch)
    >>> full.keys.tolist(), int(full.pointer)
    ([[1.0, 0.0], [0.0, 1.0], [-1.0, -0.0], [-0.0, -1.0]], 2)
  """
  size, dim = queue.keys.shape
  batch = keys.shape[0]
  if keys.shape[1:] != (dim,):
    raise ValueError(
        f"Keys of shape {keys.shape} do not fit a queue of shape"
        f" {queue.keys.shape}; the last dimensions must agree."
    )
  if size % batch:
    raise ValueError(
        f"A queue of {size} keys is not divisible by a batch of {batch}; choose"
        f" a queue size that is a multiple of {batch}, such as"
        f" {max(1, round(size / batch)) * batch}."
    )
  keys = jax.lax.stop_gradient(l2_normalize(keys))
  filled = jax.lax.dynamic_update_slice(
      queue.keys, keys, (queue.pointer, jnp.zeros_like(queue.pointer))
  )
  return Queue(filled, (queue.pointer + batch) % size)
