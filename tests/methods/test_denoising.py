"""Denoising autoencoder."""

import functools

import jax
import numpy as np
import pytest

from jssl.method import Keys
from jssl.methods import _one_net
from jssl.methods.denoising import denoising
import painting_case
import tiny

KEY = jax.random.key(0)
KEYS = Keys(jax.random.key(1), jax.random.key(2))
SIDE = 16
_images = functools.partial(painting_case.images, side=SIDE)


def _method(net=tiny.Net(), **arguments):
  small = dict(augment=tiny.plain, decoder_width=16)
  return denoising(net, **small | arguments)


@functools.cache
def _views(noise):
  return jax.jit(_method(noise=noise).views)


@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_the_net_sees_the_image_and_gaussian_noise(noise):
  images = _images(16)
  task = _views(noise)(KEY, {"image": images})
  np.testing.assert_array_equal(task.target, images)
  drawn = (np.asarray(task.inputs) - images) / noise
  count = drawn.size  # Five deviations of the mean and of the variance.
  assert abs(drawn.mean()) < 5 / np.sqrt(count)
  assert abs(drawn.var() - 1) < 5 * np.sqrt(2 / count)
  # Of a uniform distribution 0.58 lie within a deviation.
  assert np.mean(np.abs(drawn) < 1) == pytest.approx(0.683, abs=0.02)
  # Every pixel, channel and image has its own.
  flat = drawn.reshape(16, -1, 3)
  pairs = np.concatenate(
      [np.corrcoef(flat[..., 0])[0, 1:], np.corrcoef(flat[0].T)[0, 1:]]
  )
  assert np.all(np.abs(pairs) < 5 / np.sqrt(SIDE * SIDE))


def test_noise_differs_from_step_to_step_and_by_place_in_the_batch():
  images = _images(4)
  task = _views(0.1)(KEY, {"image": images})
  other = _views(0.1)(jax.random.key(1), {"image": images})
  assert np.all(np.std(task.inputs - other.inputs, axis=(1, 2, 3)) > 0.1)
  position = np.array([2, 3])
  half = _method(noise=0.1).views(
      KEY, {"image": images[2:], "position": position}
  )
  np.testing.assert_allclose(half.inputs, task.inputs[2:], atol=1e-6)


def test_the_loss_is_the_error_of_all_pixels_in_quarters(monkeypatch):
  criterion = painting_case.criterion(monkeypatch, _method)
  images, noisy, prediction = (_images(2, seed) for seed in range(3))
  value, metrics = jax.jit(criterion)(
      4 * prediction - 2, _one_net.Task(noisy, images)
  )
  expected = 16 * np.mean(np.square(prediction - images))
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  expected = 16 * np.mean(np.square(noisy - images))
  np.testing.assert_allclose(metrics["chance_loss"], expected, rtol=1e-5)


def test_chance_is_the_noise():
  task = _views(0.5)(KEY, {"image": _images(16)})
  method = _method()
  params, carried = jax.jit(method.init)(KEY, task)
  _, aux = jax.jit(method.loss)(params, carried, task, KEYS, 0)
  # 0.5 is two quarters; squared, up to five deviations.
  assert aux.metrics["chance_loss"] == pytest.approx(4.0, rel=0.07)
  pictures = jax.jit(method.pictures)(params, carried, task)
  np.testing.assert_array_equal(pictures.original, task.target)
  np.testing.assert_array_equal(pictures.seen, np.clip(task.inputs, 0, 1))
  assert pictures.output.min() >= 0 and pictures.output.max() <= 1
  assert np.std(pictures.output) > 0.01


def test_without_noise_the_net_sees_what_it_paints():
  task = _method(noise=0.0).views(KEY, {"image": _images(2)})
  np.testing.assert_array_equal(task.inputs, task.target)


@pytest.mark.slow
def test_it_cleans_digits_that_it_has_not_seen():
  method = _method(tiny.resnet())
  params, carried, views = painting_case.train_on_digits(method)
  value, aux = jax.jit(method.loss)(params, carried, views, KEYS, 0)
  # 0.10 of the noise were left.
  assert value < 0.25 * aux.metrics["chance_loss"]
  # With running statistics, and against the noise that is seen.
  seen, output, original = jax.jit(method.pictures)(params, carried, views)
  error = np.mean(np.square(output - original))
  assert error < 0.35 * np.mean(np.square(seen - original))  # 0.16.


def test_noise_below_zero_is_refused():
  with pytest.raises(ValueError, match="noise .* got -0.1"):
    _method(noise=-0.1)
