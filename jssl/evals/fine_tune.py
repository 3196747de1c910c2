"""Fine-tuning: the whole encoder trained with labels."""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jssl import augment as augmentation
from jssl import optim

PyTree = Any
_STATISTICS_ROWS = 1024


def fine_tune(
    key: jax.Array,
    encode: Callable[[PyTree, jax.Array], jax.Array],
    params: PyTree,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    augment: Callable[..., jax.Array],
    extent: np.ndarray | None = None,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.05,
    layer_decay: float = 0.75,
    epochs: int = 50,
    batch_size: int = 64,
) -> Callable[[jax.Array], jax.Array]:
  """Trains an encoder and a linear classifier on it, with labels.

  AdamW along a cosine after a tenth of warm-up. BatchNorm keeps its running
  statistics, and does not look at the batch: with 1% of the labels there are
  few to look at. The classifier sees features of the mean and variance that
  the encoder gives these images at the start.

  Args:
    key: A PRNG key, for the order and the augmentation.
    encode: `(params, images) -> [B, D]`, images float in [0, 1].
    params: What it takes, unchanged here.
    images: To train on, uint8 `[N, H, W, C]`.
    labels: Their classes, int `[N]`, in [0, num_classes).
    num_classes: Number of classes.
    augment: The recipe, `(key, image, *, extent) -> view`.
    extent: True heights and widths `[N, 2]`, see `jssl.data.Images`.
    learning_rate: The highest.
    weight_decay: Of matrices and kernels.
    layer_decay: See `optim.layer_decay`; for transformers.
    epochs: Passes over the images.
    batch_size: Images a step, at most as many as there are.

  Returns:
    The classifier, jitted: from images `[B, h, w, C]` in [0, 1], of the size of
    the views, to logits `[B, num_classes]`.

  Reference:
    He et al., Masked Autoencoders Are Scalable Vision Learners, 2022, table 9,
    but for its stronger augmentation.
  """
  batch_size = min(batch_size, len(images))
  steps = len(images) // batch_size
  encoder, fixed = split(params)
  embed = lambda encoder, fixed, x: encode(join(encoder, fixed), x)
  norm = _statistics(
      embed, encoder, fixed, images, extent, augment, batch_size
  )
  kernel = jnp.zeros((norm[0].shape[-1], num_classes))
  head = {"kernel": kernel, "bias": jnp.zeros(num_classes)}
  weights = {"encoder": encoder, "head": head}
  # Arguments, not parts of the program: one program serves all encoders.
  constants = (fixed, norm)
  total = epochs * steps
  schedule = optax.warmup_cosine_decay_schedule(
      0.0, learning_rate, total // 10, total
  )
  optimizer = optax.chain(
      optim.adamw(schedule, weight_decay=weight_decay),
      optim.layer_decay(layer_decay),
  )

  def logits(weights, constants, x):
    fixed, (mean, scale) = constants
    x = (embed(weights["encoder"], fixed, x) - mean) * scale
    return x @ weights["head"]["kernel"] + weights["head"]["bias"]

  def loss(weights, constants, key, batch):
    (views,) = augmentation.make_views(key, batch, (augment,))
    return jnp.mean(
        optax.softmax_cross_entropy_with_integer_labels(
            logits(weights, constants, views), batch["label"]
        )
    )

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(weights, opt_state, constants, key, batch):
    gradient = jax.grad(loss)(weights, constants, key, batch)
    updates, opt_state = optimizer.update(gradient, opt_state, weights)
    return optax.apply_updates(weights, updates), opt_state

  weights = jax.tree.map(jnp.array, weights)  # The caller's are not donated.
  opt_state = jax.jit(optimizer.init)(weights)
  seed = int(jax.random.bits(key, dtype=jnp.uint32))
  for i in range(total):
    epoch, place = divmod(i, steps)
    if place == 0:
      random = np.random.default_rng([seed, epoch])
      order = random.permutation(len(images))[: steps * batch_size]
      order = order.reshape(steps, batch_size)
    batch = _batch(images, extent, order[place])
    batch["label"] = jnp.asarray(labels[order[place]])
    step_key = jax.random.fold_in(key, i)
    weights, opt_state = step(weights, opt_state, constants, step_key, batch)
  return functools.partial(jax.jit(logits), weights, constants)


def split(tree: PyTree) -> tuple[dict[str, jax.Array], PyTree]:
  """Splits what is trained, the weights, from what is not.

  Running statistics of BatchNorm, integers and keys are not.

  Args:
    tree: Arrays under names.

  Returns:
    The trained leaves by their path, and the tree with None in their place.
  """

  def is_weight(path, x):
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    return floating and "batch_stats" not in jax.tree_util.keystr(path)

  leaves = jax.tree_util.tree_leaves_with_path(tree)
  weights = {
      jax.tree_util.keystr(path): x for path, x in leaves if is_weight(path, x)
  }
  fixed = jax.tree_util.tree_map_with_path(
      lambda path, x: None if is_weight(path, x) else x, tree
  )
  return weights, fixed


def join(weights: dict[str, jax.Array], fixed: PyTree) -> PyTree:
  """The inverse of `split`."""
  return jax.tree_util.tree_map_with_path(
      lambda path, x: weights[jax.tree_util.keystr(path)] if x is None else x,
      fixed,
      is_leaf=lambda x: x is None,
  )


def _batch(images, extent, index):
  batch = {"image": jnp.asarray(images[index])}
  if extent is not None:
    batch["extent"] = jnp.asarray(extent[index])
  return batch


def _statistics(embed, encoder, fixed, images, extent, augment, batch_size):
  """Mean and one over the deviation of features of a batch or more."""

  @jax.jit
  def compiled(encoder, fixed, batch):
    (views,) = augmentation.make_views(jax.random.key(0), batch, (augment,))
    return embed(encoder, fixed, views)

  rows = []
  for start in range(0, min(len(images), _STATISTICS_ROWS), batch_size):
    index = np.arange(start, start + batch_size) % len(images)
    rows.append(compiled(encoder, fixed, _batch(images, extent, index)))
  features = jnp.concatenate(rows)
  scale = jax.lax.rsqrt(jnp.var(features, axis=0) + 1e-6)
  return jnp.mean(features, axis=0), scale
