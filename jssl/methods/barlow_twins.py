r"""Barlow Twins: the cross-correlation of two views becomes the identity.

```mermaid
flowchart LR
  image --> v1["view A"] --> f["encoder, projector"]
  image --> v2["view B"] --> f
  f --> z["standardise"]
  z -->|"zA, zB"| c["cross-correlation"] --> loss["distance to identity"]
```

$$
\mathcal{L}_\mathcal{BT} = \sum_i (1 - \mathcal{C}_{ii})^2 +
\lambda \sum_i \sum_{j \neq i} \mathcal{C}_{ij}^2
\qquad
\mathcal{C}_{ij} = \frac{1}{N} \sum_{b=1}^{N} z^A_{b,i} \, z^B_{b,j}
$$

$z^A$ and $z^B$ are the projections of the two views, each dimension
standardised over the global batch of $N$ images. $\mathcal{C}_{ij}$ is the
cross-correlation of their dimensions $i$ and $j$. $\lambda$ is the weight of
the redundancy term.

Reference:
  Zbontar et al., Barlow Twins: Self-Supervised Learning via Redundancy
  Reduction, 2021.
"""

import flax.linen as nn

from jssl import embeddings, losses
from jssl.method import Method
from jssl.methods import _branch, _one_net, _views


def barlow_twins(
    net: nn.Module,
    *,
    augment: _views.Recipe = _views.FIRST_VIEW,
    second_augment: _views.Recipe | None = _views.SECOND_VIEW,
    dim: int = 8192,
    projector_layers: int = 3,
    off_diagonal_weight: float = 0.005,
    joint_statistics: bool = False,
    axis_name: str | None = None,
) -> Method:
  """Makes Barlow Twins; correlations are those of the global batch.

  Args:
    dim: Width of the projector's layers, and length of the embeddings.
    projector_layers: Number of layers of the projector.
    off_diagonal_weight: Weight of the redundancy term, lambda.
    net, augment, second_augment, joint_statistics, axis_name: See
      `jssl.methods`.

  Returns:
    The method. Its metric is "feature_std" (see `embeddings.feature_std`).
  """
  projector = _branch.head(
      net, (dim,) * projector_layers, last_bias=False, axis_name=axis_name
  )

  def views(key, batch):
    images = _views.two(key, batch, augment, second_augment)
    return _one_net.Task(images)

  def criterion(embedding, task):
    del task
    z = embedding.projection  # [2, B, D]
    value = losses.barlow_twins(
        *z, off_diagonal_weight=off_diagonal_weight, axis_name=axis_name
    )
    return value, {
        "feature_std": embeddings.feature_std(z[0], axis_name=axis_name)
    }

  branch = _branch.Branch(net, projector, joint=joint_statistics)
  return _one_net.make(branch, views, criterion, axis_name=axis_name)
