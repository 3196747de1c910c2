"""Colorization: soft bins, rebalancing, and what the net sees."""

import functools
import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import augment, data, nets, optim
from jssl.method import Keys
from jssl.methods import _one_net, _reconstruction, METHODS
from jssl.step import init_state, make_step
import tiny

# The package shows the constructor under the module's name.
color_file = importlib.import_module("jssl.methods.colorization")
BINS = augment.color_bins()
KEYS = Keys(jax.random.key(1), jax.random.key(2))


def _draw(key, shape):
  """Logits, colors, and frequencies of the bins."""
  one, two, three = jax.random.split(key, 3)
  logits = jax.random.normal(one, (*shape, len(BINS)))
  ab = 40 * jax.random.normal(two, (*shape, 2))
  return logits, ab, jax.random.dirichlet(three, jnp.ones(len(BINS)))


def _reference(logits, ab, prior, rebalance):
  """Equations 1 to 4 of the paper, a pixel at a time."""
  logits, ab, prior = (np.float64(x) for x in (logits, ab, prior))
  weight = 1 / ((1 - rebalance) * prior + rebalance / len(BINS))
  weight /= np.sum(prior * weight)
  costs = []
  frequencies, mass = np.zeros((2, len(BINS)))
  for z, color in zip(logits.reshape(-1, len(BINS)), ab.reshape(-1, 2)):
    distance = np.sqrt(np.sum((BINS - color) ** 2, axis=1))
    near = np.argsort(distance)[:5]
    share = np.exp(-distance[near] ** 2 / (2 * 5**2))
    share /= share.sum()
    log_p = z - np.log(np.sum(np.exp(z)))
    costs.append(-weight[near[0]] * np.sum(share * log_p[near]))
    frequencies[near] += share
    mass[near] += weight[near[0]] * share
  # The best answer that does not look at the image is the weighted frequency.
  best = np.log(np.maximum(mass / np.sum(mass), 1e-12))
  chance = -np.sum(mass * best) / len(costs)
  return np.mean(costs), chance, frequencies / len(costs)


@pytest.mark.parametrize("rebalance", [0.1, 0.5, 1.0])
def test_the_loss_is_that_of_the_paper(rebalance):
  logits, ab, prior = _draw(jax.random.key(0), (1, 2, 2))
  value, chance, found = color_file._classification(
      logits, ab, BINS, prior, rebalance, None
  )
  expected, best, frequencies = _reference(logits, ab, prior, rebalance)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_allclose(chance, best, rtol=1e-4)
  np.testing.assert_allclose(found, frequencies, atol=1e-6)
  np.testing.assert_allclose(np.sum(found), 1, rtol=1e-5)


@pytest.mark.parametrize("color", [(0.0, 0.0), (5.0, 5.0), (1.3, 0.4)])
def test_a_color_has_five_bins_even_if_more_are_as_near(color):
  logits, _, prior = _draw(jax.random.key(0), (1, 1, 1))
  ab = jnp.full((1, 1, 1, 2), jnp.asarray(color))
  _, _, found = color_file._classification(logits, ab, BINS, prior, 0.5, None)
  assert np.count_nonzero(found) == 5
  distance = np.linalg.norm(BINS - color, axis=1)
  assert distance[found > 0].max() <= np.sort(distance)[4] + 1e-4


def test_weights_are_one_on_average():
  # Of a prior that is what the image has, and an answer without a preference.
  _, ab, _ = _draw(jax.random.key(2), (1, 8, 8))
  nearest = np.argmin(
      np.sum(np.square(np.asarray(ab)[..., None, :] - BINS), axis=-1), axis=-1
  )
  prior = np.bincount(nearest.ravel(), minlength=len(BINS)) / 64
  logits = jnp.zeros((1, 8, 8, len(BINS)))
  for rebalance in (0.01, 0.5, 1.0):
    value, _, _ = color_file._classification(
        logits, ab, BINS, prior, rebalance, None
    )
    np.testing.assert_allclose(value, np.log(len(BINS)), rtol=1e-5)


