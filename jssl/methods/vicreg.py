r"""VICReg: views agree, each dimension varies, no two vary together.

```mermaid
flowchart LR
  image --> v1["view 1"] --> f["encoder, expander"]
  image --> v2["view 2"] --> f
  f -->|"Z, Z'"| s["invariance s"] --> loss["weighted sum"]
  f -->|"Z, Z'"| v["variance v"] --> loss
  f -->|"Z, Z'"| c["covariance c"] --> loss
```

$$
\mathcal{L} = \frac{\lambda}{n d} \sum_{b=1}^{n} \lVert z_b - z'_b \rVert_2^2 +
\frac{\mu}{2} \bigl( v(Z) + v(Z') \bigr) + \nu \bigl( c(Z) + c(Z') \bigr)
$$

$$
v(Z) = \frac{1}{d} \sum_{j=1}^{d} \max\bigl(0, 1 - \sqrt{C(Z)_{jj} + \epsilon}
\bigr)
\qquad
c(Z) = \frac{1}{d} \sum_{i \neq j} C(Z)_{ij}^2
$$

$Z$ and $Z'$ are the projections of the two views of $n$ images, with rows $z_b$
and $z'_b$ of length $d$, not normalised. $C(Z)$ is their unbiased covariance
over the global batch. $\lambda$, $\mu$ and $\nu$ are the weights of invariance,
variance and covariance. $\epsilon$ keeps the root smooth. The factor $1 / d$
of the invariance and the $1 / 2$ are in the authors' code, not in the paper.

Reference:
  Bardes et al., VICReg: Variance-Invariance-Covariance Regularization for
  Self-Supervised Learning, 2022.
"""

import flax.linen as nn

from jssl import embeddings, losses
from jssl.method import Method
from jssl.methods import _branch, _one_net, _views


def vicreg(
    net: nn.Module,
    *,
    augment: _views.Recipe = _views.FIRST_VIEW,
    second_augment: _views.Recipe | None = _views.SECOND_VIEW,
    dim: int = 8192,
    projector_layers: int = 3,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    joint_statistics: bool = False,
    axis_name: str | None = None,
) -> Method:
  """Makes VICReg; variances and covariances are those of the global batch.

  Args:
    dim: Width of the expander's layers, and length of the embeddings.
    projector_layers: Number of layers of the projector, the paper's expander.
    invariance: Weight of the squared distance of the views.
    variance: Weight of the hinge that keeps standard deviations above 1.
    covariance: Weight of the squared covariances.
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
    value = losses.vicreg(
        *z,
        invariance=invariance,
        variance=variance,
        covariance=covariance,
        axis_name=axis_name,
    )
    return value, {
        "feature_std": embeddings.feature_std(z[0], axis_name=axis_name)
    }

  branch = _branch.Branch(net, projector, joint=joint_statistics)
  return _one_net.make(branch, views, criterion, axis_name=axis_name)
