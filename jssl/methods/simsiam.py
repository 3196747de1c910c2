r"""SimSiam: BYOL without a target network; the stopped gradient is enough.

```mermaid
flowchart LR
  image --> v1["view 1"] --> f["encoder, projector"]
  image --> v2["view 2"] --> f
  f -->|"z1"| h["predictor"]
  h -->|"p1"| loss["negative cosine, and with views swapped"]
  f -.->|"z2, stop-gradient"| loss
```

$$
\mathcal{L} = \frac{1}{2} \mathcal{D}(p_1, \mathrm{sg}(z_2)) +
\frac{1}{2} \mathcal{D}(p_2, \mathrm{sg}(z_1))
\qquad
\mathcal{D}(p, z) = -\frac{p}{\lVert p \rVert_2} \cdot
\frac{z}{\lVert z \rVert_2}
$$

$z_1$ and $z_2$ are the projections of the two views, and $p_1$ and $p_2$ the
predictions from them. $\mathrm{sg}$ stops the gradient. $\mathcal{D}$ is the
mean over the batch.

Reference:
  Chen and He, Exploring Simple Siamese Representation Learning, 2021.
"""

import functools

import flax.linen as nn
import jax

from jssl import embeddings, losses
from jssl.method import Method
from jssl.methods import _branch, _one_net, _views


def simsiam(
    net: nn.Module,
    *,
    augment: _views.Recipe = _views.MOCO_V2,
    dim: int = 2048,
    projector_layers: int = 3,
    predictor_dim: int = 512,
    joint_statistics: bool = False,
    axis_name: str | None = None,
) -> Method:
  """Makes SimSiam, without negatives and without an EMA target.

  Args:
    dim: Width of the projector's layers, and length of the embeddings.
    projector_layers: Number of layers of the projector; 2 in the paper for
      CIFAR.
    predictor_dim: Width of the predictor's hidden layer, a bottleneck.
    net, augment, joint_statistics, axis_name: See `jssl.methods`.

  Returns:
    The method. Its metric is "feature_std" (see `embeddings.feature_std`). The
    loss is in [-1, 1]; -1 with a "feature_std" near 0 is collapse.
  """
  head = functools.partial(_branch.head, net, axis_name=axis_name)
  projector = head(
      (dim,) * projector_layers,
      last_norm=True,
      last_scale=False,
      last_shift=False,
  )
  branch = _branch.Branch(
      net, projector, head((predictor_dim, dim)), joint=joint_statistics
  )

  def views(key, batch):
    return _one_net.Task(_views.two(key, batch, augment))

  def criterion(embedding, task):
    del task
    predictions = embedding.prediction  # [2, B, D]
    targets = jax.lax.stop_gradient(embedding.projection)
    value = sum(  # Equation 4.
        losses.negative_cosine(predictions[i], targets[1 - i]) / 2
        for i in range(2)
    )
    return value, {
        "feature_std": embeddings.feature_std(targets[0], axis_name=axis_name)
    }

  return _one_net.make(branch, views, criterion, axis_name=axis_name)
