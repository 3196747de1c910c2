r"""MAE: reconstruct the hidden patches from a quarter of them.

```mermaid
flowchart LR
  image --> x["patches of a view"]
  x -->|"visible, 25%"| f["encoder"] --> g["decoder, with mask tokens"]
  g -->|"hidden patches"| loss["squared error"]
  x -.->|"hidden, 75%"| n["standardise each patch"] -.->|"target"| loss
```

$$
\mathcal{L} = \frac{1}{|M|} \sum_{i \in M}
\frac{1}{n} \lVert \hat{x}_i - \bar{x}_i \rVert_2^2
\qquad
\bar{x}_i = \frac{x_i - \mathrm{mean}(x_i)}{\sqrt{\mathrm{var}(x_i) + 10^{-6}}}
$$

$M$ are the hidden patches of an image. $x_i$ are the $n$ values of a patch,
pixels times channels, of the mean and deviation per channel that the net
normalises images by. $\bar{x}_i$ is the same patch of mean 0 and variance 1, or
$x_i$ itself if not normalised. $\hat{x}_i$ is the prediction. The loss is the
mean over images. The paper states it in words.

Reference:
  He et al., Masked Autoencoders Are Scalable Vision Learners, 2022.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl import losses, masking
from jssl.augment import image_keys
from jssl.method import Method, Pictures
from jssl.methods import _one_net, _transformers, _views
from jssl.nets import TransformerDecoder
from jssl.nets.norm import denormalize_images
from jssl.nets.patches import grid_of, standardize, unpatchify


class Inputs(NamedTuple):
  """The inputs of the autoencoder.

  Attributes:
    images: `[B, H, W, C]` in [0, 1].
    split: Indices of the visible patches, `[B, V]`, and the hidden, `[B, M]`.
  """

  images: jax.Array
  split: masking.Split


class MaskedAutoencoder(nn.Module):
  """An encoder of the visible patches, and a decoder of the hidden ones.

  Attributes:
    net: A vision transformer.
    width: See `TransformerDecoder`.
    depth: See `TransformerDecoder`.
    heads: See `TransformerDecoder`.
  """

  net: Any
  width: int
  depth: int
  heads: int

  @nn.compact
  def __call__(self, inputs: Inputs, *, train: bool = False) -> jax.Array:
    """Predicts the hidden patches, float32 `[B, M, P * P * C]`."""
    images, (visible, hidden) = inputs
    encoded, grid = _transformers.encode_some(
        self.net, images, visible, train=train
    )
    decoder = TransformerDecoder(
        self.net.patch_size**2 * images.shape[-1],
        width=self.width,
        depth=self.depth,
        heads=self.heads,
        weight_init=self.net.weight_init,
        attention=self.net.attention,
        dtype=self.net.dtype,
        name="decoder",
    )
    return decoder(encoded, visible, hidden, grid, train=train)


def mae(
    net: nn.Module,
    *,
    augment: _views.Recipe = _views.CROP_AND_FLIP,
    mask_ratio: float = 0.75,
    normalize: bool = True,
    decoder_width: int = 512,
    decoder_depth: int = 8,
    decoder_heads: int = 16,
    axis_name: str | None = None,
) -> Method:
  """Makes a masked autoencoder over a vision transformer.

  Args:
    net: A `ViT` of `jssl.nets`.
    mask_ratio: Fraction of the patches that is hidden, in (0, 1).
    normalize: Whether the targets are standardised patches, which the paper
      found to give better features. In reconstructions a patch gets the
      brightness and contrast of visible patches near it, since its own are
      unknown.
    decoder_width: Width of the decoder's tokens.
    decoder_depth: Number of its blocks.
    decoder_heads: Number of its attention heads.
    augment, axis_name: See `jssl.methods`.

  Returns:
    The method. Its loss is the squared error of hidden patches, of pixels as
    the net normalises them; the metric "chance_loss" is the loss of predicting
    the mean color of the visible patches, or 0 if patches are normalised.

  Raises:
    ValueError: If the net is not a transformer, or the ratio out of range.
  """
  _transformers.check(net, "mae", partial=True)
  masking.hidden_count(10**6, mask_ratio)
  module = MaskedAutoencoder(net, decoder_width, decoder_depth, decoder_heads)

  def views(key, batch):
    image_key, mask_key = jax.random.split(key)
    images = _views.one(image_key, batch, augment)
    rows, columns = grid_of(*images.shape[1:3], net.patch_size)
    total = rows * columns
    hidden = masking.hidden_count(total, mask_ratio)
    split = jax.vmap(lambda key: masking.random_split(key, total, hidden))(
        image_keys(mask_key, batch)
    )
    return _one_net.Task(Inputs(images, split))

  def take(patches, index):
    return jnp.take_along_axis(patches, index[..., None], axis=1)

  def criterion(prediction, task):
    images, split = task.inputs
    # Normalised per channel first, as in the authors' code: the mean and
    # deviation of a patch are over all its channels.
    patches = _transformers.pixels_of(net, images)
    target = take(patches, split.hidden)
    if normalize:
      target = standardize(target)
      guess = jnp.zeros_like(target)
    else:
      visible = take(patches, split.visible).reshape(
          len(images), -1, images.shape[-1]
      )
      color = jnp.mean(visible, axis=1)[:, None]  # [B, 1, C]
      guess = jnp.tile(color, (1, target.shape[1], net.patch_size**2))
    everything = jnp.ones(target.shape[:2])
    error = lambda x: losses.masked_mse(x, target, everything)
    return error(prediction), {"chance_loss": error(guess)}

  def pictures(prediction, task):
    images, split = task.inputs
    patches = _transformers.pixels_of(net, images)
    if normalize:
      visible = take(patches, split.visible)
      moments = jnp.stack([visible.mean(-1), visible.std(-1, ddof=1)], axis=-1)
      columns = images.shape[2] // net.patch_size
      moments = _average_near(moments, split, columns)
      mean, deviation = jnp.split(moments, 2, axis=-1)
      prediction = mean + deviation * prediction
    put = lambda x: unpatchify(
        jax.vmap(lambda all, i, new: all.at[i].set(new))(
            jnp.zeros_like(patches), split.hidden, x
        ),
        images.shape[1:],
    )
    is_hidden = put(jnp.ones_like(prediction)) > 0
    painted = denormalize_images(put(prediction), net.mean, net.std)
    return Pictures(
        jnp.where(is_hidden, 0.5, images),
        jnp.where(is_hidden, painted, images),
        images,
    )

  return _one_net.make(
      module,
      views,
      criterion,
      needs=frozenset({"patches"}),
      pictures=pictures,
      axis_name=axis_name,
  )


def _average_near(values, split, columns):
  """Averages values of visible patches `[B, V, K]` for hidden: `[B, M, K]`.

  Weights are a Gaussian of the distance, of variance 1/2.
  """
  place = lambda index: jnp.stack(jnp.divmod(index, columns), axis=-1)
  apart = place(split.hidden)[:, :, None] - place(split.visible)[:, None]
  distance = jnp.sum(jnp.square(apart), axis=-1).astype(jnp.float32)
  return jax.nn.softmax(-distance, axis=-1) @ values
