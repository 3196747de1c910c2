"""Named-axis helpers that accept no axis, and the mapping over devices.

A step is written for one device against an optional named axis. With
`axis_name=None` every helper here is what the same operation means on a single
device, so one piece of code serves both.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

PyTree = Any

AXIS_NAME = "devices"


def pmean(tree: PyTree, axis_name: str | None) -> PyTree:
  """Averages every leaf over the axis; the identity without an axis."""
  return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def all_gather(x: jax.Array, axis_name: str | None) -> jax.Array:
  """Joins the shards `[B, ...]` of all devices to `[N * B, ...]`, in order.

  Gradients flow back to the shard that an element came from.
  """
  if axis_name is None:
    return x
  return jax.lax.all_gather(x, axis_name, tiled=True)


def axis_index(axis_name: str | None) -> jax.Array | int:
  """Position of this device on the axis; 0 without an axis."""
  return 0 if axis_name is None else jax.lax.axis_index(axis_name)


def axis_size(axis_name: str | None) -> int:
  """Number of devices on the axis, a static integer; 1 without an axis."""
  return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def local_slice(x: jax.Array, size: int, axis_name: str | None) -> jax.Array:
  """Takes this device's `size` rows of a global batch `[N * size, ...]`."""
  start = axis_index(axis_name) * size
  return jax.lax.dynamic_slice_in_dim(x, start, size)


def replicate(tree: PyTree) -> PyTree:
  """Puts a copy of every leaf on each local device, without a device axis.

  `jax.pmap` can donate such a tree; a tree on one device it cannot donate when
  several processes take part (seen in JAX 0.10.2 and 0.12.0).
  """
  sharding = _sharding(jax.local_devices(), jax.sharding.PartitionSpec())
  return jax.device_put(tree, sharding)


def shard(x: np.ndarray) -> jax.Array:
  """Splits the leading dimension of one array over the local devices."""
  spec = jax.sharding.PartitionSpec(AXIS_NAME)
  return jax.device_put(x, _sharding(jax.local_devices(), spec))


def map_devices(
    function: Callable[..., Any], *, in_axes: tuple[int | None, ...]
) -> jax.stages.Wrapped:
  """Maps a step over all devices with `jax.pmap`, the axis named `AXIS_NAME`.

  Args:
    function: `(state, *inputs) -> outputs`. Its outputs must be equal on every
      device: only the first device's are seen.
    in_axes: For the state and each input, None if it is the same on every
      device, else 0: its leading dimension is the local device.

  Returns:
    The mapped function. The state is donated: its buffers are reused for the
    result, and the tree that was passed in is no longer readable.
  """
  return jax.pmap(
      function,
      axis_name=AXIS_NAME,
      in_axes=in_axes,
      out_axes=None,
      donate_argnums=0,
  )


def agree(value: bool) -> bool:
  """Whether something holds in every process; all of them must ask."""
  if jax.process_count() == 1:
    return value
  values = multihost_utils.process_allgather(np.asarray(value))
  return bool(np.all(values))


def _sharding(devices, spec):
  mesh = jax.sharding.Mesh(np.asarray(devices), (AXIS_NAME,))
  return jax.sharding.NamedSharding(mesh, spec)
