r"""BYOL: predict a slowly moving target's projection of the other view.

```mermaid
flowchart LR
  image --> v1["view v"] --> f["encoder, projector"] --> q["predictor"]
  image --> v2["view v'"] --> g["target encoder, projector"]
  q --> loss["squared distance, and with views swapped"]
  g -.->|"stop-gradient"| loss
  f -.->|"EMA"| g
```

$$
\mathcal{L}^\text{BYOL} = \mathcal{L}_{\theta,\xi} +
\widetilde{\mathcal{L}}_{\theta,\xi}
\qquad
\xi \leftarrow \tau \xi + (1 - \tau) \theta
$$

$$
\mathcal{L}_{\theta,\xi} = 2 - 2 \cdot
\frac{\langle q_\theta(z_\theta), z'_\xi \rangle}
{\lVert q_\theta(z_\theta) \rVert_2 \cdot \lVert z'_\xi \rVert_2}
$$

$z_\theta$ is the projection of one view, and $q_\theta$ is the predictor.
$z'_\xi$ is the target's projection of the other view.
$\widetilde{\mathcal{L}}_{\theta,\xi}$ is the same with the views swapped. Both
are means over the batch. $\theta$ and $\xi$ are the parameters of the online
network and the target, and $\tau$ is the EMA decay.

Reference:
  Grill et al., Bootstrap Your Own Latent, 2020.
"""

from collections.abc import Callable
import functools

import flax.linen as nn

from jssl import ema, embeddings, losses
from jssl.method import Method
from jssl.methods import _branch, _target, _views


def byol(
    net: nn.Module,
    *,
    augment: _views.Recipe = _views.FIRST_VIEW,
    second_augment: _views.Recipe | None = _views.SECOND_VIEW,
    dim: int = 256,
    hidden_dim: int = 4096,
    momentum: float | Callable = 0.996,
    joint_statistics: bool = False,
    axis_name: str | None = None,
) -> Method:
  """Makes BYOL over a backbone.

  Args:
    hidden_dim: Width of the hidden layer of projector and predictor.
    momentum: EMA decay of the target, in [0, 1]: a constant, or a function of
      the step. The paper raises it from 0.996 to 1 along a cosine.
    net, augment, second_augment, dim, joint_statistics, axis_name: See
      `jssl.methods`.

  Returns:
    The method. Its views are `[2, B, H, W, C]`; its metric "feature_std" (see
    `embeddings.feature_std`). The loss is in [0, 8].

  Raises:
    ValueError: If the momentum is out of range.
  """
  head = functools.partial(
      _branch.head, net, last_bias=False, axis_name=axis_name
  )
  projector = head((hidden_dim, dim))
  online = _branch.Branch(
      net, projector, head((hidden_dim, dim)), joint=joint_statistics
  )

  def views(key, batch):
    return _views.two(key, batch, augment, second_augment)

  def criterion(embedding, targets):
    predictions = embedding.prediction  # [2, B, D]
    # The squared distance of unit vectors, in both directions (equation 2).
    value = sum(
        2 + 2 * losses.negative_cosine(predictions[i], targets[1 - i])
        for i in range(2)
    )
    return value, {
        "feature_std": embeddings.feature_std(
            embedding.projection[0], axis_name=axis_name
        )
    }

  return _target.make(
      online, views, criterion, ema.as_schedule(momentum), axis_name=axis_name
  )
