r"""SimMIM: predict the pixels of masked patches from the others.

```mermaid
flowchart LR
  image --> x["patches of a view"] --> m["token for masked ones"]
  m --> f["encoder"] --> g["linear layer"]
  g -->|"masked patches"| loss["absolute error"]
  x -.->|"target"| loss
```

$$
\mathcal{L} = \frac{1}{\Omega(x_M)} \lVert y_M - x_M \rVert_1
$$

$x_M$ are the pixels of the masked patches, normalised by the mean and deviation
per channel, as the net's images are. $y_M$ are the predictions of them.
$\Omega(x_M)$ is the number of values, pixels times channels. The loss is the
mean over images.

Reference:
  Xie et al., SimMIM: A Simple Framework for Masked Image Modeling, 2022.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl import losses, masking
from jssl.augment import image_keys
from jssl.method import Method, Pictures
from jssl.methods import _one_net, _transformers, _views
from jssl.nets import vit
from jssl.nets.norm import denormalize_images
from jssl.nets.patches import grid_of, unpatchify

# Uniform in +-1 / sqrt(fan in): PyTorch's default, as the authors' decoder has.
_DECODER_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Inputs(NamedTuple):
  """The inputs of the net.

  Attributes:
    images: `[B, H, W, C]` in [0, 1].
    hidden: Which patches are masked, bool `[B, h, w]`.
  """

  images: jax.Array
  hidden: jax.Array


class MaskedImageModel(nn.Module):
  """A transformer of all patches, with a mask token in place of hidden ones.

  Attributes:
    net: A vision transformer.
  """

  net: Any

  @nn.compact
  def __call__(self, inputs: Inputs, *, train: bool = False) -> jax.Array:
    """Predicts all patches, float32 `[B, T, P * P * C]`."""
    images, hidden = inputs
    tokens = self.net.project(images)
    grid, width = tokens.shape[1:3], tokens.shape[-1]
    init = vit.weight_init_of(self.net.weight_init).other
    # Two-dimensional, so that optimizers decay it.
    token = self.param("mask_token", init, (1, width)).astype(tokens.dtype)
    tokens = jnp.where(hidden[..., None], token, tokens)
    tokens = tokens + self.net.positions_of(grid)
    tokens = tokens.reshape(len(images), -1, width)
    last = self.net.blocks(tokens, grid=grid, train=train)[-1]
    dense = nn.Dense(
        self.net.patch_size**2 * images.shape[-1],
        dtype=self.net.dtype,
        kernel_init=_DECODER_INIT,
        name="decoder",
    )
    return dense(last[:, -tokens.shape[1] :]).astype(jnp.float32)


def simmim(
    net: nn.Module,
    *,
    augment: _views.Recipe = _views.CROP_AND_FLIP,
    mask_ratio: float = 0.6,
    mask_unit: int = 2,
    axis_name: str | None = None,
) -> Method:
  """Makes SimMIM over a vision transformer.

  Args:
    net: A `ViT` of `jssl.nets`.
    mask_ratio: Fraction of the squares that is masked, in (0, 1); their number
      is rounded up.
    mask_unit: Side of the squares in patches: 2 in the paper, which is 32
      pixels.
    augment, axis_name: See `jssl.methods`.

  Returns:
    The method. Its loss is the absolute error of masked pixels, as the net
    normalises them; the metric "chance_loss" is the loss of predicting the mean
    color of the other pixels.

  Raises:
    ValueError: If the net is not a transformer, or the ratio out of range.
  """
  _transformers.check(net, "simmim")
  masking.hidden_count(10**6, mask_ratio)

  def views(key, batch):
    image_key, mask_key = jax.random.split(key)
    images = _views.one(image_key, batch, augment)
    grid = grid_of(*images.shape[1:3], net.patch_size)
    hidden = jax.vmap(
        lambda key: masking.random_mask(
            key, grid, ratio=mask_ratio, unit=mask_unit
        )
    )(image_keys(mask_key, batch))
    return _one_net.Task(Inputs(images, hidden))

  def criterion(prediction, task):
    images, hidden = task.inputs
    target = _transformers.pixels_of(net, images)
    mask = hidden.reshape(target.shape[:2])
    pixels = target.reshape(*mask.shape, -1, images.shape[-1])
    color = jnp.mean(
        pixels, axis=(1, 2), keepdims=True, where=~mask[..., None, None]
    )
    color = jnp.broadcast_to(color, pixels.shape).reshape(target.shape)
    return losses.masked_l1(prediction, target, mask), {
        "chance_loss": losses.masked_l1(color, target, mask)
    }

  def pictures(prediction, task):
    images, hidden = task.inputs
    painted = unpatchify(prediction, images.shape[1:])
    painted = denormalize_images(painted, net.mean, net.std)
    size = net.patch_size
    mask = jnp.repeat(jnp.repeat(hidden, size, axis=1), size, axis=2)[..., None]
    return Pictures(
        jnp.where(mask, 0.5, images), jnp.where(mask, painted, images), images
    )

  return _one_net.make(
      MaskedImageModel(net),
      views,
      criterion,
      needs=frozenset({"patches"}),
      pictures=pictures,
      axis_name=axis_name,
  )
