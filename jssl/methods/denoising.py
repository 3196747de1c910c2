r"""Denoising autoencoder: remove noise from the image.

```mermaid
flowchart LR
  image --> x["view x"] --> noisy["x + Gaussian noise"]
  noisy --> f["encoder, mixing"] --> g["decoder"] --> loss["squared error"]
  x -.->|"target"| loss
```

$$
\mathcal{L}(x) = \frac{1}{n} \lVert \bar{x} - g(f(\tilde{x})) \rVert_2^2
\qquad
\tilde{x} \sim \mathcal{N}(x, \sigma^2 I)
$$

$x$ is the view in $[0, 1]$, of $n$ values. $\bar{x} = (x - 0.5) / 0.25$ is what
the decoder predicts. $\tilde{x}$ is the noisy view. $f$ is the encoder and $g$
the decoder. $\sigma$ is the noise's standard deviation. The loss is the mean
over images.

Reference:
  Vincent et al., Stacked Denoising Autoencoders, 2010.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl import losses
from jssl.augment import checks, image_keys
from jssl.method import Method, Pictures
from jssl.methods import _one_net, _reconstruction, _views
from jssl.nets.norm import denormalize_images, normalize_images


def denoising(
    net: nn.Module,
    *,
    augment: _views.Recipe = _views.CROP_AND_FLIP,
    noise: float = 0.25,
    decoder_width: int = 64,
    axis_name: str | None = None,
) -> Method:
  """Makes a denoising autoencoder over a backbone.

  The bottleneck of the context encoder is between net and decoder (see
  `nets.ConvDecoder.mix`): without it, features hardly combine distant pixels.

  Args:
    noise: Standard deviation of the Gaussian noise, of images in [0, 1].
    decoder_width: See `nets.ConvDecoder`.
    net, augment, axis_name: See `jssl.methods`.

  Returns:
    The method. Its loss is the squared error of images scaled to [-2, 2]; the
    metric "chance_loss" is the loss of the noisy image itself.

  Raises:
    ValueError: If the noise is negative.
  """
  checks.check_limit("noise", noise)
  module = _reconstruction.Autoencoder(
      net, width=decoder_width, mix=True, axis_name=axis_name
  )

  def views(key, batch):
    image_key, noise_key = jax.random.split(key)
    images = _views.one(image_key, batch, augment)
    keys = image_keys(noise_key, batch)
    drawn = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)
    return _one_net.Task(images + noise * drawn, images)

  def criterion(prediction, task):
    everything = jnp.ones(task.target.shape[:3])
    target, noisy = map(normalize_images, (task.target, task.inputs))
    error = lambda x: losses.masked_mse(x, target, everything)
    return error(prediction), {"chance_loss": error(noisy)}

  def pictures(prediction, task):
    return Pictures(
        jnp.clip(task.inputs, 0.0, 1.0),
        denormalize_images(prediction),
        task.target,
    )

  return _one_net.make(
      module, views, criterion, pictures=pictures, axis_name=axis_name
  )
