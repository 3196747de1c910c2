r"""SupCon: supervised contrastive learning, an upper reference.

```mermaid
flowchart LR
  image --> v1["view 1"] --> f["encoder, projector"]
  image --> v2["view 2"] --> f
  f -->|"z of both views"| s["similarities in the global batch"]
  s --> loss["SupCon"]
  label -.->|"selects positives"| loss
```

$$
\mathcal{L} = \frac{1}{2N} \sum_{i=1}^{2N} \frac{-1}{|P(i)|} \sum_{p \in P(i)}
\log \frac{\exp(z_i \cdot z_p / \tau)}
{\sum_{a \in A(i)} \exp(z_i \cdot z_a / \tau)}
$$

$z_i$ is the unit projection of view $i$ among the $2N$ views of the $N$ images
of the global batch. $A(i)$ are all other views, and $P(i)$ those of them whose
label is that of $i$. $\tau$ is the temperature.

Reference:
  Khosla et al., Supervised Contrastive Learning, 2020.
"""

import flax.linen as nn

from jssl import embeddings, losses
from jssl.losses import checks
from jssl.method import Method
from jssl.methods import _branch, _one_net, _views
from jssl.nets import MLP


def supcon(
    net: nn.Module,
    *,
    augment: _views.Recipe = _views.SIMCLR,
    dim: int = 128,
    hidden_layers: int = 1,
    temperature: float = 0.1,
    joint_statistics: bool = True,
    axis_name: str | None = None,
) -> Method:
  """Makes SupCon over a backbone; it learns from labels, unlike the others.

  Args:
    hidden_layers: Hidden layers of the projector, each as wide as the features.
    net, augment, dim, temperature, joint_statistics, axis_name: See
      `jssl.methods`.

  Returns:
    The method. Its metric is "feature_std" (see `embeddings.feature_std`).
    `views` raises ValueError for a batch without labels.

  Raises:
    ValueError: If the temperature is not above 0.
  """
  checks.check_temperature(temperature)
  projector = MLP((None,) * hidden_layers + (dim,), dtype=_branch.dtype_of(net))

  def views(key, batch):
    if "label" not in batch:
      raise ValueError(
          "The batch has no labels, and supcon learns from them; use a data set"
          " with classes, or a method without labels such as simclr."
      )
    images = _views.two(key, batch, augment)
    return _one_net.Task(images, batch["label"])

  def criterion(embedding, task):
    z = embedding.projection  # [2, B, D]
    value = losses.supcon(
        z, task.target, temperature=temperature, axis_name=axis_name
    )
    return value, {
        "feature_std": embeddings.feature_std(z[0], axis_name=axis_name)
    }

  return _one_net.make(
      _branch.Branch(net, projector, joint=joint_statistics),
      views,
      criterion,
      needs=frozenset({"labels"}),
      axis_name=axis_name,
  )
