r"""SwAV: predict the cluster of one view from another, clusters kept equal.

```mermaid
flowchart LR
  image --> v1["large view s"] --> f["encoder, projector"]
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
large. $c_k$ is a prototype, a unit vector and a column of $C$. $q_s$ is the
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

from jssl import augment as augmentation
from jssl import embeddings
from jssl import losses
from jssl import parallel
from jssl import queue as queues
from jssl.embeddings import l2_normalize
from jssl.losses import checks
from jssl.method import Aux
from jssl.method import Method
from jssl.methods import branch as branches
from jssl.methods import crops


class Carried(NamedTuple):
  """What SwAV keeps.

  Attributes:
    batch_stats: Running statistics of the branch.
    queue: Projections of earlier batches, one queue `[2, K, D]` for each large
      view; None without.
  """

  batch_stats: Any
  queue: queues.Queue | None


class Fresh(NamedTuple):
  """What the loss hands to the update: statistics, and all projections."""

  batch_stats: Any
  projections: jax.Array | None


def swav(
    net: nn.Module,
    *,
    augment: crops.Recipe = augmentation.keep_size(augmentation.simclr),
    local_augment: crops.Recipe | None = None,
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
  """Makes SwAV over a backbone.

  Args:
    net: A backbone of `jssl.nets`.
    augment: The recipe of the two large views, `(key, image, *, extent) ->
      view`; by default SimCLR's, at the size of the images.
    local_augment: The recipe of the small views.
    local_views: Number of small views: 6 in the paper.
    dim: Length of the embeddings.
    hidden_dim: Width of the projector's hidden layer.
    prototypes: Number of clusters.
    temperature: Divisor of the similarities that predict a cluster, above 0.
    epsilon: Smoothness of the assignment, above 0.
    iterations: Of the Sinkhorn algorithm, over the global batch.
    queue_size: Earlier projections that join each assignment, a multiple of the
      global batch: 3840 in the paper for batches of 256; 0 for none.
    queue_start_steps: Steps before the queue starts to fill; once full, it is
      used.
    frozen_steps: Steps before prototypes learn.
    joint_statistics: Whether BatchNorm takes its statistics from all crops
      together (in the backbone from those of one size), as in the authors'
      code, or from each view.
    axis_name: Axis that the batch is split over, or None.

  Returns:
    The method. Its views are the two large ones and the small ones (or None);
    its metrics "chance_loss" (log of the number of prototypes) and
    "feature_std" (see `embeddings.feature_std`).

  Raises:
    ValueError: If temperature, epsilon or a count is out of range.
  """
  checks.check_temperature(temperature)
  checks.check_temperature(epsilon, name="epsilon")
  crops.check_local_views(local_views, local_augment)
  branch = branches.Branch(
      net,
      branches.head(net, (hidden_dim, dim), axis_name=axis_name),
      joint=joint_statistics,
  )

  def views(key, batch):
    return crops.multi(key, batch, (augment, None), local_augment, local_views)

  def init(key, views):
    branch_key, prototype_key, queue_key = jax.random.split(key, 3)
    params, batch_stats = branches.init(branch_key, branch, views.large[0])
    drawn = jax.random.normal(prototype_key, (prototypes, dim))
    params = {**params, "prototypes": l2_normalize(drawn)}
    if not queue_size:
      return params, Carried(batch_stats, None)
    keys = jax.random.split(queue_key, 2)
    queue = jax.vmap(lambda key: queues.init(key, queue_size, dim))(keys)
    return params, Carried(batch_stats, queue)

  def loss(params, carried, views, keys, step):
    carried = jax.lax.stop_gradient(carried)
    embedding, batch_stats = branches.embed(
        branch, params, carried.batch_stats, views.by_size(), keys.local
    )
    projections = embedding.projection  # [V, B, D]
    centers = params["prototypes"]
    scores = _scores(projections, centers)  # [V, B, P]
    value = losses.swapped_prediction(
        _codes(scores[:2], centers, carried.queue, step),
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
    return value, Aux(
        Fresh(parallel.pmean(batch_stats, axis_name), pushed), metrics
    )

  def _codes(scores, centers, queue, step):
    """Assigns the large views, with the queue's help once it is in use."""
    scores, centers = jax.lax.stop_gradient((scores, centers))
    assign = jax.vmap(
        lambda scores: losses.sinkhorn(
            scores,
            epsilon=epsilon,
            iterations=iterations,
            axis_name=axis_name,
        )
    )
    codes = assign(scores)
    if queue is None:
      return codes
    devices, batch = parallel.axis_size(axis_name), scores.shape[1]
    # Each device lends its share of the queue to the assignment of all.
    kept = jax.vmap(
        lambda keys: parallel.local_slice(
            keys, queue_size // devices, axis_name
        )
    )(queue.keys)
    helped = assign(jnp.concatenate([scores, _scores(kept, centers)], axis=1))
    full = -(-queue_size // (batch * devices))
    in_use = step >= queue_start_steps + full
    return jnp.where(in_use, helped[:, :batch], codes)

  def update(params, carried, fresh, step):
    del step
    # As the paper does before each forward pass.
    params = {**params, "prototypes": l2_normalize(params["prototypes"])}
    queue = carried.queue
    if queue is not None:
      queue = jax.vmap(queues.push)(queue, fresh.projections)
    return params, Carried(fresh.batch_stats, queue)

  return Method(
      views,
      init,
      loss,
      update,
      branches.encoder(net),
      frozen_steps=lambda params: branches.freeze(
          params, ("prototypes",), frozen_steps
      ),
  )


def _scores(projections, centers):
  """Cosine similarities to the prototypes, `[V, B, P]`."""
  return jnp.matmul(
      l2_normalize(projections),
      centers.T,
      precision=jax.lax.Precision.HIGHEST,
  )
