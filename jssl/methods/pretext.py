"""The methods of one net that answer a question about what it sees."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jssl import parallel
from jssl.method import Aux
from jssl.method import Method
from jssl.method import Pictures
from jssl.methods import branch as branches
from jssl.methods.siamese import Statistics

PyTree = Any


class Task(NamedTuple):
  """The views of a batch.

  Attributes:
    inputs: What the net sees.
    target: What it should answer.
  """

  inputs: PyTree
  target: PyTree


def make(
    module: nn.Module,
    views: Callable[[jax.Array, dict[str, jax.Array]], Task],
    criterion: Callable[[PyTree, Task], tuple[jax.Array, dict[str, jax.Array]]],
    *,
    pictures: Callable[[PyTree, Task], Pictures] | None = None,
    axis_name: str | None = None,
) -> Method:
  """Makes a method of one net that keeps nothing but its statistics.

  Args:
    module: From the inputs to the answer, called with `train`; its submodule
      `net` is the encoder.
    views: See `Method.views`.
    criterion: `(answer, task) -> (scalar, metrics)`, a mean over images.
    pictures: `(answer, task) -> Pictures`, see `Method.pictures`.
    axis_name: Axis that the batch is split over, or None.

  Returns:
    The method.
  """

  def init(key, task):
    params, batch_stats = branches.init(key, module, task.inputs)
    return params, Statistics(batch_stats)

  def loss(params, carried, task, keys, step):
    del step
    carried = jax.lax.stop_gradient(carried)
    answer, batch_stats = branches.forward(
        module, params, carried.batch_stats, task.inputs, keys.local
    )
    value, metrics = criterion(answer, task)
    return value, Aux(
        Statistics(parallel.pmean(batch_stats, axis_name)), metrics
    )

  def update(params, carried, fresh, step):
    del carried, step
    return params, fresh

  def draw(params, carried, task):
    variables = {"params": params, "batch_stats": carried.batch_stats}
    return pictures(module.apply(variables, task.inputs), task)

  encode = branches.encoder(module.net)
  return Method(views, init, loss, update, encode, pictures and draw)


def classify(
    logits: jax.Array, label: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the cross-entropy, and the accuracy beside chance.

  Args:
    logits: `[B, K]`.
    label: int `[B]`, in [0, K).

  Returns:
    The mean, a float32 scalar, and the metrics "accuracy" and "chance_loss",
    log K.
  """
  logits = logits.astype(jnp.float32)
  cost = optax.softmax_cross_entropy_with_integer_labels(logits, label)
  correct = jnp.argmax(logits, axis=-1) == label
  return jnp.mean(cost), {
      "accuracy": jnp.mean(correct),
      "chance_loss": jnp.log(logits.shape[-1]),
  }
