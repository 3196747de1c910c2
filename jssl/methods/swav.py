r"""SwAV: predict the cluster of one view from another, in equal clusters.

```mermaid
flowchart LR
  image --> v1["global view s"] --> f["encoder, projector"]
  image --> v2["other view t"] --> f
  f --> p["compare with prototypes"]
  p -->|"of t"| loss["cross-entropy"]
  p -.->|"of s, stop-gradient"| sk["Sinkhorn"] -.->|"codes q"| loss
  f -.->|"push"| queue["queue, optional"] -.-> sk
```

$$
\mathcal{L} = \frac{1}{2 (V - 1)} \sum_{s=1}^{2} \sum_{t \neq s}
\ell(z_t, q_s)
\qquad
\ell(z_t, q_s) = -\sum_{k} q_s^{(k)} \log
\frac{\exp(z_t^\top c_k / \tau)}{\sum_{k'} \exp(z_t^\top c_{k'} / \tau)}
$$

$$
Q_s = \mathrm{Diag}(u) \exp(C^\top Z_s / \varepsilon) \, \mathrm{Diag}(v)
$$

$z_t$ is the unit projection of view $t$ of $V$, of which the first two are
global. $c_k$ is a prototype, a unit vector and a column of $C$. $q_s$ is the
code of an image, its column of $Q_s$. $Z_s$ has the projections $z_s$ of the
global batch (and the queue) as columns. $u$ and $v$ make each code sum to 1 and
all prototypes equally used, by rounds of Sinkhorn's algorithm. $\tau$ is the
temperature, and $\varepsilon$ the smoothness. The loss is the mean over images.

Reference:
  Caron et al., Unsupervised Learning of Visual Features by Contrasting Cluster
  Assignments, 2020.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl import embeddings, losses, parallel, queue
from jssl.embeddings import l2_normalize
from jssl.losses import checks
from jssl.method import Aux, Method
from jssl.methods import _branch, _views
from jssl.queue import Queue


class Carried(NamedTuple):
  """The state that SwAV carries from step to step.

  Attributes:
    batch_stats: Running statistics of the branch.
    queue: Projections of earlier batches, a queue for each global view,
      `[2, K, D]`; None without.
  """

  batch_stats: Any
  queue: Queue | None


def swav(
    net: nn.Module,
    *,
    augment: _views.Recipe = _views.SIMCLR,
    local_augment: _views.Recipe | None = None,
    local_views: int = 0,
    dim: int = 128,
    hidden_dim: int = 2048,
    prototypes: int = 3000,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
    queue_size: int = 0,
    queue_start_steps: int = 0,
    frozen_steps: int = 0,
    joint_statistics: bool = True,
    axis_name: str | None = None,
) -> Method:
  """Makes SwAV, by default without local views and without a queue.

  Args:
    augment: The recipe of the two global views; by default SimCLR's.
    local_augment: The recipe of the local views.
    local_views: Number of local views: 6 in the paper.
    hidden_dim: Width of the projector's hidden layer.
    prototypes: Number of clusters.
    temperature: Divisor of the similarities that predict a cluster, above 0.
    epsilon: Smoothness of the assignment, above 0.
    iterations: Number of Sinkhorn iterations, over the global batch.
    queue_size: Number of earlier projections that join each assignment, a
      multiple of the global batch: 3840 in the paper for batches of 256; 0 for
      none.
    queue_start_steps: Number of steps before the queue starts to fill; it is
      used once it is full.
    frozen_steps: For how many steps the prototypes are frozen.
    net, dim, joint_statistics, axis_name: See `jssl.methods`.

  Returns:
    The method. Its views are the two global ones and the local ones (or None);
    its metrics "chance_loss" (log of the number of prototypes) and
    "feature_std" (see `embeddings.feature_std`).

  Raises:
    ValueError: If temperature, epsilon or a count is out of range.
  """
  checks.check_temperature(temperature)
  checks.check_temperature(epsilon, name="epsilon")
  views = _views.multi_crop(augment, None, local_augment, local_views)
  branch = _branch.Branch(
      net,
      _branch.head(net, (hidden_dim, dim), axis_name=axis_name),
      joint=joint_statistics,
  )

  def init(key, views):
    branch_key, prototype_key, queue_key = jax.random.split(key, 3)
    params, batch_stats = _branch.init(branch_key, branch, views.global_crops)
    drawn = jax.random.normal(prototype_key, (prototypes, dim))
    params = {**params, "prototypes": l2_normalize(drawn)}
    if not queue_size:
      return params, Carried(batch_stats, None)
    keys = jax.random.split(queue_key, 2)
    stored = jax.vmap(lambda key: queue.init(key, queue_size, dim))(keys)
    return params, Carried(batch_stats, stored)

  def loss(params, carried, views, keys, step):
    carried = jax.lax.stop_gradient(carried)
    embedding, batch_stats = _branch.forward(
        branch, params, carried.batch_stats, views.by_size(), keys.local
    )
    projections = embedding.projection  # [V, B, D]
    centers = params["prototypes"]
    scores = _scores(projections, centers)  # [V, B, P]
    value = losses.swapped_prediction(
        assign(scores[:2], centers, carried.queue, step),
        scores[:2],
        scores[2:],
        temperature=temperature,
    )
    metrics = {
        "chance_loss": jnp.log(prototypes),
        "feature_std": embeddings.feature_std(
            projections[0], axis_name=axis_name
        ),
    }
    pushed = None
    if queue_size:
      pushed = jax.vmap(lambda z: parallel.all_gather(z, axis_name))(
          projections[:2]
      )
    fresh = (parallel.pmean(batch_stats, axis_name), pushed)
    return value, Aux(fresh, metrics)

  def assign(scores, centers, stored, step):
    """Returns codes of the global views, using the queue once it is full."""
    scores, centers = jax.lax.stop_gradient((scores, centers))
    sinkhorn = jax.vmap(
        lambda scores: losses.sinkhorn(
            scores, epsilon=epsilon, iterations=iterations, axis_name=axis_name
        )
    )
    codes = sinkhorn(scores)
    if stored is None:
      return codes
    devices, batch = parallel.axis_size(axis_name), scores.shape[1]
    # Each device adds its part of the queue to the assignment of all.
    here = jax.vmap(
        lambda keys: parallel.local_slice(
            keys, queue_size // devices, axis_name
        )
    )(stored.keys)
    joined = jnp.concatenate([scores, _scores(here, centers)], axis=1)
    steps_to_fill = -(-queue_size // (batch * devices))
    in_use = step >= queue_start_steps + steps_to_fill
    return jnp.where(in_use, sinkhorn(joined)[:, :batch], codes)

  def update(params, carried, fresh, step):
    del step
    # As the paper does before each forward pass.
    params = {**params, "prototypes": l2_normalize(params["prototypes"])}
    (batch_stats, pushed), stored = fresh, carried.queue
    if stored is not None:
      stored = jax.vmap(queue.push)(stored, pushed)
    return params, Carried(batch_stats, stored)

  return Method(
      views,
      init,
      loss,
      update,
      _branch.encoder(net),
      frozen_steps=_branch.freeze(("prototypes",), frozen_steps),
  )


def _scores(projections, centers):
  """Cosine similarities to the prototypes, `[V, B, P]`."""
  return jnp.matmul(
      l2_normalize(projections), centers.T, precision=jax.lax.Precision.HIGHEST
  )
