"""What tests of methods of several views share: a branch by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jssl.method import Keys
from jssl.methods import METHODS
from jssl.nets import BatchNorm
import tiny

TOLERANCE = 1e-4  # Of float32 statistics and sums in another order.
BATCH = 8
KEYS = Keys(jax.random.key(1), jax.random.key(2))


@pytest.fixture(autouse=True, scope="module")
def compile_fast():
  """Compiles with few optimizations in the file that imports this."""
  before = jax.config.read("jax_disable_most_optimizations")
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", before)


class Pixels(nn.Module):
  """Features without batch statistics: the pixels, weighted."""

  @nn.compact
  def __call__(self, images, *, train=False, views=1):
    pixels = images.reshape(len(images), -1) - 0.5
    # One weight per pixel: a norm would cancel a common weight or shift.
    weight = self.param("weight", nn.initializers.ones, pixels.shape[-1:])
    return {"pooled": pixels * weight}


class Dropping(nn.Module):
  """A backbone with batch statistics, and dropout where there is a key."""

  rate: float = 0.0
  groups: int = 1

  @nn.compact
  def __call__(self, images, *, train=False, views=1):
    pixels = images.reshape(len(images), -1)
    x = BatchNorm(self.groups)(pixels, train=train, views=views)
    drops = train and self.has_rng("dropout")
    return {"pooled": nn.Dropout(self.rate, deterministic=not drops)(x)}


def make(name, net=Pixels(), **arguments):
  return METHODS[name](net, **dict(augment=tiny.recipe) | arguments)


def batch(count=BATCH, seed=0):
  return {"image": tiny.images(count, seed), "label": jnp.arange(count) % 3}


@functools.cache
def views():
  """Two views of a batch, `[2, B, H, W, C]`."""
  images = batch()["image"] / 255.0
  noise = jax.random.normal(jax.random.key(5), (2, *images.shape))
  return images + 0.1 * noise


def noisy(tree, seed):
  """A tree whose leaves all differ from the given ones and from zero."""
  leaves, structure = jax.tree.flatten(tree)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  return structure.unflatten(
      x + jax.random.uniform(key, x.shape, minval=-0.1, maxval=0.1)
      for x, key in zip(leaves, keys)
  )


def start(method, views):
  """Parameters and the carried tree, perturbed as if by training."""
  params, carried = jax.jit(method.init)(jax.random.key(0), views)
  return noisy(params, 1), noisy(carried, 2)


def shapes(method, views):
  """The shapes of what the heads train: `{head: {layer: {name: shape}}}`."""
  params, _ = jax.eval_shape(method.init, jax.random.key(0), views)
  return {
      head: jax.tree.map(lambda x: x.shape, params[head])
      for head in params
      if head != "net"
  }


def linear(inputs, outputs):
  return {"kernel": (inputs, outputs)}


def norm(width):
  return {"scale": (width,), "bias": (width,)}


def project(params, batch_stats, images):
  """`Pixels` and the projector on one view in training, by hand."""
  pixels = images.reshape(len(images), -1) - 0.5
  features = pixels * params["net"]["weight"]
  return _head(params, batch_stats, "projector", features)


def predict(params, batch_stats, images):
  """The predictor on the projection of one view in training, by hand."""
  projection = project(params, batch_stats, images)
  return _head(params, batch_stats, "predictor", projection)


def _head(params, batch_stats, name, x):
  """Linear layers, a BatchNorm where there is one, and ReLUs between."""
  layers, norms = params[name], batch_stats.get(name, {})
  count = sum(layer.startswith("layer") for layer in layers)
  for i in range(1, count + 1):
    layer = layers[f"layer_{i}"]
    x = x @ layer["kernel"] + layer.get("bias", 0.0)
    if f"norm_{i}" in norms:  # With statistics of this batch.
      affine = layers.get(f"norm_{i}", {})
      x = (x - x.mean(axis=0)) / jnp.sqrt(x.var(axis=0) + 1e-5)
      x = x * affine.get("scale", 1.0) + affine.get("bias", 0.0)
    if i < count:
      x = jnp.maximum(x, 0.0)
  return x


def unit(x):
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def spread(x):
  """The metric "feature_std" of embeddings `[B, D]`, by hand."""
  return jnp.mean(jnp.std(unit(x), axis=0)) * x.shape[-1] ** 0.5