def test_shards_see_the_frequencies_of_the_global_batch():
  logits, ab, prior = _draw(jax.random.key(1), (4, 2, 2))

  def run(logits, ab, axis_name):
    return color_file._classification(logits, ab, BINS, prior, 0.5, axis_name)

  whole = run(logits, ab, None)
  split = jax.vmap(lambda *x: run(*x, "i"), axis_name="i")(
      *tiny.shards((logits, ab), 2)
  )
  np.testing.assert_allclose(np.mean(split[0]), whole[0], rtol=1e-5)
  assert abs(split[0][0] - whole[0]) > 1e-3  # Shards differ.
  for part, expected in zip(split[1:], whole[1:]):
    for device in part:
      np.testing.assert_allclose(device, expected, atol=1e-5)


@functools.cache
def _method(**arguments):
  return METHODS["colorization"](
      tiny.Net(), augment=tiny.recipe, stride=2, **arguments
  )


def _start(method):
  task = method.views(jax.random.key(0), {"image": tiny.images(4)})
  return task, *method.init(jax.random.key(3), task)


def test_the_prior_moves_by_its_momentum():
  method = _method(prior_momentum=0.75)
  task, params, carried = _start(method)
  np.testing.assert_allclose(carried.prior, 1 / len(BINS), rtol=1e-6)
  _, aux = jax.jit(method.loss)(params, carried, task, KEYS, 0)
  _, new = method.update(params, carried, aux.fresh, 0)
  zeros = jnp.zeros((*task.target.shape[:3], len(BINS)))
  _, _, found = _reference(zeros, task.target, np.asarray(carried.prior), 0.5)
  expected = 0.75 / len(BINS) + 0.25 * found
  np.testing.assert_allclose(new.prior, expected, atol=1e-6)


def test_the_target_is_the_mean_color_of_its_pixels():
  image = {"image": tiny.images(2)}
  plain = lambda key, image, *, extent=None: image
  for stride in (2, 4):
    method = METHODS["colorization"](tiny.Net(), augment=plain, stride=stride)
    task = jax.jit(method.views)(jax.random.key(0), image)
    side = 8 // stride
    lab = np.asarray(augment.rgb_to_lab(image["image"] / 255.0))
    cells = lab[..., 1:].reshape(2, side, stride, side, stride, 2)
    np.testing.assert_allclose(task.target, cells.mean((2, 4)), atol=1e-3)


def test_the_net_sees_lightness_only():
  method = _method()
  task, params, carried = _start(method)
  lab = np.asarray(augment.rgb_to_lab(tiny.images(4) / 255.0))
  lab = lab * [0.2, 0.1, 0.1] + [50, 0, 0]  # Colors that sRGB has.
  one, two = (augment.lab_to_rgb(lab * [1, sign, sign]) for sign in (1, -1))
  assert np.abs(one - two).max() > 0.05
  encode = jax.jit(method.encode)
  features = [encode(params, carried, x)["pooled"] for x in (one, two)]
  np.testing.assert_allclose(*features, atol=1e-4)
  darker = encode(params, carried, one * 0.7)["pooled"]
  assert np.abs(darker - features[0]).max() > 1e-2
  assert np.ptp(np.asarray(task.inputs), axis=-1).max() == 0


def _answering(answer, **arguments):
  """A method whose decoder gives the same answer to everything."""

  class Answer(_reconstruction.Autoencoder):

    @nn.compact
    def __call__(self, images, *, train=False):
      return answer

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(_reconstruction, "Autoencoder", Answer)
    return METHODS["colorization"](
        tiny.Net(), augment=tiny.recipe, stride=2, **arguments
    )


def test_a_certain_prediction_shows_its_color():
  index = int(np.flatnonzero((BINS == [30, 20]).all(axis=1))[0])
  answer = 50.0 * jnp.tile(jax.nn.one_hot(index, len(BINS)), (4, 4, 4, 1))
  gray = _one_net.Task(jnp.full((4, 8, 8, 3), 0.6), jnp.zeros((4, 4, 4, 2)))
  carried = color_file.Carried({}, None)
  _, output, original = _answering(answer).pictures({}, carried, gray)
  np.testing.assert_allclose(
      augment.rgb_to_lab(output), np.tile([60, 30, 20], (4, 8, 8, 1)), atol=0.1
  )
  np.testing.assert_allclose(np.ptp(original, axis=-1), 0, atol=1e-3)


