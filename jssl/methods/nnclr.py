r"""NNCLR: the positive is the nearest neighbour of the other view.

```mermaid
flowchart LR
  image --> v1["view 1"] --> f["encoder, projector"]
  image --> v2["view 2"] --> f
  f -->|"z2"| p["predictor"] -->|"p2"| loss["InfoNCE, and with views swapped"]
  f -.->|"z1, stop-gradient"| nn["nearest neighbour"] -.-> loss
  f -.->|"push z1"| queue["queue Q"] -.-> nn
```

$$
\mathcal{L} = \frac{1}{2} \ell(z_1, p_2) + \frac{1}{2} \ell(z_2, p_1)
$$

$$
\ell(z, p) = -\frac{1}{N} \sum_{i=1}^{N} \log
\frac{\exp(\mathrm{NN}(z_i, Q) \cdot p_i / \tau)}
{\sum_{k=1}^{N} \exp(\mathrm{NN}(z_i, Q) \cdot p_k / \tau)}
$$

$z_1$ and $z_2$ are the projections of the two views, one row per image. $p_1$
and $p_2$ are the predictions from them, unit vectors here. $Q$ is the support
set: unit projections of first views of earlier batches. $\mathrm{NN}$ is the
most similar vector of $Q$. $N$ is the number of images in the global batch, and
$\tau$ is the temperature.

Reference:
  Dwibedi et al., With a Little Help from My Friends: Nearest-Neighbor
  Contrastive Learning of Visual Representations, 2021.
"""

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl import embeddings, losses, parallel, queue
from jssl.losses import checks
from jssl.method import Aux, Method
from jssl.methods import _branch, _views
from jssl.queue import Queue


class Carried(NamedTuple):
  """The state that NNCLR carries from step to step.

  Attributes:
    batch_stats: Running statistics of the branch.
    queue: The support set: projections of earlier batches.
  """

  batch_stats: Any
  queue: Queue


def nnclr(
    net: nn.Module,
    *,
    augment: _views.Recipe = _views.SIMCLR,
    dim: int = 256,
    hidden_dim: int = 2048,
    projector_layers: int = 3,
    predictor_dim: int = 4096,
    queue_size: int = 98304,
    temperature: float = 0.1,
    joint_statistics: bool = False,
    axis_name: str | None = None,
) -> Method:
  """Makes NNCLR, whose positives are nearest neighbours in a queue.

  Args:
    hidden_dim: Width of the projector's hidden layers.
    projector_layers: Number of layers of the projector.
    predictor_dim: Width of the predictor's hidden layer.
    queue_size: Size of the support set, a multiple of the global batch.
    net, augment, dim, temperature, joint_statistics, axis_name: See
      `jssl.methods`.

  Returns:
    The method. Its views are `[2, B, H, W, C]`; its metrics "chance_loss" (log
    N for a global batch of N images) and "feature_std" (see
    `embeddings.feature_std`).

  Raises:
    ValueError: If the temperature is not above 0.
  """
  checks.check_temperature(temperature)
  head = functools.partial(_branch.head, net, axis_name=axis_name)
  widths = (hidden_dim,) * (projector_layers - 1) + (dim,)
  branch = _branch.Branch(
      net,
      head(widths, last_norm=True),
      head((predictor_dim, dim)),
      joint=joint_statistics,
  )

  def views(key, batch):
    return _views.two(key, batch, augment)

  def init(key, views):
    branch_key, queue_key = jax.random.split(key)
    params, batch_stats = _branch.init(branch_key, branch, views)
    support = queue.init(queue_key, queue_size, dim)
    return params, Carried(batch_stats, support)

  def loss(params, carried, views, keys, step):
    del step
    carried = jax.lax.stop_gradient(carried)
    (projections, predictions), batch_stats = _branch.forward(
        branch, params, carried.batch_stats, views, keys.local
    )
    projections = jax.lax.stop_gradient(projections)
    neighbours = nearest(projections, carried.queue.keys)
    value = sum(
        losses.batch_info_nce(
            neighbours[i],
            predictions[1 - i],
            temperature=temperature,
            axis_name=axis_name,
        )
        / 2
        for i in range(2)
    )
    images = views.shape[1] * parallel.axis_size(axis_name)
    metrics = {
        "chance_loss": math.log(images),
        "feature_std": embeddings.feature_std(
            projections[0], axis_name=axis_name
        ),
    }
    fresh = (
        parallel.pmean(batch_stats, axis_name),
        parallel.all_gather(projections[0], axis_name),
    )
    return value, Aux(fresh, metrics)

  def update(params, carried, fresh, step):
    del step
    batch_stats, projections = fresh
    support = queue.push(carried.queue, projections)
    return params, Carried(batch_stats, support)

  return Method(views, init, loss, update, _branch.encoder(net))


def nearest(x: jax.Array, support: jax.Array) -> jax.Array:
  """Replaces vectors `[..., D]` by their nearest unit vectors of `[K, D]`."""
  # Which is nearest does not depend on the length of x.
  return support[jnp.argmax(x @ support.T, axis=-1)]
