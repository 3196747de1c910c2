r"""SimCLR, with its own loss or a decoupled contrastive loss.

```mermaid
flowchart LR
  image --> v1["view 1"] --> f["encoder, projector"]
  image --> v2["view 2"] --> f
  f -->|"z of both views"| s["similarities in the global batch"]
  s --> loss["NT-Xent, DCL or DCLW"]
```

$$
\mathcal{L}_\text{NT-Xent} = \frac{1}{2N} \sum_{i=1}^{2N} -\log
\frac{\exp(s_{i,i'} / \tau)}{\sum_{k \neq i} \exp(s_{i,k} / \tau)}
$$

$$
\mathcal{L}_\text{DCLW} = \frac{1}{2N} \sum_{i=1}^{2N} \left(
-w_i \frac{s_{i,i'}}{\tau} + \log \sum_{k \neq i,i'} \exp(s_{i,k} / \tau)
\right)
\qquad
w_i = 2 - \frac{\exp(s_{i,i'} / \sigma)}
{\frac{1}{2N} \sum_{n=1}^{2N} \exp(s_{n,n'} / \sigma)}
$$

$s_{i,k}$ is the cosine similarity of the projections $z_i$ and $z_k$ among the
$2N$ views of $N$ images. $i'$ is the other view of the image of $i$. $\tau$ is
the temperature, $\sigma$ that of the weights. $w_i$ is the weight of a
positive, without gradient; DCL is DCLW with $w_i = 1$.

References:
  Chen et al., A Simple Framework for Contrastive Learning of Visual
  Representations, 2020 (v1); Chen et al., Big Self-Supervised Models are Strong
  Semi-Supervised Learners, 2020 (v2); Yeh et al., Decoupled Contrastive
  Learning, 2022 (DCL and DCLW).
"""

import math

import flax.linen as nn

from jssl import embeddings, losses, parallel
from jssl.losses import checks
from jssl.method import Method
from jssl.methods import _branch, _one_net, _views

_LOSSES = {"nt_xent": losses.nt_xent, "dcl": losses.dcl, "dclw": losses.dclw}


def simclr(
    net: nn.Module,
    *,
    augment: _views.Recipe = _views.SIMCLR,
    dim: int = 128,
    hidden_dim: int | None = None,
    hidden_layers: int = 1,
    temperature: float = 0.1,
    loss: str = "nt_xent",
    joint_statistics: bool = True,
    axis_name: str | None = None,
) -> Method:
  """Makes SimCLR; negatives are the images of the global batch.

  Args:
    hidden_dim: Width of the projector's hidden layers, None for the width of
      the features.
    hidden_layers: Number of hidden layers: 1 in v1, 2 in v2.
    loss: "nt_xent" (the paper's), "dcl" (without the positive in the
      denominator) or "dclw" (which also gives hard positives a larger weight).
      Negatives are the images of the global batch.
    net, augment, dim, temperature, joint_statistics, axis_name: See
      `jssl.methods`.

  Returns:
    The method. Its metrics are "feature_std" (see `embeddings.feature_std`) and
    for NT-Xent "chance_loss", log(2 N - 1) for a global batch of N images.

  Raises:
    ValueError: If the temperature is not above 0 or the loss is unknown.
  """
  checks.check_temperature(temperature)
  if loss not in _LOSSES:
    raise ValueError(f"loss is {loss!r}; expected one of {tuple(_LOSSES)}.")
  projector = _branch.head(
      net,
      (hidden_dim,) * hidden_layers + (dim,),
      last_norm=True,
      last_shift=False,
      axis_name=axis_name,
  )

  def views(key, batch):
    return _one_net.Task(_views.two(key, batch, augment))

  def criterion(embedding, task):
    del task
    z = embedding.projection  # [2, B, D]
    value = _LOSSES[loss](*z, temperature=temperature, axis_name=axis_name)
    metrics = {"feature_std": embeddings.feature_std(z[0], axis_name=axis_name)}
    if loss == "nt_xent":
      images = z.shape[1] * parallel.axis_size(axis_name)
      metrics["chance_loss"] = math.log(2 * images - 1)
    return value, metrics

  branch = _branch.Branch(net, projector, joint=joint_statistics)
  return _one_net.make(branch, views, criterion, axis_name=axis_name)
