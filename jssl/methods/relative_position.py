r"""Relative position: on which side of the central tile is the other one?

```mermaid
flowchart LR
  image --> tiles["9 tiles"]
  tiles -->|"each alone"| f["encoder, projector"]
  f -->|"F0, Fy"| c["classifier"]
  c -->|"8 logits"| loss["cross-entropy"]
  tiles -.->|"side y"| loss
```

$$
\mathcal{L} = -\frac{1}{8} \sum_{y=1}^{8} \log p(y \mid F_0, F_y)
$$

$F_0$ is the projection of the central tile. $F_y$ is that of its neighbour on
side $y$, by the same net. $p$ is the classifier's probability of each side, a
softmax of eight logits. The loss is the mean over images.

Reference:
  Doersch et al., Unsupervised Visual Representation Learning by Context
  Prediction, 2015.
"""

import flax.linen as nn
import jax.numpy as jnp

from jssl.method import Method
from jssl.methods import _tiles, _views

_CENTER = 4  # Index of the central tile of 3 x 3.


def relative_position(
    net: nn.Module,
    *,
    augment: _views.Recipe = _views.CROP_AND_FLIP,
    tile_size: int | None = None,
    channel_shift: int = 2,
    grayscale_probability: float = 0.66,
    dim: int = 512,
    hidden_dim: int = 4096,
    dropout: float = 0.5,
    axis_name: str | None = None,
) -> Method:
  """Makes context prediction, of the eight neighbours of a central tile.

  The net sees the central tile and one of its eight neighbours. Defences
  against shortcuts are those of `jssl.methods.jigsaw`, instead of the paper's
  random color channels.

  Args:
    augment: The recipe of the image that is cut; by default a crop and a flip.
    dim: Width of a tile's projection.
    tile_size, channel_shift, grayscale_probability, hidden_dim, dropout: See
      `jssl.methods.jigsaw`.
    net, axis_name: See `jssl.methods`.

  Returns:
    The method. Its metrics are "accuracy" and "chance_loss", log 8.

  Raises:
    ValueError: If a tile does not fit its cell.
  """
  others = jnp.delete(jnp.arange(9), _CENTER)
  pairs = jnp.stack([jnp.full(8, _CENTER), others], axis=-1)

  def choose(key):
    del key
    return pairs, jnp.arange(8)

  return _tiles.make(
      net,
      choose,
      classes=8,
      augment=augment,
      tile_size=tile_size,
      channel_shift=channel_shift,
      grayscale_probability=grayscale_probability,
      dim=dim,
      hidden_dim=hidden_dim,
      dropout=dropout,
      axis_name=axis_name,
  )
