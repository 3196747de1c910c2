"""Fine-tuning: the whole encoder trained with labels."""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jssl import optim
from jssl.augment import make_views
from jssl.evals import checks, linear, minibatches
from jssl.losses.checks import check_not_negative

PyTree = Any
_STATISTICS_ROWS = 1024


def fine_tune(
    key: jax.Array,
    encode: Callable[..., tuple[jax.Array, PyTree]],
    variables: dict[str, PyTree],
    images: minibatches.Arrays,
    *,
    num_classes: int,
    augment: Callable[..., jax.Array],
    learning_rate: float = 1e-3,
    weight_decay: float = 0.05,
    layer_decay: float = 0.75,
    epochs: int = 50,
    batch_size: int = 64,
) -> Callable[[jax.Array], jax.Array]:
  """Trains an encoder and a linear classifier on it, with labels.

  AdamW with a cosine schedule after 10% of warm-up. BatchNorm uses the
  statistics of the batch and updates its running statistics, unless the images
  do not fill a batch: then it uses the running statistics and keeps them. The
  classifier gets features normalised by their mean and variance for these
  images before training.

  Args:
    key: A PRNG key, for the order, the augmentation and drop path.
    encode: See `jssl.encoder.make_trainable`.
    variables: The encoder's variables, not changed here.
    images: Training images: "image" uint8 `[N, H, W, C]`, "label" int `[N]` in
      [0, num_classes) and, for images on a canvas, "extent" `[N, 2]`.
    num_classes: Number of classes.
    augment: The recipe, `(key, image, *, extent) -> view`.
    learning_rate: The peak learning rate.
    weight_decay: Weight decay of matrices and kernels.
    layer_decay: See `optim.layer_decay`; for transformers.
    epochs: Passes over the images.
    batch_size: Images per step, at most as many as there are.

  Returns:
    The classifier, jitted: from images `[B, h, w, C]` in [0, 1], of the size of
    the views, to logits `[B, num_classes]`.

  Raises:
    ValueError: If the learning rate is negative, or a label is not a class
      (such as -1).

  Reference:
    He et al., Masked Autoencoders Are Scalable Vision Learners, 2022, table 9,
    except for its stronger augmentation. The setting is the same for all
    encoders.
  """
  check_not_negative(learning_rate=learning_rate)
  checks.check_labels(images["label"], num_classes)
  count = len(images["image"])
  train = count >= batch_size
  batch_size = min(batch_size, count)

  def embed(encoder, statistics, key, batch):
    view_key, drop_key = jax.random.split(key)
    (views,) = make_views(view_key, batch, (augment,))
    variables = {"params": encoder, "batch_stats": statistics}
    return encode(variables, views, key=drop_key if train else None)

  encoder, statistics = variables["params"], variables.get("batch_stats", {})
  norm = _norm_of(
      functools.partial(jax.jit(embed), encoder, statistics),
      images,
      batch_size,
  )
  kernel = jnp.zeros((norm[0].shape[-1], num_classes))
  head = {"kernel": kernel, "bias": jnp.zeros(num_classes)}
  optimizer = _make_optimizer(
      epochs * (count // batch_size), learning_rate, weight_decay, layer_decay
  )
  step = _make_step(embed, optimizer)
  # Copies, so that the caller's arrays are not donated.
  weights, statistics = jax.tree.map(
      jnp.array, ({"encoder": encoder, "head": head}, statistics)
  )
  carry = weights, jax.jit(optimizer.init)(weights), statistics
  batches = minibatches.shuffled(
      key, images, epochs=epochs, batch_size=batch_size
  )
  for i, batch in enumerate(batches):
    carry = step(carry, norm, jax.random.fold_in(key, i), batch)
  weights, _, statistics = carry

  @jax.jit
  def logits(weights, statistics, norm, images):
    variables = {"params": weights["encoder"], "batch_stats": statistics}
    return _classify(weights["head"], norm, encode(variables, images)[0])

  return functools.partial(logits, weights, statistics, norm)


def _make_optimizer(steps, learning_rate, weight_decay, layer_decay):
  schedule = optax.warmup_cosine_decay_schedule(
      0.0, learning_rate, steps // 10, steps
  )
  return optax.chain(
      optim.adamw(schedule, weight_decay=weight_decay),
      optim.layer_decay(layer_decay),
  )


def _make_step(embed, optimizer):
  """Makes the jitted step: weights, optimizer and BatchNorm's statistics."""

  def loss(weights, statistics, norm, key, batch):
    features, new = embed(weights["encoder"], statistics, key, batch)
    cost = optax.softmax_cross_entropy_with_integer_labels(
        _classify(weights["head"], norm, features), batch["label"]
    )
    return jnp.mean(cost), new

  # The norm is an argument, so that one program serves all encoders.
  @functools.partial(jax.jit, donate_argnums=0)
  def step(carry, norm, key, batch):
    weights, opt_state, statistics = carry
    gradient, statistics = jax.grad(loss, has_aux=True)(
        weights, statistics, norm, key, batch
    )
    updates, opt_state = optimizer.update(gradient, opt_state, weights)
    return optax.apply_updates(weights, updates), opt_state, statistics

  return step


def _classify(head, norm, features):
  return linear.normalize(features, norm) @ head["kernel"] + head["bias"]


def _norm_of(embed, images, batch_size):
  """Returns the mean, and one over the deviation, of the first features."""
  count, key, rows = len(images["image"]), jax.random.key(0), []
  for start in range(0, min(count, _STATISTICS_ROWS), batch_size):
    index = np.arange(start, start + batch_size) % count
    features, _ = embed(key, minibatches.batch(images, index))
    rows.append(features)
  return linear.mean_and_scale(jnp.concatenate(rows))
