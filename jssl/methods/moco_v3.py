r"""MoCo v3: no queue, a predictor, large batches, and vision transformers.

```mermaid
flowchart LR
  image --> v1["view 1"] --> f["encoder, projector"] --> p["predictor"]
  image --> v2["view 2"] --> g["key encoder, projector"]
  p -->|"q1"| loss["InfoNCE, and with views swapped"]
  g -.->|"k2, stop-gradient"| loss
  f -.->|"EMA"| g
```

$$
\mathcal{L} = \mathrm{ctr}(q_1, k_2) + \mathrm{ctr}(q_2, k_1)
$$

$$
\mathrm{ctr}(q, k) = -\frac{2 \tau}{N} \sum_{i=1}^{N} \log
\frac{\exp(q_i \cdot k_i / \tau)}{\sum_{j=1}^{N} \exp(q_i \cdot k_j / \tau)}
$$

$q_1$ and $q_2$ are unit predictions of the two views, one row an image. $k_1$
and $k_2$ are unit projections of the same views by the key encoder, an average
of encoder and projector. $N$ is the number of images in the global batch, and
$\tau$ is the temperature.

Reference:
  Chen et al., An Empirical Study of Training Self-Supervised Vision
  Transformers, 2021.
"""

from collections.abc import Callable
import functools
import math

import flax.linen as nn
import jax

from jssl import ema
from jssl import embeddings
from jssl import losses
from jssl import parallel
from jssl.losses import checks
from jssl.method import Aux
from jssl.method import Method
from jssl.methods import branch as branches
from jssl.methods import crops
from jssl.methods import target as target_nets


def moco_v3(
    net: nn.Module,
    *,
    augment: crops.Recipe = crops.FIRST_VIEW,
    second_augment: crops.Recipe | None = crops.SECOND_VIEW,
    dim: int = 256,
    hidden_dim: int = 4096,
    projector_layers: int = 3,
    predictor_norm: bool = True,
    momentum: float | Callable = 0.99,
    temperature: float = 0.2,
    freeze_patch: bool = True,
    joint_statistics: bool = False,
    axis_name: str | None = None,
) -> Method:
  """Makes MoCo v3 over a backbone; the defaults are those for transformers.

  Args:
    net: A backbone of `jssl.nets`.
    augment: The recipe of the first view, `(key, image, *, extent) -> view`; by
      default the paper's, at the size of the images.
    second_augment: The recipe of the second view, None for the same.
    dim: Length of the embeddings.
    hidden_dim: Width of the hidden layers of projector and predictor.
    projector_layers: Layers of the projector: 3 in the paper for transformers,
      2 for ResNets.
    predictor_norm: Whether the predictor ends in a BatchNorm: in the paper for
      transformers, not for ResNets.
    momentum: Share of the key encoder that is kept at a step, in [0, 1]: a
      constant, or a function of the step. The paper raises it from 0.99 to 1
      along a cosine.
    temperature: Divisor of the cosine similarities, above 0: 0.2 in the paper
      for transformers, 1 for ResNets.
    freeze_patch: Whether the patch projection of a transformer stays as it was
      drawn, which the paper found to be stable; ResNets have none.
    joint_statistics: Whether BatchNorm takes its statistics from both views
      together, or from each view, as in the authors' code.
    axis_name: Axis that the batch is split over, or None.

  Returns:
    The method. Its views are `[2, B, H, W, C]`; its metrics "chance_loss" (4 T
    log N for a global batch of N images) and "feature_std" (see
    `embeddings.feature_std`).

  Raises:
    ValueError: If the temperature or the momentum is out of range.
  """
  checks.check_temperature(temperature)
  momentum = ema.as_schedule(momentum)
  head = functools.partial(
      branches.head,
      net,
      last_scale=False,
      last_shift=False,
      axis_name=axis_name,
  )
  widths = (hidden_dim,) * (projector_layers - 1) + (dim,)
  projector = head(widths, last_norm=True)
  predictor = head((hidden_dim, dim), last_norm=predictor_norm, last_bias=False)
  online = branches.Branch(net, projector, predictor, joint=joint_statistics)
  target = branches.Branch(net, projector, joint=joint_statistics)

  def views(key, batch):
    return crops.two_views(key, batch, augment, second_augment)

  def init(key, views):
    params, batch_stats = branches.init(key, online, views[0])
    return params, target_nets.start(params, batch_stats)

  def loss(params, carried, views, keys, step):
    del step
    carried = jax.lax.stop_gradient(carried)
    embedding, batch_stats = branches.embed(
        online, params, carried.batch_stats, (views,), keys.local
    )
    targets, target_batch_stats = target_nets.embed(target, carried, views)
    queries = embedding.prediction
    value = sum(  # Algorithm 1.
        2
        * temperature
        * losses.batch_info_nce(
            queries[i],
            targets[1 - i],
            temperature=temperature,
            axis_name=axis_name,
        )
        for i in range(2)
    )
    images = views.shape[1] * parallel.axis_size(axis_name)
    metrics = {
        "chance_loss": 4 * temperature * math.log(images),
        "feature_std": embeddings.feature_std(queries[0], axis_name=axis_name),
    }
    fresh = parallel.pmean((batch_stats, target_batch_stats), axis_name)
    return value, Aux(fresh, metrics)

  def update(params, carried, fresh, step):
    # Averaging after the optimizer's step is the paper's averaging before the
    # next forward pass: a schedule is read one step ahead.
    carried = target_nets.follow(carried, params, fresh, momentum(step + 1))
    return params, carried

  return Method(
      views,
      init,
      loss,
      update,
      branches.encoder(net),
      frozen_steps=lambda params: branches.freeze(
          params, ("net/patch",), math.inf if freeze_patch else 0
      ),
  )
