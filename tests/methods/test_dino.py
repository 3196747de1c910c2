"""DINO."""

import functools
import math

import flax.linen as nn
import jax
import numpy as np
import pytest

from jssl import losses, optim, parallel
from jssl.method import Keys
from jssl.methods import METHODS
from jssl.nets import ViT
from jssl.step import init_state, make_step
import tiny

TOLERANCE = 1e-5  # Of float32 sums in another order.
BATCH, DIM, PROTOTYPES, FROZEN = 8, 6, 5, 2
KEYS = Keys(jax.random.key(1), jax.random.key(2))


class Cells(nn.Module):
  """Features without batch statistics: the means of 4 x 4 cells."""

  @nn.compact
  def __call__(self, images, *, train=False):
    shift = self.param("shift", nn.initializers.constant(0.5), ())
    return {"pooled": _cells(images) - shift}


def _cells(images):
  count, side = images.shape[:2]
  cells = images.reshape(count, 4, side // 4, 4, side // 4, 3)
  return cells.mean(axis=(2, 4)).reshape(count, -1)


def _teacher_temperature(step):
  return 0.05 + 0.02 * step


def _method(net=Cells(), **arguments):
  settings = dict(
      augment=tiny.recipe,
      second_augment=None,
      local_augment=tiny.small_recipe,
      local_views=2,
      dim=DIM,
      hidden_dim=12,
      prototypes=PROTOTYPES,
      student_temperature=0.2,
      teacher_temperature=_teacher_temperature,
      center_momentum=0.8,
      frozen_steps=FROZEN,
  )
  return METHODS["dino"](net, **settings | arguments)


def _batch(seed=0):
  return {"image": tiny.images(BATCH, seed)}


@functools.cache
def _views():
  return jax.jit(_method().views)(jax.random.key(5), _batch())


def _moved(tree, seed):
  """Another tree, with values of its own."""
  leaves, structure = jax.tree.flatten(tree)
  random = np.random.default_rng(seed)
  return structure.unflatten(
      [x + random.normal(size=x.shape).astype(np.float32) / 4 for x in leaves]
  )


@functools.cache
def _start():
  """A student and a teacher that differ, and a centre that is not zero."""
  init = jax.jit(_method().init)
  params, carried = init(jax.random.key(0), _views())
  return _moved(params, 0), carried._replace(
      target_params=_moved(params, 1),
      center=_moved(carried.center, 2),
  )


@functools.cache
def _compiled(devices):
  """Loss, gradients and what the update gets, at a step: once compiled."""
  axis_name = "devices" if devices > 1 else None
  method = _method(axis_name=axis_name)

  def run(params, carried, views, step):
    def loss(params):
      value, aux = method.loss(params, carried, views, KEYS, step)
      return parallel.pmean(value, axis_name), aux

    (value, aux), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    return value, parallel.pmean(gradients, axis_name), aux

  if axis_name:
    run = jax.vmap(run, (None, None, 1, None), axis_name=axis_name)
  return jax.jit(run)


def _run(step=0):
  return _compiled(1)(*_start(), _views(), step)


def _normalize(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _gelu(x):
  return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def _scores(params, views):
  """Scores of some views in NumPy, `[V, B, P]`."""
  shift = np.asarray(params["net"]["shift"])
  cells = [_cells(np.asarray(view)) - shift for view in views]
  return np.stack([_head_scores(params, x) for x in cells])


def _head_scores(params, x):
  """Scores of pooled features, `[B, P]`."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  for i in (1, 2, 3):
    layer = params["projector"][f"layer_{i}"]
    x = _gelu(x) if i > 1 else x
    x = x @ layer["kernel"] + layer["bias"]
  return _normalize(x) @ _normalize(params["prototypes"]).T


@pytest.mark.parametrize("step", [0, 3])
def test_the_loss_is_that_of_student_and_teacher(step):
  params, carried = _start()
  student = np.concatenate([_scores(params, views) for views in _views()])
  teacher = _scores(carried.target_params, _views().global_crops)
  assert student.shape[0] == 4 and teacher.shape[0] == 2
  expected = losses.dino(
      student,
      teacher,
      np.asarray(carried.center),
      student_temperature=0.2,
      teacher_temperature=_teacher_temperature(step),
  )
  np.testing.assert_allclose(_run(step)[0], expected, rtol=TOLERANCE)
  # The schedule matters here.
  other = _run(3 - step)[0]
  assert abs(other - expected) > 1e-3


@pytest.mark.parametrize("devices", [1, 4])
def test_the_centre_follows_the_teacher_over_the_global_batch(devices):
  params, carried = _start()
  views = _views()
  if devices > 1:
    views = jax.tree.map(
        lambda x: x.reshape(len(x), devices, -1, *x.shape[2:]), views
    )
  value, _, aux = _compiled(devices)(params, carried, views, 0)
  if devices > 1:
    for leaf in jax.tree.leaves(aux.fresh):
      np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[0], leaf.shape))
    value, aux = jax.tree.map(lambda x: x[0], (value, aux))
  np.testing.assert_allclose(value, _run()[0], rtol=TOLERANCE)
  _, new = _method().update(params, carried, aux.fresh, 0)
  teacher = _scores(carried.target_params, _views().global_crops)
  expected = 0.8 * carried.center + 0.2 * teacher.mean(axis=(0, 1))
  np.testing.assert_allclose(new.center, expected, atol=TOLERANCE)


def test_the_start_is_one_net_twice_and_a_centre_of_zero():
  params, carried = _method().init(jax.random.key(0), _views())
  jax.tree.map(np.testing.assert_array_equal, params, carried.target_params)
  np.testing.assert_array_equal(carried.center, np.zeros(PROTOTYPES))
  leaves = jax.tree.leaves((params, carried))
  # Equal, but no buffer twice, which could not be donated.
  assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)


def test_prototypes_start_as_a_linear_layer_of_pytorch():
  wide = _method(dim=64, prototypes=512)
  params, _ = wide.init(jax.random.key(0), _views())
  rows = np.asarray(params["prototypes"])
  assert np.abs(rows).max() <= 1 / 8 < np.abs(rows).max() * 1.001
  # Uniform: its deviation is the bound over the root of three.
  assert np.std(rows) == pytest.approx(1 / 8 / 3**0.5, rel=0.02)
  assert abs(np.mean(rows)) < 1e-3


def test_lengths_of_prototypes_are_learned_without_the_last_norm():
  method = _method(norm_last_layer=False)
  params, carried = method.init(jax.random.key(0), _views())
  lengths = params["prototype_lengths"]
  np.testing.assert_array_equal(lengths, np.ones((PROTOTYPES, 1)))
  assert "prototype_lengths" not in _start()[0]
  steps = method.frozen_steps(params)
  assert steps["prototypes"] == steps["prototype_lengths"] == FROZEN

  @jax.jit
  def value(params, carried):
    return method.loss(params, carried, _views(), KEYS, 0)[0]

  params, plain = _start()
  lengths = np.linspace(0.5, 2, PROTOTYPES, dtype=np.float32)[:, None]
  params = params | {"prototype_lengths": lengths}
  carried = plain._replace(
      target_params=plain.target_params | {"prototype_lengths": 1 + lengths}
  )
  gradient = jax.grad(value)(params, carried)
  assert np.all(np.abs(gradient["prototype_lengths"]) > 0)
  # The weight-normalised layer by hand: a score is a length times a cosine.
  large, small = _views()
  scores = lambda tree, views: _scores(tree, views) * np.ravel(
      tree["prototype_lengths"]
  )
  expected = losses.dino(
      np.concatenate([scores(params, large), scores(params, small)]),
      scores(carried.target_params, large),
      np.asarray(carried.center),
      student_temperature=0.2,
      teacher_temperature=_teacher_temperature(0),
  )
  np.testing.assert_allclose(value(params, carried), expected, rtol=TOLERANCE)


def test_the_teacher_takes_its_momentum_at_the_step():
  params, carried = _start()
  method = _method(momentum=lambda step: 0.5 + 0.1 * step)
  fresh = ({}, {}, carried.center)
  for step, kept in ((0, 0.5), (3, 0.8)):
    same, new = method.update(params, carried, fresh, step)
    assert same is params
    expected = jax.tree.map(
        lambda teacher, student: kept * teacher + (1 - kept) * student,
        carried.target_params,
        params,
    )
    tiny.assert_trees_close(new.target_params, expected, 1e-6)
  assert "prototypes" in new.target_params


def test_only_prototypes_are_frozen():
  params, _ = _start()
  steps = _method().frozen_steps(params)
  assert steps.pop("prototypes") == FROZEN
  assert set(jax.tree.leaves(steps)) == {0}
  _, gradients, _ = _run()
  assert all(np.any(x) for x in jax.tree.leaves(gradients))


def test_the_length_of_a_prototype_does_not_matter():
  params, carried = _start()
  lengths = np.linspace(0.2, 5, PROTOTYPES, dtype=np.float32)[:, None]
  scale = lambda tree: tree | {"prototypes": tree["prototypes"] * lengths}
  teacher = scale(carried.target_params)
  value, gradients, aux = _compiled(1)(
      scale(params), carried._replace(target_params=teacher), _views(), FROZEN
  )
  expected, _, expected_aux = _run(FROZEN)
  np.testing.assert_allclose(value, expected, rtol=TOLERANCE)
  np.testing.assert_allclose(
      aux.fresh[-1], expected_aux.fresh[-1], atol=TOLERANCE
  )
  assert np.any(gradients["prototypes"])
  along = np.sum(gradients["prototypes"] * scale(params)["prototypes"], axis=1)
  np.testing.assert_allclose(along, 0.0, atol=1e-6)


@functools.cache
def _start_with_statistics():
  init = jax.jit(_method(tiny.Net()).init)
  return init(jax.random.key(0), _views())


def test_it_encodes_by_its_teacher():
  net = tiny.Net()
  method = _method(net)
  params, carried = _start_with_statistics()
  statistics = jax.tree.map(lambda x: x + 0.5, carried.target_batch_stats)
  carried = carried._replace(
      target_params=_moved(params, 1), target_batch_stats=statistics
  )
  images = _views().global_crops[0]
  encode = jax.jit(method.encode)
  expected = net.apply(
      {
          "params": carried.target_params["net"],
          "batch_stats": statistics["net"],
      },
      images,
  )["pooled"]
  actual = encode(params, carried, images)["pooled"]
  np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=1e-6)
  student = encode(_moved(params, 3), carried, images)["pooled"]
  np.testing.assert_array_equal(student, actual)


def test_student_and_teacher_keep_statistics_of_their_own():
  method = _method(tiny.Net())
  params, carried = _start_with_statistics()
  carried = carried._replace(
      target_params=_moved(params, 1),
      target_batch_stats=jax.tree.map(lambda x: x + 0.5, carried.batch_stats),
  )
  _, aux = jax.jit(method.loss)(params, carried, _views(), KEYS, 0)
  _, new = method.update(params, carried, aux.fresh, 0)
  net = tiny.Net()

  def after(params, start, views):
    _, new = net.apply(
        {"params": params["net"], "batch_stats": start["net"]},
        views.reshape(-1, *views.shape[2:]),  # Joint statistics.
        train=True,
        mutable="batch_stats",
    )
    return new["batch_stats"]

  # The teacher's are those of the large views alone.
  tiny.assert_trees_close(
      new.target_batch_stats["net"],
      after(
          carried.target_params,
          carried.target_batch_stats,
          _views().global_crops,
      ),
      TOLERANCE,
  )
  start = carried.batch_stats
  large = after(params, start, _views().global_crops)
  small = after(params, start, _views().local_crops)
  # Small views follow: each moves the statistics by a tenth.
  expected = jax.tree.map(
      lambda a, b, s: 0.9 * a + b - 0.9 * s, large, small, start["net"]
  )
  tiny.assert_trees_close(new.batch_stats["net"], expected, TOLERANCE)


def test_a_vision_transformer_sees_views_of_two_sizes():
  net = ViT(8, depth=1, heads=2, patch_size=2, image_size=8)
  method = _method(net, local_views=1)
  views = _views()._replace(local_crops=_views().local_crops[:1])
  params, carried = jax.jit(method.init)(jax.random.key(0), views)
  table = params["net"]["patch_positions"]
  assert table.shape == (4, 4, 8)
  value = jax.jit(method.loss)(params, carried, views, KEYS, 0)[0]
  # The small views' positions are those of the large, interpolated.
  resized = net.apply({"params": params["net"]}, (2, 2), method="positions_of")
  small_net = net.clone(image_size=4)
  small_params = params["net"] | {"patch_positions": resized}

  @jax.jit
  def pooled(large, small):
    features = [net.apply({"params": params["net"]}, x) for x in large]
    features.append(small_net.apply({"params": small_params}, small))
    return [x["pooled"] for x in features]

  student = np.concatenate([
      _head_scores(params, x)
      for x in pooled(views.global_crops, views.local_crops[0])
  ]).reshape(3, BATCH, PROTOTYPES)
  expected = losses.dino(
      student,
      student[:2],
      carried.center,
      student_temperature=0.2,
      teacher_temperature=_teacher_temperature(0),
  )
  np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_a_resnet_sees_views_of_two_sizes():
  method, optimizer = _method(tiny.resnet()), optim.sgd(0.1)
  state = jax.eval_shape(
      lambda key: init_state(method, optimizer, key, _batch()),
      jax.random.key(0),
  )
  new, metrics = jax.eval_shape(make_step(method, optimizer), state, _batch())
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert shapes(new) == shapes(state)
  assert metrics["loss"].shape == ()


@pytest.mark.parametrize("norm", [False, True])
def test_the_projector_has_batch_norm_if_asked(norm):
  method = _method(projector_layers=2, projector_norm=norm)
  params, carried = jax.eval_shape(method.init, jax.random.key(0), _views())
  shapes = {
      layer: {name: x.shape for name, x in leaves.items()}
      for layer, leaves in params["projector"].items()
  }
  expected = {
      "layer_1": {"kernel": (48, 12)} | ({} if norm else {"bias": (12,)}),
      "layer_2": {"kernel": (12, DIM), "bias": (DIM,)},
  }
  if norm:
    expected["norm_1"] = {"scale": (12,), "bias": (12,)}
  assert shapes == expected
  assert bool(carried.batch_stats) == norm


@pytest.mark.parametrize(
    "arguments,message",
    [
        (dict(student_temperature=0.0), "temperature is 0.0"),
        (dict(teacher_temperature=-0.1), "temperature is -0.1"),
        (dict(momentum=1.5), r"momentum is 1.5; .*\[0, 1\]"),
        (dict(center_momentum=-0.5), r"momentum is -0.5; .*\[0, 1\]"),
        (dict(local_augment=None), "local_views is 2 with local_augment None"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    _method(**arguments)


def test_metrics_give_chance_and_the_spread():
  metrics = _run()[2].metrics
  assert metrics["chance_loss"] == pytest.approx(math.log(PROTOTYPES))
  assert 0.1 < metrics["feature_std"] < 1.1


def test_defaults_are_those_of_the_paper():
  defaults = METHODS["dino"].__kwdefaults__
  expected = dict(
      dim=256,
      hidden_dim=2048,
      projector_layers=3,
      projector_norm=False,
      prototypes=65536,
      student_temperature=0.1,
      teacher_temperature=0.04,
      momentum=0.996,
      center_momentum=0.9,
  )
  assert expected.items() <= defaults.items()
