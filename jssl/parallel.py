"""Named-axis helpers that accept no axis, and the mapping over devices.

A step is written for one device against an optional named axis. With
`axis_name=None` every helper here does what the operation means on a single
device, so the same code serves both.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

PyTree = Any

AXIS_NAME = "devices"


def pmean(tree: PyTree, axis_name: str | None) -> PyTree:
  """Averages every leaf over the axis; the identity without an axis.

  Args:
    tree: Arrays of any shapes, those of this device.
    axis_name: Axis that the batch is split over, or None.

  Returns:
    The tree of means, equal on every device.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jssl import parallel
    >>> mean = lambda x: parallel.pmean(x, "devices")
    >>> x = jnp.array([1.0, 2.0, 6.0])  # One number on each of three devices.
    >>> jax.vmap(mean, axis_name="devices")(x).tolist()
    [3.0, 3.0, 3.0]
    >>> parallel.pmean(x, None).tolist()
    [1.0, 2.0, 6.0]
  """
  return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def all_gather(x: jax.Array, axis_name: str | None) -> jax.Array:
  """Joins the shards of all N devices, in order.

  Gradients flow back to the shard that an element came from.

  Args:
    x: This device's shard, `[B, ...]`.
    axis_name: Axis that the batch is split over, or None.

  Returns:
    The global batch, `[N * B, ...]`; `x` itself without an axis.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jssl import parallel
    >>> gather = lambda x: parallel.all_gather(x, "devices")
    >>> x = jnp.array([[1, 2], [3, 4]])  # Two devices with two rows each.
    >>> jax.vmap(gather, axis_name="devices")(x).tolist()
    [[1, 2, 3, 4], [1, 2, 3, 4]]
  """
  if axis_name is None:
    return x
  return jax.lax.all_gather(x, axis_name, tiled=True)


def axis_index(axis_name: str | None) -> jax.Array | int:
  """Returns the position of this device on the axis; 0 without an axis.

  Args:
    axis_name: Axis that the batch is split over, or None.

  Returns:
    A traced int32 `[]` on an axis, the integer 0 without.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jssl import parallel
    >>> place = lambda x: x + parallel.axis_index("devices")
    >>> jax.vmap(place, axis_name="devices")(jnp.array([10, 10])).tolist()
    [10, 11]
    >>> parallel.axis_index(None)
    0
  """
  return 0 if axis_name is None else jax.lax.axis_index(axis_name)


def axis_size(axis_name: str | None) -> int:
  """Returns the number of devices on the axis; 1 without an axis.

  Args:
    axis_name: Axis that the batch is split over, or None.

  Returns:
    A static integer, so that shapes can depend on it.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jssl import parallel
    >>> rows = lambda x: jnp.tile(x, parallel.axis_size("devices"))
    >>> jax.vmap(rows, axis_name="devices")(jnp.zeros((4, 1))).shape
    (4, 4)
    >>> parallel.axis_size(None)
    1
  """
  return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def local_slice(x: jax.Array, size: int, axis_name: str | None) -> jax.Array:
  """Takes this device's rows of a global batch, the inverse of `all_gather`.

  Args:
    x: The global batch, `[N * size, ...]`, equal on every device.
    size: Number of rows of each of the N devices.
    axis_name: Axis that the batch is split over, or None.

  Returns:
    `[size, ...]`.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jssl import parallel
    >>> def there_and_back(x):
    ...   every = parallel.all_gather(x, "devices")
    ...   return parallel.local_slice(every, len(x), "devices")
    >>> x = jnp.array([[1, 2], [3, 4]])  # Two devices with two rows each.
    >>> jax.vmap(there_and_back, axis_name="devices")(x).tolist()
    [[1, 2], [3, 4]]
  """
  start = axis_index(axis_name) * size
  return jax.lax.dynamic_slice_in_dim(x, start, size)


def replicate(tree: PyTree) -> PyTree:
  """Puts a copy of every leaf on each local device, without a device axis.

  `jax.pmap` can donate such a tree, but not a tree on one device if several
  processes take part (seen in JAX 0.10.2 and 0.12.0).

  Args:
    tree: Arrays of any shapes.

  Returns:
    The tree, with the same shapes.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jssl import parallel
    >>> x = parallel.replicate({"w": jnp.zeros(3)})["w"]
    >>> x.shape, x.devices() == set(jax.local_devices())
    ((3,), True)
  """
  sharding = _sharding(jax.local_devices(), jax.sharding.PartitionSpec())
  return jax.device_put(tree, sharding)


def shard(x: np.ndarray) -> jax.Array:
  """Splits the leading dimension of one array over the local devices.

  Args:
    x: `[N, ...]`, N the number of local devices or a multiple of it.

  Returns:
    `[N, ...]`, each device with its part.

  Raises:
    ValueError: If the devices do not divide N.

  Example:
    >>> import jax
    >>> import numpy as np
    >>> from jssl import parallel
    >>> count = jax.local_device_count()
    >>> x = parallel.shard(np.zeros((count, 4, 3)))
    >>> {part.data.shape for part in x.addressable_shards}
    {(1, 4, 3)}
  """
  spec = jax.sharding.PartitionSpec(AXIS_NAME)
  return jax.device_put(x, _sharding(jax.local_devices(), spec))


def map_devices(
    function: Callable[..., Any],
    *,
    in_axes: tuple[int | None, ...],
    devices: Sequence[jax.Device] | None = None,
) -> jax.stages.Wrapped:
  """Maps a step over all devices with `jax.pmap`, the axis named `AXIS_NAME`.

  Args:
    function: `(state, *inputs) -> outputs`. Its outputs must be equal on every
      device: only the first device's are returned.
    in_axes: For the state and each input, None if it is the same on every
      device, else 0: its leading dimension is the local device.
    devices: The devices; None for all of them.

  Returns:
    The mapped function. The state is donated: its buffers are reused for the
    result, and the tree that was passed in is no longer readable.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from jssl import parallel
    >>> step = lambda state, x: parallel.pmean(state + x, parallel.AXIS_NAME)
    >>> step = parallel.map_devices(step, in_axes=(None, 0))
    >>> state = parallel.replicate(jnp.float32(1))
    >>> x = parallel.shard(np.full(jax.local_device_count(), 2.0, np.float32))
    >>> float(step(state, x))
    3.0
  """
  return jax.pmap(
      function,
      axis_name=AXIS_NAME,
      in_axes=in_axes,
      out_axes=None,
      donate_argnums=0,
      devices=devices,
  )


def agree(value: bool) -> bool:
  """Whether something is true in every process; all of them must call this.

  Args:
    value: Whether it is true in this one.

  Returns:
    The same answer in every process.

  Example:
    >>> from jssl import parallel
    >>> parallel.agree(True), parallel.agree(False)  # In a single process.
    (True, False)
  """
  if jax.process_count() == 1:
    return value
  values = multihost_utils.process_allgather(np.asarray(value))
  return bool(np.all(values))


def _sharding(devices, spec):
  mesh = jax.sharding.Mesh(np.asarray(devices), (AXIS_NAME,))
  return jax.sharding.NamedSharding(mesh, spec)
