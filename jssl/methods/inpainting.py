r"""Inpainting: fill a hole in the image.

```mermaid
flowchart LR
  image --> x["view x"] --> hole["hole M filled with gray"]
  hole --> f["encoder"] --> g["mixing, decoder"] --> loss["squared error"]
  x -.->|"target"| loss
  hole -.->|"weights W"| loss
```

$$
\mathcal{L}(x) = \frac{\sum_p W_p \, \lVert \bar{x}_p -
F((1 - \hat{M}) \odot x + \hat{M} / 2)_p \rVert_2^2}{C \sum_p W_p}
\qquad
W = \hat{M} + \beta R
$$

$x$ is the view in $[0, 1]$, with pixels $p$ of $C$ channels. $\bar{x} = (x -
0.5) / 0.25$ is what the decoder predicts. $\hat{M}$ is 1 in the hole and 0
elsewhere. $F$ is the net. $R$ is 1 in the rim around the hole, and $\beta$ is
the rim's weight. The loss is the mean over images.

Reference:
  Pathak et al., Context Encoders: Feature Learning by Inpainting, 2016.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl import losses, masking
from jssl.augment import image_keys
from jssl.method import Method, Pictures
from jssl.methods import _one_net, _reconstruction, _views
from jssl.nets.norm import denormalize_images, normalize_images

_HOLES = {
    "center": lambda key, size, share: masking.center(size, share=share),
    "squares": masking.random_squares,
    "region": masking.random_region,
}
_FILL = 0.5  # Gray, about the mean color.


class Target(NamedTuple):
  """What the net should predict.

  Attributes:
    images: `[B, H, W, C]` in [0, 1].
    hidden: Whether a pixel is in the hole, bool `[B, H, W]`.
  """

  images: jax.Array
  hidden: jax.Array


def inpainting(
    net: nn.Module,
    *,
    augment: _views.Recipe = _views.CROP_AND_FLIP,
    hole: str = "region",
    share: float = 0.25,
    overlap: int = 0,
    overlap_weight: float = 10.0,
    decoder_width: int = 64,
    axis_name: str | None = None,
) -> Method:
  """Makes a context encoder over a backbone, trained by its squared error.

  The paper's adversarial term, of weight 0.001 and for sharper pictures, is not
  implemented: the paper trained the features that it evaluates without it.

  Args:
    hole: "center" (the central square), "squares" (four that may overlap), or
      "region" (of random outline).
    share: Fraction of the image that is hidden; at most that, for squares.
    overlap: Width in pixels of the rim around the hole that is visible and
      predicted too; 7 in the paper, for holes of 64.
    overlap_weight: Weight of the rim; 10 in the paper.
    decoder_width: See `nets.ConvDecoder`.
    net, augment, axis_name: See `jssl.methods`.

  Returns:
    The method. Its loss is the weighted squared error of images scaled to [-2,
    2], averaged over the images; the metric "chance_loss" is the loss of
    predicting the mean color of the visible pixels. Metrics "hidden_error" and
    "hidden_chance" are the same within the hole.

  Raises:
    ValueError: If the hole is unknown, or a share or overlap out of range.
  """
  if hole not in _HOLES:
    raise ValueError(f"hole is {hole!r}; expected one of {tuple(_HOLES)}.")
  if not 0 < share < 1 or overlap < 0 or overlap_weight < 0:
    raise ValueError(
        f"share is {share}, overlap {overlap} and overlap_weight"
        f" {overlap_weight}; expected a share in (0, 1) and no negative number."
    )
  module = _reconstruction.Autoencoder(
      net, width=decoder_width, mix=True, axis_name=axis_name
  )

  def views(key, batch):
    image_key, hole_key = jax.random.split(key)
    images = _views.one(image_key, batch, augment)
    draw = functools.partial(_HOLES[hole], size=images.shape[1], share=share)
    hidden = jax.vmap(draw)(image_keys(hole_key, batch))
    seen = jnp.where(hidden[..., None], _FILL, images)
    return _one_net.Task(seen, Target(images, hidden))

  def criterion(prediction, task):
    images, hidden = task.target
    target = normalize_images(images)
    seen = jnp.broadcast_to(~hidden[..., None], images.shape)
    color = jnp.mean(target, axis=(1, 2), keepdims=True, where=seen)
    color = jnp.broadcast_to(color, images.shape)
    weights = hidden + overlap_weight * _rim(hidden, overlap)
    error = lambda x, mask: jnp.mean(
        jax.vmap(losses.masked_mse)(x, target, mask)
    )
    return error(prediction, weights), {
        "chance_loss": error(color, weights),
        "hidden_error": error(prediction, hidden),
        "hidden_chance": error(color, hidden),
    }

  def pictures(prediction, task):
    images, hidden = task.target
    painted = denormalize_images(prediction)
    return Pictures(
        task.inputs, jnp.where(hidden[..., None], painted, images), images
    )

  return _one_net.make(
      module, views, criterion, pictures=pictures, axis_name=axis_name
  )


def _rim(hidden, width):
  """The visible pixels within `width` of the hole, `[B, H, W]`."""
  window = (2 * width + 1, 2 * width + 1)
  near = nn.max_pool(
      hidden[..., None].astype(jnp.float32), window, padding="SAME"
  )[..., 0]
  return near * ~hidden
