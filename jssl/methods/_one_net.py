"""Methods of one net that carry nothing but its running statistics."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jssl import parallel
from jssl.method import Aux, Method, Pictures
from jssl.methods import _branch

PyTree = Any


class Task(NamedTuple):
  """The views of a batch.

  Attributes:
    inputs: What the net sees.
    target: What its output is compared with; None if the output is enough.
  """

  inputs: PyTree
  target: PyTree = None


class Statistics(NamedTuple):
  """The state that such a method carries from step to step.

  Attributes:
    batch_stats: Running statistics of the net.
  """

  batch_stats: PyTree


def make(
    module: nn.Module,
    views: Callable[[jax.Array, dict[str, jax.Array]], Task],
    criterion: Callable[[PyTree, Task], tuple[jax.Array, dict[str, jax.Array]]],
    *,
    needs: frozenset[str] = frozenset(),
    pictures: Callable[[PyTree, Task], Pictures] | None = None,
    axis_name: str | None = None,
) -> Method:
  """Makes a method from a net, its views and its loss.

  Args:
    module: The net, called with the inputs and `train`, such as a `Branch`; its
      submodule `net` is the encoder.
    views: See `Method.views`.
    criterion: `(output, task) -> (loss, metrics)`, a mean over the images and
      scalars.
    needs: See `Method.needs`.
    pictures: `(output, task) -> Pictures`, see `Method.pictures`.
    axis_name: Axis that the batch is split over, or None.

  Returns:
    The method.
  """

  def init(key, task):
    params, batch_stats = _branch.init(key, module, task.inputs)
    return params, Statistics(batch_stats)

  def loss(params, carried, task, keys, step):
    del step
    carried = jax.lax.stop_gradient(carried)
    output, batch_stats = _branch.forward(
        module, params, carried.batch_stats, task.inputs, keys.local
    )
    value, metrics = criterion(output, task)
    fresh = Statistics(parallel.pmean(batch_stats, axis_name))
    return value, Aux(fresh, metrics)

  def update(params, carried, fresh, step):
    del carried, step
    return params, fresh

  def make_pictures(params, carried, task):
    variables = {"params": params, "batch_stats": carried.batch_stats}
    return pictures(module.apply(variables, task.inputs), task)

  return Method(
      views,
      init,
      loss,
      update,
      _branch.encoder(module.net),
      pictures=make_pictures if pictures else None,
      needs=needs,
  )


def classify(
    logits: jax.Array, label: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the cross-entropy and the metrics of a classification.

  Args:
    logits: `[..., K]`.
    label: int `[...]`, in [0, K).

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
