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

from jssl import augment as augmentation
from jssl.method import Method
from jssl.methods import branch as branches
from jssl.methods import crops
from jssl.methods import pretext
from jssl.nets import MLP


def rotation(
    net: nn.Module,
    *,
    augment: crops.Recipe = augmentation.keep_size(augmentation.crop_and_flip),
    axis_name: str | None = None,
) -> Method:
  """Makes RotNet over a backbone.

  Each step shows every image in all four rotations, exact turns that leave no
  trace of resampling, in one forward pass: statistics of one rotation alone
  would give it away.

  Args:
    net: A backbone of `jssl.nets`.
    augment: The recipe, `(key, image, *, extent) -> view`, of square views; by
      default a crop and a flip, at the size of the images.
    axis_name: Axis that the batch is split over, or None.

  Returns:
    The method. Its metrics are "accuracy" and "chance_loss", log 4.
  """
  branch = branches.Branch(net, MLP((4,), dtype=branches.dtype_of(net)))

  def views(key, batch):
    (images,) = augmentation.make_views(key, batch, (augment,))
    turned = [augmentation.rotate90(images, turns) for turns in range(4)]
    # Side by side, so that a group of the batch has statistics of all four.
    turned = jnp.stack(turned, axis=1).reshape(-1, *images.shape[1:])
    return pretext.Task(turned, jnp.tile(jnp.arange(4), len(images)))

  def criterion(embedding, task):
    return pretext.classify(embedding.projection, task.target)

  return pretext.make(branch, views, criterion, axis_name=axis_name)
