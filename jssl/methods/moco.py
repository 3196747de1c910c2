r"""Momentum Contrast, versions 1 and 2.

```mermaid
flowchart LR
  image --> v1["view"] --> f["encoder, head"] -->|"q"| loss["InfoNCE"]
  image --> v2["other view"] -->|"ShuffleBN"| g["key encoder, head"]
  f -.->|"EMA"| g
  g -.->|"k, stop-gradient"| loss
  g -.->|"push"| queue["queue of K keys"]
  queue -.->|"negatives"| loss
```

$$
\mathcal{L}_q = -\log \frac{\exp(q \cdot k_+ / \tau)}
{\exp(q \cdot k_+ / \tau) + \sum_{i=1}^{K} \exp(q \cdot k_i / \tau)}
\qquad
\theta_k \leftarrow m \, \theta_k + (1 - m) \, \theta_q
$$

$q$ is the unit embedding of a view, and $k_+$ that of the image's other view by
the key encoder. $k_1$ to $k_K$ are keys of earlier batches, from the queue;
this batch enters it after the loss. $\tau$ is the temperature. $\theta_q$ and
$\theta_k$ are the parameters of encoder and key encoder, and $m$ is the EMA
decay. The loss is the mean over all queries; if symmetric, each view is the
query once.

References:
  He et al., Momentum Contrast for Unsupervised Visual Representation Learning,
  2020 (v1); Chen et al., Improved Baselines with Momentum Contrastive Learning,
  2020 (v2).
"""

from collections.abc import Callable
import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl import ema, embeddings, parallel, queue
from jssl.augment import make_views
from jssl.losses import checks, contrastive
from jssl.method import Aux, Method
from jssl.methods import _branch, _views
from jssl.nets import MLP
from jssl.queue import Queue


class Carried(NamedTuple):
  """The state that MoCo carries, in addition to the query encoder.

  Attributes:
    batch_stats: Running statistics of the query encoder.
    key_params: Parameters of the key encoder: an EMA of `params`, in buffers of
      its own.
    key_batch_stats: Running statistics of the key encoder.
    queue: Keys of earlier batches.
  """

  batch_stats: Any
  key_params: Any
  key_batch_stats: Any
  queue: Queue


class Fresh(NamedTuple):
  """What the loss passes to the update: new statistics, and all keys."""

  batch_stats: Any
  key_batch_stats: Any
  keys: jax.Array


def moco(
    net: nn.Module,
    *,
    augment: _views.Recipe = _views.MOCO_V1,
    dim: int = 128,
    hidden_layers: int = 0,
    hidden_dim: int = 0,
    queue_size: int = 65536,
    momentum: float | Callable = 0.999,
    temperature: float = 0.07,
    symmetric: bool = False,
    shuffle: bool = True,
    axis_name: str | None = None,
) -> Method:
  """Makes Momentum Contrast; the defaults are those of version 1.

  Args:
    hidden_layers: Number of hidden layers of the head: 0 in v1, 1 in v2.
    hidden_dim: Width of each of them, 0 for that of the features, as in the
      paper; 2048 in solo-learn.
    queue_size: Number of negatives, K; a multiple of the global batch (of
      twice the global batch if symmetric).
    momentum: EMA decay of the key encoder, in [0, 1]: a constant, or a function
      of the step.
    symmetric: Whether each view is the query once, at twice the cost.
    shuffle: Whether BatchNorm groups the keys differently from the queries
      (ShuffleBN), so that statistics do not reveal the positive.
    net, augment, dim, temperature, axis_name: See `jssl.methods`.

  Returns:
    The method. Its views are two batches of images; its metrics "accuracy" (of
    finding the positive among 1 + K candidates), "chance_loss" (log(1 + K)) and
    "feature_std" (see `embeddings.feature_std`).

  Raises:
    ValueError: If the temperature or the momentum is out of range.
  """
  checks.check_temperature(temperature)
  momentum = ema.as_schedule(momentum)
  widths = (hidden_dim or None,) * hidden_layers + (dim,)
  branch = _branch.Branch(net, MLP(widths, dtype=_branch.dtype_of(net)))

  def embed(params, batch_stats, images, key):
    embedding, batch_stats = _branch.forward(
        branch, params, batch_stats, images[None], key
    )
    return embedding.projection[0], batch_stats  # [B, D]

  def embed_keys(params, batch_stats, images, key):
    """Embeds this device's `[B, ...]` images; returns the keys of all."""
    if not shuffle:
      embedding, batch_stats = embed(params, batch_stats, images, None)
      return parallel.all_gather(embedding, axis_name), batch_stats
    size = images.shape[0]
    order = jax.random.permutation(key, size * parallel.axis_size(axis_name))
    here = parallel.local_slice(order, size, axis_name)
    images = parallel.all_gather(images, axis_name)[here]
    embedding, batch_stats = embed(params, batch_stats, images, None)
    every = parallel.all_gather(embedding, axis_name)
    return every[jnp.argsort(order)], batch_stats

  def views(key, batch):
    return make_views(key, batch, (augment, augment))

  def init(key, views):
    branch_key, queue_key = jax.random.split(key)
    params, batch_stats = _branch.init(branch_key, branch, views[0][None])
    return params, Carried(
        batch_stats,
        *_branch.copy((params, batch_stats)),
        queue.init(queue_key, queue_size, dim),
    )

  def loss(params, carried, views, keys, step):
    del step
    # Nothing that is carried gets a gradient: no key encoder, no queue.
    carried = jax.lax.stop_gradient(carried)
    batch_stats, key_batch_stats = carried.batch_stats, carried.key_batch_stats
    queries, logits, pushed = [], [], []
    for q, k in ((0, 1), (1, 0)) if symmetric else ((0, 1),):
      shared, local = [jax.random.fold_in(key, k) for key in keys]
      query, batch_stats = embed(params, batch_stats, views[q], local)
      all_keys, key_batch_stats = embed_keys(
          carried.key_params, key_batch_stats, views[k], shared
      )
      key = parallel.local_slice(all_keys, query.shape[0], axis_name)
      queries.append(query)
      pushed.append(all_keys)
      logits.append(  # [B, 1 + K]
          contrastive.info_nce_logits(
              query, key, carried.queue.keys, temperature=temperature
          )
      )
    logits = jnp.concatenate(logits)
    new_stats = parallel.pmean((batch_stats, key_batch_stats), axis_name)
    fresh = Fresh(*new_stats, jnp.concatenate(pushed))
    metrics = {
        # A tie does not count, or collapsed embeddings would score 1.
        "accuracy": jnp.mean(logits[:, 0] > jnp.max(logits[:, 1:], axis=-1)),
        "chance_loss": math.log(1 + queue_size),
        "feature_std": embeddings.feature_std(
            jnp.concatenate(queries), axis_name=axis_name
        ),
    }
    return contrastive.cross_entropy_of_first(logits), Aux(fresh, metrics)

  def update(params, carried, fresh, step):
    # Averaging after the optimizer's step is the paper's averaging before the
    # next forward pass: the schedule is read one step ahead.
    key_params = ema.update(carried.key_params, params, momentum(step + 1))
    return params, Carried(
        fresh.batch_stats,
        key_params,
        fresh.key_batch_stats,
        queue.push(carried.queue, fresh.keys),
    )

  return Method(views, init, loss, update, _branch.encoder(net))


moco_v1 = moco
moco_v2 = functools.partial(
    moco, augment=_views.MOCO_V2, hidden_layers=1, temperature=0.2
)
