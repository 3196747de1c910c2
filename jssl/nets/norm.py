"""Normalisation: of images, and of batches over groups of the global batch."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jssl import parallel


class BatchNorm(nn.Module):
  """Batch normalisation with separate statistics for groups of the batch.

  The global batch, in the order of the devices, is cut into `groups` equal
  groups of consecutive images, and each is normalised by its own statistics, as
  if it were alone on a (virtual) device. The result does not depend on the
  number of devices that the batch is split over:

  * `groups=1`: one group, synchronised over the axis;
  * `groups=8`: what eight unsynchronised devices compute, on 1, 2, 4, 8 or 16;
  * `axis_name=None`: groups of the local batch, without communication.

  Several views of the images can share a batch: a call with `views=V` takes the
  rows of V views, one view after the other, and normalises each as if alone.

  Running statistics are EMAs of the mean of the groups' means and (biased)
  variances on this device; a method averages them over its devices.

  Attributes:
    groups: Number of groups in the global batch.
    axis_name: Axis that the batch is split over, or None.
    momentum: EMA decay of the running statistics.
    epsilon: Added to the variance.
    use_scale: Whether a trained scale follows.
    use_bias: Whether a trained shift follows.
    scale_init: Initialiser of that scale.
    dtype: Type of the result; statistics are always float32.

  Reference:
    Ioffe and Szegedy, Batch Normalization, 2015; groups as the virtual devices
    of He et al., Momentum Contrast, 2020, section 3.3 (shuffling BN).

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jssl import nets
    >>> x = jnp.array([[0.0], [2.0], [10.0], [12.0]])
    >>> norm = nets.BatchNorm(groups=2)  # Two images, and two.
    >>> variables = norm.init(jax.random.key(0), x, train=False)
    >>> y, new = norm.apply(variables, x, train=True, mutable="batch_stats")
    >>> y[:, 0].round(3).tolist()
    [-1.0, 1.0, -1.0, 1.0]
    >>> round(float(new["batch_stats"]["mean"][0]), 3)  # A tenth of the way.
    0.6
  """

  groups: int = 1
  axis_name: str | None = None
  momentum: float = 0.9
  epsilon: float = 1e-5
  use_scale: bool = True
  use_bias: bool = True
  scale_init: Callable[..., jax.Array] = nn.initializers.ones
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, views: int = 1) -> jax.Array:
    """Normalises over all but the last dimension.

    Args:
      x: `[V * B, ..., C]`, this device's part of the batch, view after view.
      train: Whether to use the statistics of the batch and update the running
        ones (collection "batch_stats"), or to use the running ones.
      views: Number of views V that are normalised separately.

    Returns:
      `[V * B, ..., C]`, of type `dtype`.

    Raises:
      ValueError: In training, if `groups` is below 1, groups and devices do not
        divide each other, the batch does not divide into its groups, or a group
        has a single value per channel, which would become a constant.
    """
    features = x.shape[-1]
    scale, bias = jnp.float32(1.0), jnp.float32(0.0)
    if self.use_scale:
      scale = self.param("scale", self.scale_init, (features,), jnp.float32)
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, (features,), jnp.float32)
    running = {
        name: self.variable("batch_stats", name, init, (features,), jnp.float32)
        for name, init in (("mean", jnp.zeros), ("var", jnp.ones))
    }
    if train and not self.is_initializing():
      mean, var = self._statistics(x, views, running["mean"].value)
      for name, value in (("mean", mean), ("var", var)):
        old = running[name].value
        new = jax.lax.stop_gradient(jnp.mean(value, axis=0))
        running[name].value = self.momentum * old + (1 - self.momentum) * new
    else:
      mean, var = running["mean"].value[None], running["var"].value[None]
    grouped = _grouped(x.astype(jnp.float32), mean.shape[0])
    each = lambda v: v.reshape(-1, *[1] * (x.ndim - 1), features)
    # One multiplication and one addition per element, in float32.
    weight = scale * jax.lax.rsqrt(var + self.epsilon)
    y = grouped * each(weight) + each(bias - mean * weight)
    return y.reshape(x.shape).astype(self.dtype)

  def _statistics(self, x, views, running_mean):
    """Returns mean and variance of local groups, `[V * local groups, C]`."""
    if self.groups < 1:
      raise ValueError(
          f"groups is {self.groups}; expected at least 1, which is one group"
          " of the whole batch."
      )
    devices = parallel.axis_size(self.axis_name)
    here = max(self.groups // devices, 1)
    spread = max(devices // self.groups, 1)  # Devices that share a group.
    if here * devices != self.groups * spread:
      raise ValueError(
          f"{self.groups} BatchNorm groups and {devices} devices do not divide"
          " each other; choose a number of groups that is a multiple or a"
          " divisor of the number of devices."
      )
    if x.shape[0] % (views * here):
      raise ValueError(
          f"A batch of {x.shape[0] // views} images on a device is not"
          f" divisible into {here} BatchNorm groups; change the batch size or"
          " net.groups."
      )
    if x.size // (views * here * x.shape[-1]) * spread < 2:
      raise ValueError(
          "A BatchNorm group has a single image, of one value per channel,"
          " which would become a constant; give each of the"
          f" {self.groups} groups at least 2 images: raise the batch size, or"
          " lower net.groups."
      )
    mean, var = _moments(_grouped(x, views * here), running_mean)
    if spread == 1:
      return mean, var
    # Means are gathered, since sums of large values lose the variance.
    every = parallel.all_gather(
        jnp.stack([mean, var])[None], self.axis_name
    ).reshape(self.groups, spread, 2, *mean.shape)
    means, variances = jnp.moveaxis(
        every[parallel.axis_index(self.axis_name) // spread], 1, 0
    )
    return (
        jnp.mean(means, axis=0),
        jnp.mean(variances, axis=0) + jnp.var(means, axis=0),
    )


def _moments(x, running_mean):
  """Returns mean and variance of `[G, N, ..., C]` over all axes except G and C.

  In one pass over deviations from a value that is near the mean: the mean of
  squares minus the square of the mean loses a variance that is small relative
  to them. In float32 it is the mean of the first image. In half precision it is
  the running mean, which is known before `x` is, so that a TPU can sum while it
  computes `x`. It may be far from the mean at first, but where that would lose
  the variance, the rounding of `x` has lost it already.
  """
  axes = tuple(range(1, x.ndim - 1))
  if x.dtype == jnp.float32:
    near = jnp.mean(x[:, :1], axes, keepdims=True)
  else:
    near = running_mean.reshape([1] * (x.ndim - 1) + [-1])
  near = jax.lax.stop_gradient(near)
  deviation = x.astype(jnp.float32) - near
  mean = jnp.mean(deviation, axes)
  square = jnp.mean(jnp.square(deviation), axes)
  var = jnp.maximum(square - jnp.square(mean), 0.0)
  return near.reshape(-1, x.shape[-1]) + mean, var


def _grouped(x, count):
  """From `[B, ..., C]` to `[count, B / count, ..., C]`.

  Height and width are not merged: on CPU the gradient of a sum over merged
  dimensions takes several times as long (JAX 0.10.2).
  """
  return x.reshape(count, -1, *x.shape[1:])


def normalize_images(
    images: jax.Array,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
) -> jax.Array:
  """Shifts and scales images by the statistics of their data set.

  Args:
    images: `[B, H, W, C]`.
    mean: Subtracted from the images: a number, or C of them.
    std: Divides the result: a number, or C of them.

  Returns:
    `[B, H, W, C]`.

  Raises:
    ValueError: If the number of statistics is not that of channels, or images
      are integers.
  """
  if jnp.issubdtype(images.dtype, jnp.integer):
    raise ValueError(
        f"The images are {images.dtype}; expected floats in [0, 1]: divide them"
        " by 255."
    )
  channels = images.shape[-1]
  for name, value in (("mean", mean), ("std", std)):
    count = np.size(value)
    if count not in (1, channels):
      raise ValueError(
          f"{name} has {count} numbers, {value}, but the images have"
          f" {channels} channel{'s' * (channels != 1)}; give one number, or one"
          f" per channel (config.net.{name})."
      )
  return (images - jnp.asarray(mean)) / jnp.asarray(std)


def denormalize_images(
    images: jax.Array,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
) -> jax.Array:
  """Inverts `normalize_images`, and clips to [0, 1]."""
  return jnp.clip(jnp.asarray(mean) + jnp.asarray(std) * images, 0.0, 1.0)
