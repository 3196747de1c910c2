"""A tiny net, recipe and batch that several tests share."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jssl.nets import BatchNorm, ResNet, ViT
from jssl.step import init_state


class Net(nn.Module):
  """One convolution with batch statistics: compiles in a fifth of the time."""

  groups: int = 1
  axis_name: Any = None
  grid: int = 1  # Cells a side that are pooled apart.

  @nn.compact
  def __call__(self, images, *, train=False, views=1):
    x = nn.Conv(8, (3, 3), strides=2, use_bias=False)(images - 0.5)
    norm = BatchNorm(self.groups, self.axis_name)
    x = nn.relu(norm(x, train=train, views=views))
    side = x.shape[1] // self.grid
    cells = nn.avg_pool(x, (side, side), (side, side))
    return {"stage_1": x, "pooled": cells.reshape(x.shape[0], -1)}


def resnet(**arguments):
  return ResNet((1, 1), width=8, stem="cifar", **arguments)


def vit(**arguments):
  return ViT(
      32,
      depth=2,
      heads=2,
      patch_size=2,
      image_size=8,
      pooling="mean",
      **arguments,
  )


def plain(key, image, *, extent=None):
  """The image itself."""
  del key, extent
  return image


def recipe(key, image, *, extent=None):
  """A view that depends on its key at every pixel, and compiles fast."""
  del extent
  return image + 0.1 * jax.random.normal(key, image.shape)


def large_recipe(key, image, *, extent=None):
  """The same at four times the size, for tiles."""
  large = jnp.repeat(jnp.repeat(image, 4, axis=0), 4, axis=1)
  return recipe(key, large, extent=extent)


def small_recipe(key, image, *, extent=None):
  """The same at half the size, for multi-crop."""
  return recipe(key, image[::2, ::2], extent=extent)


def images(count, seed=0):
  """Images that differ, uint8 `[count, 8, 8, 3]`."""
  random = np.random.default_rng(seed)
  return jnp.asarray(random.integers(0, 256, (count, 8, 8, 3)), jnp.uint8)


def start(method, optimizer, batch, *, seed=0):
  """Returns the first state, made by one compiled function: that is faster."""
  init = jax.jit(lambda key, batch: init_state(method, optimizer, key, batch))
  return init(jax.random.key(seed), batch)


def shards(tree, count):
  """Splits the leading dimension: `[N * B, ...]` to `[N, B, ...]`."""
  return jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), tree)


def assert_trees_close(actual, expected, tolerance):
  """Compares every leaf, PRNG keys by their data."""

  def compare(path, a, b):
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
      a, b = jax.random.key_data(a), jax.random.key_data(b)
    np.testing.assert_allclose(
        a, b, rtol=tolerance, atol=tolerance, err_msg=jax.tree_util.keystr(path)
    )

  jax.tree_util.tree_map_with_path(compare, actual, expected)