@pytest.mark.parametrize("temperature,share", [(1.0, 0.6), (0.5, 36 / 52)])
def test_a_temperature_sharpens_the_shown_colors(temperature, share):
  # Two colors, 3 to 2.
  first, second = np.float32([[30, 20], [-10, 0]])
  p = [0.6 * np.all(x == first) + 0.4 * np.all(x == second) for x in BINS]
  answer = jnp.log(jnp.tile(jnp.array(p) + 1e-30, (4, 4, 4, 1)))
  ab = share * first + (1 - share) * second
  other = jnp.tile(ab + np.float32([3, 4]), (4, 4, 4, 1))
  task = _one_net.Task(jnp.full((4, 8, 8, 3), 0.6), other)
  method = _answering(answer, decode_temperature=temperature)
  carried = color_file.Carried({}, jnp.full(len(BINS), 1 / len(BINS)))
  output = method.pictures({}, carried, task).output
  expected = np.tile([60, *ab], (4, 8, 8, 1))
  np.testing.assert_allclose(augment.rgb_to_lab(output), expected, atol=0.1)
  _, aux = method.loss({}, carried, task, KEYS, 0)
  np.testing.assert_allclose(aux.metrics["color_error"], 5, rtol=1e-4)


def test_regression_is_compared_with_gray():
  task, _, _ = _start(_method())
  answer = 0.5 * task.target / 50.0  # Half of the color.
  method = _answering(answer, loss="regression")
  carried = color_file.Carried({}, None)
  value, aux = method.loss({}, carried, task, KEYS, 0)
  metrics = aux.metrics
  np.testing.assert_allclose(value, metrics["chance_loss"] / 4, rtol=1e-5)
  np.testing.assert_allclose(
      metrics["color_error"], metrics["gray_error"] / 2, rtol=1e-5
  )
  expected = np.mean((np.asarray(task.target) / 50) ** 2)
  np.testing.assert_allclose(metrics["chance_loss"], expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["classification", "regression"])
def test_it_learns_the_colors_of_photographs(loss, tmp_path):
  photos = {
      split: data.load("photos", split, data_dir=tmp_path).image
      for split in ("train", "test")
  }
  method = METHODS["colorization"](
      nets.ResNet((1, 1, 1), width=8, stem="cifar"),
      augment=lambda key, image, *, extent=None: image,
      loss=loss,
  )
  optimizer = optim.adamw(1e-2, weight_decay=1e-4)
  draw = lambda step: {"image": photos["train"][step % 26 :: 26]}
  start = jax.jit(functools.partial(init_state, method, optimizer))
  state = start(jax.random.key(0), draw(0))
  step = jax.jit(make_step(method, optimizer))
  for i in range(104):
    state, _ = step(state, draw(i))
  task = method.views(jax.random.key(5), {"image": photos["test"][:64]})
  value, aux = jax.jit(method.loss)(
      state.params, state.carried, task, KEYS, state.step
  )
  # Held-out strips of the same photographs. Of the trivial answer's loss 0.81
  # was reached by classes and 0.47 by regression, of gray's error 0.59, 0.72.
  assert value < 0.9 * aux.metrics["chance_loss"]
  assert aux.metrics["color_error"] < 0.85 * aux.metrics["gray_error"]


def test_wrong_settings_are_named():
  make = functools.partial(METHODS["colorization"], tiny.Net())
  for wrong in (
      dict(loss="l2"),
      dict(rebalance=0.0),
      dict(prior_momentum=1.5),
      dict(decode_temperature=-1.0),
  ):
    with pytest.raises(ValueError, match=str(*wrong.values())):
      make(**wrong)
  gray = {"image": tiny.images(4)[..., :1]}
  with pytest.raises(ValueError, match="3 channels .* 1\\).* photos"):
    _method().views(jax.random.key(0), gray)
