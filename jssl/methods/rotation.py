r"""Rotation: by how many quarter turns is the image rotated?

```mermaid
flowchart LR
  image --> X["view X"] --> g["turned 0, 1, 2, 3 times"]
  g --> f["encoder, linear layer"] -->|"4 logits"| loss["cross-entropy"]
  g -.->|"turns y"| loss
```

$$
\mathcal{L}(X) = -\frac{1}{4} \sum_{y=0}^{3} \log F^y(g(X | y))
$$

$g(X | y)$ is the view $X$ after $y$ quarter turns. $F^y$ is the probability
that the net gives to $y$ turns, a softmax of four logits. The loss is the mean
over images.

Reference:
  Gidaris et al., Unsupervised Representation Learning by Predicting Image
  Rotations, 2018 (RotNet).
"""

import flax.linen as nn
import jax.numpy as jnp

from jssl.augment import rotate90
from jssl.method import Method
from jssl.methods import _branch, _one_net, _views
from jssl.nets import MLP


def rotation(
    net: nn.Module,
    *,
    augment: _views.Recipe = _views.CROP_AND_FLIP,
    axis_name: str | None = None,
) -> Method:
  """Makes RotNet over a backbone.

  Each step shows every image in all four rotations, exact turns that leave no
  trace of resampling. BatchNorm takes its statistics from all four together:
  those of one rotation alone would reveal it.

  Args:
    augment: The recipe, of square views; by default a crop and a flip.
    net, axis_name: See `jssl.methods`.

  Returns:
    The method. Its metrics are "accuracy" and "chance_loss", log 4.
  """
  classifier = MLP((4,), dtype=_branch.dtype_of(net))

  def views(key, batch):
    images = _views.one(key, batch, augment)
    turned = jnp.stack([rotate90(images, turns) for turns in range(4)])
    turns = jnp.repeat(jnp.arange(4)[:, None], len(images), axis=1)
    return _one_net.Task(turned, turns)  # [4, B, H, W, C], [4, B]

  def criterion(embedding, task):
    return _one_net.classify(embedding.projection, task.target)

  branch = _branch.Branch(net, classifier, joint=True)
  return _one_net.make(branch, views, criterion, axis_name=axis_name)
