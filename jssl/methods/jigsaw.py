r"""Jigsaw: in which order are the tiles of the image?

```mermaid
flowchart LR
  image --> tiles["9 tiles"]
  tiles -->|"each alone"| f["encoder, projector"]
  f -->|"F1 to F9"| order["order S"] --> c["classifier"]
  c -->|"logits"| loss["cross-entropy"]
  draw["draw M orders"] --> order
  draw -.->|"index of S"| loss
```

$$
\mathcal{L} = -\frac{1}{M} \sum_{m=1}^{M} \log
p\left(S_m \mid F_{S_m(1)}, \dots, F_{S_m(9)}\right)
$$

$F_i$ is the projection of tile $i$, by one net for all tiles. $S_m$ is one of
$M$ orders drawn for the image from a list of them; it shows tile $S_m(j)$ in
place $j$. $p$ is the classifier's probability, a softmax over the list. The
loss is the mean over images.

Reference:
  Noroozi and Favaro, Unsupervised Learning of Visual Representations by Solving
  Jigsaw Puzzles, 2016.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl.method import Method
from jssl.methods import _permutations, _tiles, _views


def jigsaw(
    net: nn.Module,
    *,
    augment: _views.Recipe = _views.CROP_AND_FLIP,
    permutations: int = 1000,
    puzzles: int = 8,
    tile_size: int | None = None,
    channel_shift: int = 2,
    grayscale_probability: float = 0.66,
    dim: int = 512,
    hidden_dim: int = 4096,
    dropout: float = 0.5,
    axis_name: str | None = None,
) -> Method:
  """Makes the jigsaw puzzle of nine tiles.

  Nine tiles are put in one of many orders that are as different as possible,
  and the net classifies which. Against shortcuts, tiles have gaps, random
  places in their cells, shifted color channels and the same mean and deviation,
  and some images are gray.

  Args:
    augment: The recipe of the image that is cut; by default a crop and a flip.
    permutations: Number of orders, 2 to 1,000.
    puzzles: Number of orders drawn for each image at a step. The net encodes
      each tile once.
    tile_size: Side of a tile, None for 64 / 75 of a third of the image.
    channel_shift: Largest shift of a tile's color channels, in pixels.
    grayscale_probability: Probability that the image is gray; the default is
      that of Kolesnikov et al. (2019).
    dim: Width of a tile's projection; 512 in the paper.
    hidden_dim: Width of the classifier's hidden layer; 4096 in the paper.
    dropout: Dropout rate of that layer, in [0, 1); 0.5 in the code of
      Kolesnikov et al. (2019).
    net, axis_name: See `jssl.methods`.

  Returns:
    The method. Its metrics are "accuracy" and "chance_loss", the logarithm of
    the number of permutations.

  Raises:
    ValueError: If `permutations` is out of range, or a tile does not fit its
      cell.
  """
  orders = jnp.asarray(_permutations.load(permutations))

  def choose(key):
    label = jax.random.randint(key, (puzzles,), 0, permutations)
    return orders[label], label

  return _tiles.make(
      net,
      choose,
      classes=permutations,
      augment=augment,
      tile_size=tile_size,
      channel_shift=channel_shift,
      grayscale_probability=grayscale_probability,
      dim=dim,
      hidden_dim=hidden_dim,
      dropout=dropout,
      axis_name=axis_name,
  )
