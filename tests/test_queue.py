"""The queue of keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import queue
from jssl.embeddings import l2_normalize

TOLERANCE = 1e-6


def _numbered(size):
  """A queue whose keys hold their row's number, and pointer 0."""
  angle = jnp.arange(size) / size
  keys = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
  return queue.Queue(keys, jnp.zeros((), jnp.int32))


def _batch(first, size):
  angle = 2 + jnp.arange(first, first + size) / 100
  return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def test_push_agrees_with_the_reference(golden):
  data = golden("moco_queue")
  filled = queue.Queue(
      jnp.asarray(data["queue_initial"]), jnp.zeros((), jnp.int32)
  )
  for step, keys in enumerate(data["k"]):
    filled = queue.push(filled, jnp.asarray(keys))
    np.testing.assert_allclose(
        filled.keys, data["queue_after"][step], rtol=1e-5, atol=TOLERANCE
    )
    assert filled.pointer == data["pointer_after"][step]


def test_init_gives_random_unit_vectors():
  filled = queue.init(jax.random.key(0), 64, 8)
  assert filled.keys.shape == (64, 8) and filled.keys.dtype == jnp.float32
  assert filled.pointer == 0 and filled.pointer.dtype == jnp.int32
  np.testing.assert_allclose(
      jnp.linalg.norm(filled.keys, axis=-1), 1.0, rtol=TOLERANCE
  )
  # All directions are alike: the mean vector of 64 is short.
  assert jnp.linalg.norm(jnp.mean(filled.keys, axis=0)) < 0.5
  other = queue.init(jax.random.key(1), 64, 8)
  assert not np.allclose(filled.keys, other.keys, atol=0.1)


def test_the_oldest_keys_leave_first_and_the_pointer_wraps_around():
  filled = start = _numbered(6)
  rows = list(np.asarray(start.keys))
  for step in range(5):
    batch = _batch(2 * step, 2)
    filled = queue.push(filled, batch)
    place = 2 * step % 6
    rows[place : place + 2] = list(np.asarray(batch))
    np.testing.assert_allclose(filled.keys, np.stack(rows), atol=TOLERANCE)
    assert filled.pointer == (2 * step + 2) % 6


def test_a_batch_as_large_as_the_queue_replaces_it():
  batch = _batch(0, 6)
  filled = queue.push(_numbered(6), batch)
  np.testing.assert_allclose(filled.keys, batch, atol=TOLERANCE)
  assert filled.pointer == 0


def test_keys_are_stored_as_unit_vectors_in_float32():
  filled = queue.push(_numbered(4), jnp.asarray([[3, 4], [0, 0]], jnp.bfloat16))
  assert filled.keys.dtype == jnp.float32
  np.testing.assert_allclose(
      filled.keys[:2], [[0.6, 0.8], [0.0, 0.0]], atol=TOLERANCE
  )


@pytest.mark.parametrize("size,batch", [(10, 4), (4, 8), (7, 2)])
def test_a_size_that_the_batch_does_not_divide_is_refused(size, batch):
  with pytest.raises(ValueError) as error:
    queue.push(_numbered(size), _batch(0, batch))
  message = str(error.value)
  assert f"{size} keys" in message and f"batch of {batch}" in message
  # The size that it proposes is accepted.
  proposed = int(message.split("such as ")[1].rstrip("."))
  queue.push(_numbered(proposed), _batch(0, batch))


def test_keys_of_another_length_are_refused():
  with pytest.raises(ValueError, match=r"\(2, 3\).*\(4, 2\)"):
    queue.push(_numbered(4), jnp.ones((2, 3)))


@pytest.mark.parametrize("size,dim", [(0, 8), (8, 0), (-1, 8)])
def test_a_queue_that_holds_nothing_is_refused(size, dim):
  with pytest.raises(ValueError, match=f"{size} and dim {dim}"):
    queue.init(jax.random.key(0), size, dim)


def test_no_gradient_flows_through_push():
  def total(keys):
    return jnp.sum(queue.push(_numbered(4), keys).keys[:, 0])

  keys = _batch(0, 2) * 3
  np.testing.assert_array_equal(jax.grad(total)(keys), np.zeros((2, 2)))


def test_a_donated_queue_is_updated_in_its_own_memory():
  push = jax.jit(queue.push, donate_argnums=0)
  filled = jax.tree.map(jnp.copy, _numbered(6))
  address = filled.keys.unsafe_buffer_pointer()
  expected = queue.push(filled, _batch(0, 2))
  new = push(filled, _batch(0, 2))
  assert filled.keys.is_deleted()
  assert new.keys.unsafe_buffer_pointer() == address
  np.testing.assert_allclose(new.keys, expected.keys, atol=TOLERANCE)
  assert new.pointer == expected.pointer


def test_normalize_keeps_zero_and_gives_it_no_gradient():
  x = jnp.asarray([[0.0, 0.0], [3.0, 4.0]])
  np.testing.assert_allclose(
      l2_normalize(x), [[0.0, 0.0], [0.6, 0.8]], rtol=TOLERANCE
  )
  gradient = jax.grad(lambda x: jnp.sum(l2_normalize(x)[:, 0]))(x)
  # d(x / r) / dx = y^2 / r^3 and -x y / r^3.
  np.testing.assert_allclose(
      gradient, [[0.0, 0.0], [16 / 125, -12 / 125]], rtol=1e-5
  )
