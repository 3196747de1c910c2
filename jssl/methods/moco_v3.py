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

$q_1$ and $q_2$ are unit predictions of the two views, one row per image. $k_1$
and $k_2$ are unit projections of the same views by the key encoder, an EMA of
encoder and projector. $N$ is the number of images in the global batch, and
$\tau$ is the temperature.

Reference:
  Chen et al., An Empirical Study of Training Self-Supervised Vision
  Transformers, 2021.
"""

from collections.abc import Callable
import functools
import math

import flax.linen as nn

from jssl import ema, embeddings, losses, parallel
from jssl.losses import checks
from jssl.method import Method
from jssl.methods import _branch, _target, _views
from jssl.nets import backbone


def moco_v3(
    net: nn.Module,
    *,
    augment: _views.Recipe = _views.FIRST_VIEW,
    second_augment: _views.Recipe | None = _views.SECOND_VIEW,
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
    hidden_dim: Width of the hidden layers of projector and predictor.
    projector_layers: Number of layers of the projector: 3 in the paper for
      transformers, 2 for ResNets.
    predictor_norm: Whether the predictor ends in a BatchNorm: in the paper for
      transformers, not for ResNets.
    momentum: EMA decay of the key encoder, in [0, 1]: a constant, or a function
      of the step. The paper raises it from 0.99 to 1 along a cosine.
    temperature: Divisor of the cosine similarities, above 0: 0.2 in the paper
      for transformers, 1 for ResNets.
    freeze_patch: Whether the patch projection of a transformer keeps its
      initial values, which the paper found to be stable; ResNets have none.
    net, augment, second_augment, dim, joint_statistics, axis_name: See
      `jssl.methods`.

  Returns:
    The method. Its views are `[2, B, H, W, C]`; its metrics "chance_loss" (4 T
    log N for a global batch of N images) and "feature_std" (see
    `embeddings.feature_std`).

  Raises:
    ValueError: If the temperature or the momentum is out of range.
  """
  checks.check_temperature(temperature)
  decay = ema.as_schedule(momentum)
  head = functools.partial(
      _branch.head, net, last_scale=False, last_shift=False, axis_name=axis_name
  )
  widths = (hidden_dim,) * (projector_layers - 1) + (dim,)
  projector = head(widths, last_norm=True)
  predictor = head((hidden_dim, dim), last_norm=predictor_norm, last_bias=False)
  online = _branch.Branch(net, projector, predictor, joint=joint_statistics)

  def views(key, batch):
    return _views.two(key, batch, augment, second_augment)

  def criterion(embedding, keys):
    queries = embedding.prediction  # [2, B, D]
    value = sum(  # Algorithm 1.
        2
        * temperature
        * losses.batch_info_nce(
            queries[i],
            keys[1 - i],
            temperature=temperature,
            axis_name=axis_name,
        )
        for i in range(2)
    )
    images = queries.shape[1] * parallel.axis_size(axis_name)
    return value, {
        "chance_loss": 4 * temperature * math.log(images),
        "feature_std": embeddings.feature_std(queries[0], axis_name=axis_name),
    }

  return _target.make(
      online,
      views,
      criterion,
      # Averaging after the optimizer's step is the paper's averaging before the
      # next forward pass: the schedule is read one step ahead.
      lambda step: decay(step + 1),
      frozen_steps=_branch.freeze(
          (f"net/{backbone.PATCH_PROJECTION}",), math.inf if freeze_patch else 0
      ),
      axis_name=axis_name,
  )
