"""Inpainting."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.method import Keys
from jssl.methods import _one_net
from jssl.methods.inpainting import inpainting, Target
import painting_case
import tiny

KEY = jax.random.key(0)
KEYS = Keys(jax.random.key(1), jax.random.key(2))
HOLES = ("center", "squares", "region")
SIDE = 16
_images = functools.partial(painting_case.images, side=SIDE)

each_hole = pytest.mark.parametrize("hole", HOLES)


def _method(net=tiny.Net(), **arguments):
  small = dict(augment=tiny.plain, decoder_width=16)
  return inpainting(net, **small | arguments)


@functools.cache
def _views(hole):
  return jax.jit(_method(hole=hole).views)


@each_hole
def test_what_the_hole_hides_does_not_reach_the_net(hole):
  images, others = _images(6), _images(6, seed=1)
  task = _views(hole)(KEY, {"image": images})
  hidden = np.asarray(task.target.hidden)[..., None]
  changed = np.where(hidden, others, images)
  other = _views(hole)(KEY, {"image": changed})
  np.testing.assert_array_equal(other.inputs, task.inputs)
  np.testing.assert_array_equal(other.target.images, changed)
  # What is outside does.
  np.testing.assert_array_equal(task.inputs, np.where(hidden, 0.5, images))


def test_holes_are_of_their_kind():
  batch = {"image": _images(64)}
  center = np.asarray(_views("center")(KEY, batch).target.hidden)
  expected = np.zeros((SIDE, SIDE), bool)
  expected[4:12, 4:12] = True
  np.testing.assert_array_equal(center, np.tile(expected, (64, 1, 1)))
  for hole in ("squares", "region"):
    hidden = np.asarray(_views(hole)(KEY, batch).target.hidden)
    share = hidden.mean(axis=(1, 2))
    if hole == "region":
      np.testing.assert_array_equal(share, 0.25)
    else:
      assert np.all(share > 0) and np.all(share <= 0.25)
      assert np.std(share) > 0.02
    # A hole of its own for each image, and anew for each step.
    assert len(np.unique(hidden, axis=0)) > 60
    other = _views(hole)(jax.random.key(1), batch).target.hidden
    assert not np.array_equal(hidden, other)


def _slow(prediction, target, hidden, overlap, weight):
  """Loss and chance of one image, pixel by pixel, in quarters."""
  target = 4 * np.float64(target) - 2
  color = target[~hidden].mean(axis=0)
  total, loss, chance = 0.0, 0.0, 0.0
  holes = np.argwhere(hidden)
  for place in np.ndindex(hidden.shape):
    near = np.abs(holes - place).max(axis=1).min() <= overlap
    w = 1.0 if hidden[place] else weight * near
    total += w
    loss += w * np.mean((prediction[place] - target[place]) ** 2)
    chance += w * np.mean((color - target[place]) ** 2)
  return loss / total, chance / total


@pytest.mark.parametrize("overlap,weight", [(0, 10.0), (1, 10.0), (2, 0.5)])
def test_the_loss_is_of_the_hole_and_its_rim(overlap, weight, monkeypatch):
  task = _views("squares")(KEY, {"image": _images(3)})
  images, hidden = map(np.asarray, task.target)
  prediction = 4 * _images(3, seed=2) - 2
  make = functools.partial(_method, overlap=overlap, overlap_weight=weight)
  criterion = painting_case.criterion(monkeypatch, make)
  value, metrics = jax.jit(criterion)(prediction, task)
  # Images count alike, however large their holes are.
  assert len(set(hidden.sum(axis=(1, 2)))) > 1
  slow = lambda overlap: np.mean(
      [_slow(*x, overlap, weight) for x in zip(prediction, images, hidden)],
      axis=0,
  )
  actual = [value, metrics["chance_loss"]]
  np.testing.assert_allclose(actual, slow(overlap), rtol=1e-5)
  actual = [metrics["hidden_error"], metrics["hidden_chance"]]
  np.testing.assert_allclose(actual, slow(0), rtol=1e-5)


@pytest.mark.parametrize("overlap", [0, 3])
def test_gradient_comes_from_the_hole_and_its_rim_alone(overlap, monkeypatch):
  hidden = np.zeros((1, SIDE, SIDE), bool)
  hidden[0, 0:5, 7:10] = True  # At an edge.
  images = _images(1)
  task = _one_net.Task(images, Target(images, jnp.asarray(hidden)))
  make = functools.partial(_method, overlap=overlap)
  criterion = painting_case.criterion(monkeypatch, make)
  # Off by the same everywhere: what differs are the weights.
  loss = lambda shift: criterion(4 * images - 2 + shift, task)[0]
  gradient = jax.jit(jax.grad(loss))(np.ones_like(images))[0]
  expected = np.zeros((SIDE, SIDE, 1))
  expected[0 : 5 + overlap, 7 - overlap : 10 + overlap] = 10.0
  expected[0:5, 7:10] = 1.0
  expected = 2 * expected / (3 * expected.sum())
  np.testing.assert_allclose(
      gradient, np.broadcast_to(expected, gradient.shape), rtol=1e-4, atol=1e-8
  )


def test_pictures_keep_what_is_seen():
  method = _method(hole="region")
  task = _views("region")(KEY, {"image": _images(2)})
  params, carried = jax.jit(method.init)(KEY, task)
  seen, output, original = jax.jit(method.pictures)(params, carried, task)
  hidden = np.asarray(task.target.hidden)
  np.testing.assert_array_equal(original, task.target.images)
  np.testing.assert_array_equal(seen, task.inputs)
  output = np.asarray(output)
  np.testing.assert_array_equal(output[~hidden], original[~hidden])
  assert np.std(output[hidden]) > 0.01
  assert output.min() >= 0 and output.max() <= 1
  # At the start it paints something like gray.
  assert np.mean(np.abs(output[hidden] - 0.5)) < 0.25


@pytest.mark.slow
def test_it_paints_digits_that_it_has_not_seen():
  method = _method(tiny.resnet())
  params, carried, views = painting_case.train_on_digits(method)
  _, aux = jax.jit(method.loss)(params, carried, views, KEYS, 0)
  # 0.20 of what the mean color gets were reached.
  assert aux.metrics["hidden_error"] < 0.4 * aux.metrics["hidden_chance"]
  # With running statistics too.
  pictures = jax.jit(method.pictures)(params, carried, views)
  hidden = np.asarray(views.target.hidden)
  error = 16 * np.square(pictures.output - pictures.original)[hidden].mean()
  assert error < 0.4 * aux.metrics["hidden_chance"]


@pytest.mark.parametrize(
    "arguments,message",
    [
        (dict(hole="round"), "hole is 'round'; expected one of .*'region'"),
        (dict(share=0.0), r"share is 0.0, .*\(0, 1\)"),
        (dict(share=1.0), r"share is 1.0, .*\(0, 1\)"),
        (dict(overlap=-1), "overlap -1 "),
        (dict(overlap_weight=-0.5), "overlap_weight -0.5"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    _method(**arguments)


@pytest.mark.parametrize(
    "hole,share,message",
    [
        ("center", 0.0005, "0.0005 of .* 16 x 16 .* of 0 pixels"),
        ("squares", 0.01, "4 holes in 0.01 of .* 16 x 16"),
        ("region", 0.0005, "0.0005 of .* 16 x 16 has 0 pixels"),
    ],
)
def test_images_too_small_for_the_hole_are_refused(hole, share, message):
  with pytest.raises(ValueError, match=message):
    _method(hole=hole, share=share).views(KEY, {"image": _images(2)})


def test_images_too_small_for_the_decoder_are_refused():
  # Features of 5 x 5 cannot be doubled to 10 x 10 and then some.
  batch = {"image": np.zeros((2, 9, 9, 3), np.uint8)}
  method = _method()
  views = jax.eval_shape(method.views, KEY, batch)
  with pytest.raises(ValueError, match="of 5 x 5 .* image of 9 x 9"):
    jax.eval_shape(method.init, KEY, views)


def test_defaults_are_those_of_the_paper():
  expected = dict(hole="region", share=0.25, overlap_weight=10.0)
  assert expected.items() <= inpainting.__kwdefaults__.items()
