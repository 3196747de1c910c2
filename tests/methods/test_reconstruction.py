"""What generative methods share."""

import flax.linen as nn
import jax
import numpy as np

from jssl.methods._reconstruction import Autoencoder


class _Stages(nn.Module):
  """Maps of a second and a tenth stage, the first scaled."""

  scale: float

  @nn.compact
  def __call__(self, images, *, train=False):
    del train
    early, last = self.scale * images[:, ::2, ::2], images[:, ::4, ::4]
    return {"stage_2": early, "stage_10": last, "pooled": last[:, 0, 0]}


def test_a_painter_decodes_the_last_stage_and_no_other():
  random = np.random.default_rng(0)
  images = np.float32(random.uniform(size=(2, 8, 8, 3)))
  make = lambda scale: Autoencoder(_Stages(scale), width=8)
  variables = make(1.0).init(jax.random.key(0), images)
  paint = lambda scale, x: make(scale).apply(variables, x)
  expected = paint(1.0, images)
  assert expected.shape == images.shape
  np.testing.assert_array_equal(paint(5.0, images), expected)
  assert np.max(np.abs(paint(1.0, images[::-1]) - expected)) > 1e-3
