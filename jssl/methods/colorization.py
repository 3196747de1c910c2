r"""Colorization: predict the colors of a gray image.

```mermaid
flowchart LR
  image --> lab["Lab view"]
  lab -->|"L"| f["encoder, decoder"] -->|"prediction"| loss["cross-entropy"]
  lab -.->|"a, b"| bins["nearest color bins"] -.->|"Z"| loss
  bins -.->|"running mean"| prior["frequencies of bins"] -.->|"weights v"| loss
```

$$
\mathcal{L}_{cl} = -\frac{1}{H W} \sum_{h,w} v(Z_{h,w})
\sum_{q=1}^{Q} Z_{h,w,q} \log \hat{Z}_{h,w,q}
$$

$$
v(Z_{h,w}) = w_{q^\star(h,w)}
\qquad
w_q \propto \left( (1 - \lambda) \tilde{p}_q + \frac{\lambda}{Q} \right)^{-1}
\qquad
\sum_q \tilde{p}_q w_q = 1
$$

$Z_{h,w}$ is the true color at a position of the $H \times W$ output: weights of
the 5 nearest of $Q$ bins of the ab plane, by a Gaussian of their distance.
$\hat{Z}_{h,w}$ is the prediction, a softmax over bins. $q^\star$ is the nearest
bin. $\tilde{p}$ are running frequencies of the bins. $\lambda$ is the weight of
the uniform distribution. The loss is the mean over images. The loss of a
regression is the mean squared error of $(a, b) / 50$ instead.

Reference:
  Zhang et al., Colorful Image Colorization, 2016.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jssl import losses, parallel
from jssl.augment.lab import color_bins, lab_to_rgb, rgb_to_lab
from jssl.losses import checks
from jssl.method import Aux, Method, Pictures
from jssl.methods import _branch, _one_net, _reconstruction, _views

_LOSSES = ("classification", "regression")
_NEAREST = 5  # Bins that a color is distributed over,
_SIGMA = 5.0  # by a Gaussian of their distance in the ab plane.
_RANGE = 50.0  # Scale of a and b in the regression.


class Carried(NamedTuple):
  """The state that colorization carries from step to step.

  Attributes:
    batch_stats: Running statistics of net and decoder.
    prior: Running frequencies of the color bins, `[Q]`; None for regression.
  """

  batch_stats: Any
  prior: jax.Array | None


def colorization(
    net: nn.Module,
    *,
    augment: _views.Recipe = _views.CROP_AND_FLIP,
    loss: str = "classification",
    bin_size: int = 10,
    stride: int = 4,
    rebalance: float = 0.5,
    prior_momentum: float = 0.99,
    decode_temperature: float = 0.38,
    decoder_width: int = 64,
    axis_name: str | None = None,
) -> Method:
  """Makes colorization over a backbone, in the Lab color space.

  The net sees the lightness only, repeated for three channels, in training and
  when it encodes. Rare colors get larger weights, by running frequencies of the
  colors of the training images.

  Args:
    loss: "classification" of the ab plane's bins, or "regression" of a and b.
    bin_size: Side of a bin; 10 in the paper.
    stride: Side of the image over that of the prediction; 4 in the paper.
    rebalance: Weight of the uniform distribution in the one that class weights
      are computed from, in (0, 1]: 0.5 in the paper, 1 for no rebalancing.
    prior_momentum: EMA decay of the color frequencies, in [0, 1].
    decode_temperature: Temperature of the annealed mean, above 0: 1 gives the
      mean of the predicted distribution, values towards 0 its mode.
    decoder_width: See `nets.ConvDecoder`.
    net, augment, axis_name: See `jssl.methods`.

  Returns:
    The method. Its metric "chance_loss" is the loss of the best prediction that
    ignores the image: the same distribution for all pixels, or gray. Metrics
    "color_error" and "gray_error" are the mean distances in the ab plane of the
    predicted colors, and of gray, from the true ones. `views` raises a
    ValueError for gray images.

  Raises:
    ValueError: If a setting is out of range.
  """
  if loss not in _LOSSES:
    raise ValueError(f"loss is {loss!r}; expected one of {_LOSSES}.")
  checks.check_temperature(decode_temperature, name="decode_temperature")
  if not 0 < rebalance <= 1 or not 0 <= prior_momentum <= 1:
    raise ValueError(
        f"rebalance is {rebalance} and prior_momentum {prior_momentum};"
        " expected values in (0, 1] and [0, 1]."
    )
  bins = color_bins(step=bin_size) if loss == "classification" else None
  module = _reconstruction.Autoencoder(
      net,
      channels=2 if bins is None else len(bins),
      stride=stride,
      width=decoder_width,
      axis_name=axis_name,
  )

  def views(key, batch):
    images = _views.one(key, batch, augment)
    lab = rgb_to_lab(images)
    window = (stride, stride)
    return _one_net.Task(
        _gray(lab), nn.avg_pool(lab[..., 1:], window, strides=window)
    )

  def init(key, task):
    params, batch_stats = _branch.init(key, module, task.inputs)
    if bins is None:
      return params, Carried(batch_stats, None)
    uniform = jnp.full(len(bins), 1 / len(bins), jnp.float32)
    return params, Carried(batch_stats, uniform)

  def loss_of(params, carried, task, keys, step):
    del step
    carried = jax.lax.stop_gradient(carried)
    output, batch_stats = _branch.forward(
        module, params, carried.batch_stats, task.inputs, keys.local
    )
    if bins is None:
      value, chance = _regression(output, task.target)
      prior = None
    else:
      value, chance, found = _classification(
          output, task.target, bins, carried.prior, rebalance, axis_name
      )
      prior = prior_momentum * carried.prior + (1 - prior_momentum) * found
    predicted = colors(jax.lax.stop_gradient(output))
    distance = lambda ab: jnp.mean(jnp.linalg.norm(ab - task.target, axis=-1))
    metrics = {
        "chance_loss": chance,
        "color_error": distance(predicted),
        "gray_error": distance(jnp.zeros_like(predicted)),
    }
    fresh = Carried(parallel.pmean(batch_stats, axis_name), prior)
    return value, Aux(fresh, metrics)

  def update(params, carried, fresh, step):
    del carried, step
    return params, fresh

  def encode(params, carried, images):
    gray = _gray(rgb_to_lab(images))
    return _branch.encoder(net)(params, carried, gray)

  def colors(output):
    """Decodes an output to a and b, `[B, h, w, 2]`."""
    if bins is None:
      return _RANGE * output
    p = jax.nn.softmax(output / decode_temperature, axis=-1)  # Equation 5.
    return jnp.matmul(p, bins, precision=jax.lax.Precision.HIGHEST)

  def pictures(params, carried, task):
    variables = {"params": params, "batch_stats": carried.batch_stats}
    predicted = colors(module.apply(variables, task.inputs))
    lightness = 100.0 * task.inputs[..., :1]

    def image(ab):
      ab = jax.image.resize(ab, (*lightness.shape[:3], 2), "bilinear")
      return lab_to_rgb(jnp.concatenate([lightness, ab], axis=-1))

    return Pictures(task.inputs, image(predicted), image(task.target))

  return Method(
      views, init, loss_of, update, encode, pictures, needs=frozenset({"color"})
  )


def _gray(lab):
  """Lightness in [0, 1], repeated: `[B, H, W, 3]`."""
  return jnp.repeat(lab[..., :1] / 100.0, 3, axis=-1)


def _regression(output, ab):
  """Returns the loss, and the loss of gray."""
  everything = jnp.ones(ab.shape[:3])
  error = lambda x: losses.masked_mse(x, ab / _RANGE, everything)
  return error(output), error(jnp.zeros_like(output))


def _classification(logits, ab, bins, prior, rebalance, axis_name):
  """Returns the loss, the chance loss and the frequencies of the bins."""
  near = -jnp.sum(jnp.square(ab[..., None, :] - bins), axis=-1)
  # Not `top_k`: XLA's CPU backend may sort all bins, ten times slower. Dense
  # weights, since the gradient of a gather would be a slow scatter.
  left = order = near - 1e-4 * np.arange(len(bins), dtype=np.float32)  # Ties.
  for _ in range(_NEAREST):
    last = jnp.max(left, axis=-1, keepdims=True)
    left = jnp.where(left < last, left, -jnp.inf)
  share = jnp.where(order >= last, near, -jnp.inf)
  share = jax.nn.softmax(share / (2 * _SIGMA**2), axis=-1)  # [B, h, w, Q]
  weight = 1 / ((1 - rebalance) * prior + rebalance / len(bins))
  weight /= jnp.sum(prior * weight)  # 1 on average (equation 4).
  weight = weight[jnp.argmax(near, axis=-1, keepdims=True)]
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
  value = -jnp.mean(jnp.sum(weight * share * log_p, axis=-1))
  mean = lambda x: parallel.pmean(jnp.mean(x, axis=(0, 1, 2)), axis_name)
  mass = mean(weight * share)
  best = jnp.log(jnp.maximum(mass / jnp.sum(mass), 1e-12))
  return value, -jnp.sum(mass * best), mean(share)
