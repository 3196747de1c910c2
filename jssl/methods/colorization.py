r"""Colorization: which colors had the gray image?

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

$Z_{h,w}$ is the true color at a place of the $H \times W$ output: shares of the
5 nearest of $Q$ bins of the ab plane, by a Gaussian of their distance.
$\hat{Z}_{h,w}$ is the prediction, a softmax over bins. $q^\star$ is the nearest
bin. $\tilde{p}$ are running frequencies of the bins. $\lambda$ is the share of
the uniform distribution. The loss is the mean over images. Regression has the
mean squared error of $(a, b) / 50$ in its place.

Reference:
  Zhang et al., Colorful Image Colorization, 2016.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jssl import augment as augmentation
from jssl import losses
from jssl import parallel
from jssl.augment import lab as color
from jssl.losses import checks
from jssl.method import Aux
from jssl.method import Method
from jssl.method import Pictures
from jssl.methods import branch as branches
from jssl.methods import crops
from jssl.methods import pretext
from jssl.methods import reconstruction

_LOSSES = ("classification", "regression")
_NEAREST = 5  # Bins that share a color,
_SIGMA = 5.0  # by a Gaussian of their distance in the ab plane.
_RANGE = 50.0  # The regression's unit of a and b.


class Carried(NamedTuple):
  """What colorization keeps.

  Attributes:
    batch_stats: Running statistics of net and decoder.
    prior: Running frequencies of the color bins, `[Q]`; None for regression.
  """

  batch_stats: Any
  prior: jax.Array | None


def colorization(
    net: nn.Module,
    *,
    augment: crops.Recipe = augmentation.keep_size(augmentation.crop_and_flip),
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

  The net sees lightness alone, three times over, in training and when it
  encodes. The frequencies of colors, which rare ones are weighed up by, are
  those of the images it is trained on, learnt as it goes.

  Args:
    net: A backbone of `jssl.nets`.
    augment: The recipe, `(key, image, *, extent) -> view`; by default a crop
      and a flip, at the size of the images.
    loss: "classification" of the ab plane's bins, or "regression" of a and b.
    bin_size: Side of a bin; 10 in the paper.
    stride: Side of the image over that of what is predicted; 4 in the paper.
    rebalance: Share of the uniform distribution in the one that classes are
      weighed by, in (0, 1]: 0.5 in the paper, 1 for no rebalancing.
    prior_momentum: Share of the frequencies that is kept at a step, in [0, 1].
    decode_temperature: Of the annealed mean, above 0: 1 is the mean of the
      predicted distribution, and towards 0 its mode.
    decoder_width: See `nets.ConvDecoder`.
    axis_name: Axis that the batch is split over, or None.

  Returns:
    The method. "chance_loss" is the loss of the best answer that does not look
    at the image: the same distribution for all pixels, or gray. Metrics
    "color_error" and "gray_error" are the mean distances in the ab plane of the
    colors that are shown, and of gray.

  Raises:
    ValueError: If a setting is out of range, or images have no colors.
  """
  if loss not in _LOSSES:
    raise ValueError(f"loss is {loss!r}; expected one of {_LOSSES}.")
  checks.check_temperature(decode_temperature, name="decode_temperature")
  if not 0 < rebalance <= 1 or not 0 <= prior_momentum <= 1:
    raise ValueError(
        f"rebalance is {rebalance} and prior_momentum {prior_momentum};"
        " expected values in (0, 1] and [0, 1]."
    )
  bins = color.color_bins(step=bin_size) if loss == "classification" else None
  module = reconstruction.Painter(
      net,
      channels=2 if bins is None else len(bins),
      stride=stride,
      width=decoder_width,
      axis_name=axis_name,
  )

  def views(key, batch):
    (images,) = augmentation.make_views(key, batch, (augment,))
    lab = color.rgb_to_lab(images)
    window = (stride, stride)
    return pretext.Task(
        _gray(lab), nn.avg_pool(lab[..., 1:], window, strides=window)
    )

  def init(key, task):
    params, batch_stats = branches.init(key, module, task.inputs)
    if bins is None:
      return params, Carried(batch_stats, None)
    uniform = jnp.full(len(bins), 1 / len(bins), jnp.float32)
    return params, Carried(batch_stats, uniform)

  def loss_of(params, carried, task, keys, step):
    del step
    carried = jax.lax.stop_gradient(carried)
    answer, batch_stats = branches.forward(
        module, params, carried.batch_stats, task.inputs, keys.local
    )
    if bins is None:
      value, chance = _regression(answer, task.target)
      prior = None
    else:
      value, chance, found = _classification(
          answer, task.target, bins, carried.prior, rebalance, axis_name
      )
      prior = prior_momentum * carried.prior + (1 - prior_momentum) * found
    shown = colors(jax.lax.stop_gradient(answer))
    metrics = {
        "chance_loss": chance,
        "color_error": jnp.mean(jnp.linalg.norm(shown - task.target, axis=-1)),
        "gray_error": jnp.mean(jnp.linalg.norm(task.target, axis=-1)),
    }
    fresh = Carried(parallel.pmean(batch_stats, axis_name), prior)
    return value, Aux(fresh, metrics)

  def update(params, carried, fresh, step):
    del carried, step
    return params, fresh

  def encode(params, carried, images):
    gray = _gray(color.rgb_to_lab(images))
    return branches.encoder(net)(params, carried, gray)

  def colors(answer):
    """The answer as a and b, `[B, h, w, 2]`."""
    if bins is None:
      return _RANGE * answer
    p = jax.nn.softmax(answer / decode_temperature, axis=-1)  # Equation 5.
    return jnp.matmul(p, bins, precision=jax.lax.Precision.HIGHEST)

  def pictures(params, carried, task):
    variables = {"params": params, "batch_stats": carried.batch_stats}
    painted = colors(module.apply(variables, task.inputs))
    lightness = 100.0 * task.inputs[..., :1]

    def image(ab):
      ab = jax.image.resize(ab, (*lightness.shape[:3], 2), "bilinear")
      return color.lab_to_rgb(jnp.concatenate([lightness, ab], axis=-1))

    return Pictures(
        task.inputs,
        image(painted),
        image(task.target),
    )

  return Method(
      views,
      init,
      loss_of,
      update,
      encode,
      pictures,
      needs=frozenset({"color"}),
  )


def _gray(lab):
  """Lightness in [0, 1], three times: `[B, H, W, 3]`."""
  return jnp.repeat(lab[..., :1] / 100.0, 3, axis=-1)


def _regression(answer, ab):
  """Returns the loss, and gray's."""
  everything = jnp.ones(ab.shape[:3])
  error = lambda x: losses.masked_mse(x, ab / _RANGE, everything)
  return error(answer), error(jnp.zeros_like(answer))


def _classification(logits, ab, bins, prior, rebalance, axis_name):
  """Returns the loss, chance's, and the frequencies of the bins."""
  near = -jnp.sum(jnp.square(ab[..., None, :] - bins), axis=-1)
  # Not `top_k`: XLA's CPU backend may sort all bins, ten times slower. And
  # dense, since the gradient of a gather of five would be a slow scatter.
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
