"""Momentum Contrast."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import optim
from jssl.embeddings import l2_normalize
from jssl.method import Keys
from jssl.methods import METHODS, moco
from jssl.step import init_state, make_step
import tiny

TOLERANCE = 1e-5  # Of float32 sums in another order.
BATCH, QUEUE, DIM = 16, 64, 8
KEYS = Keys(jax.random.key(1), jax.random.key(2))


class Pixels(nn.Module):
  """Features without batch statistics: the pixels themselves."""

  @nn.compact
  def __call__(self, images, *, train=False):
    shift = self.param("shift", nn.initializers.constant(0.5), ())
    return {"pooled": images.reshape(len(images), -1) - shift}


def _method(net, name="moco_v2", **arguments):
  settings = dict(augment=tiny.recipe, dim=DIM, queue_size=QUEUE)
  return METHODS[name](net, **settings | arguments)


def _batch(seed=0):
  return {"image": tiny.images(BATCH, seed)}


@functools.cache
def _views():
  return _method(tiny.Net()).views(jax.random.key(5), _batch())


@functools.cache
def _start(net):
  return _method(net).init(jax.random.key(0), _views())


def _loss(method, params, carried, views):
  return method.loss(params, carried, views, KEYS, 0)


def _all_keys(net, devices=1, **arguments):
  """The gathered keys `[B, D]` of a batch that is split over devices."""
  params, carried = _start(net)
  if devices == 1:
    method = _method(net, **arguments)
    run = functools.partial(_loss, method)
    return jax.jit(run)(params, carried, _views())[1].fresh.keys
  method = _method(net, axis_name="devices", **arguments)
  mapped = jax.vmap(
      functools.partial(_loss, method), (None, None, 0), axis_name="devices"
  )
  keys = jax.jit(mapped)(params, carried, tiny.shards(_views(), devices))[1]
  keys = keys.fresh.keys
  for copy in keys[1:]:
    np.testing.assert_array_equal(copy, keys[0])
  return keys[0]


def test_the_key_encoder_is_an_average_of_its_own():
  # At step t it takes the momentum of step t + 1, see the design of the step.
  momentum = lambda step: 0.4 + 0.1 * step
  method = _method(tiny.Net(groups=8), momentum=momentum)
  optimizer = optim.sgd(0.5)
  state = init_state(method, optimizer, jax.random.key(0), _batch())
  expected = jax.tree.map(np.asarray, state.carried.key_params)
  tiny.assert_trees_close(expected, state.params, 0)
  pointers = {
      x.unsafe_buffer_pointer()
      for x in jax.tree.leaves((state.params, state.carried))
  }
  # Equal at first, but not one buffer, which could not be donated twice.
  assert len(pointers) == len(jax.tree.leaves((state.params, state.carried)))
  step = jax.jit(make_step(method, optimizer))
  for i in range(3):
    state, _ = step(state, _batch(i))
    kept = 0.4 + 0.1 * (i + 1)
    expected = jax.tree.map(
        lambda key, query: kept * key + (1 - kept) * query,
        expected,
        state.params,
    )
    tiny.assert_trees_close(state.carried.key_params, expected, TOLERANCE)
    for query, key in zip(
        jax.tree.leaves(state.params),
        jax.tree.leaves(state.carried.key_params),
    ):
      assert not np.allclose(query, key, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
def test_gradients_reach_the_queries_alone(symmetric):
  net = tiny.Net(groups=8)
  method = _method(net, symmetric=symmetric)
  params, carried = _start(net)
  leaves, tree = jax.tree.flatten(carried)
  floats = [jnp.issubdtype(x.dtype, jnp.floating) for x in leaves]

  def loss(params, trained):
    trained = iter(trained)
    whole = [next(trained) if f else x for x, f in zip(leaves, floats)]
    return _loss(method, params, tree.unflatten(whole), _views())[0]

  trained = [x for x, f in zip(leaves, floats) if f]
  for_params, for_carried = jax.jit(jax.grad(loss, (0, 1)))(params, trained)
  for gradient in for_carried:
    np.testing.assert_array_equal(gradient, np.zeros_like(gradient))
  for gradient in jax.tree.leaves(for_params):
    assert np.max(np.abs(gradient)) > 1e-6 and np.all(np.isfinite(gradient))


@pytest.mark.parametrize("devices", [1, 4])
def test_unshuffling_undoes_the_shuffle(devices):
  # Without batch statistics the company of an image cannot matter.
  shuffled = _all_keys(Pixels(), devices, shuffle=True)
  plain = _all_keys(Pixels(), shuffle=False)
  np.testing.assert_allclose(shuffled, plain, rtol=TOLERANCE, atol=1e-6)


@pytest.mark.parametrize("devices", [1, 4])
def test_the_positive_of_a_query_is_its_own_image(devices):
  """With two equal views the positive is at similarity 1."""
  params, carried = _start(Pixels())
  image = _views()[0]
  axis_name = None if devices == 1 else "devices"
  method = _method(Pixels(), temperature=0.5, axis_name=axis_name)
  run = functools.partial(_loss, method)
  if axis_name:
    run = jax.vmap(run, (None, None, 0), axis_name=axis_name)
    views = tiny.shards((image, image), devices)
  else:
    views = (image, image)
  value = jax.jit(run)(params, carried, views)[0]
  query = np.asarray(l2_normalize(_embed(params, image)))
  negatives = np.exp(query @ np.asarray(carried.queue.keys).T / 0.5).sum(-1)
  expected = np.mean(np.log(np.exp(1 / 0.5) + negatives) - 1 / 0.5)
  np.testing.assert_allclose(np.mean(value), expected, rtol=TOLERANCE)


def _embed(params, images):
  features = Pixels().apply({"params": params["net"]}, images)["pooled"]
  head = params["projector"]
  for i, name in enumerate(sorted(head)):
    features = np.maximum(features, 0) if i else features
    features = features @ head[name]["kernel"] + head[name]["bias"]
  return features


def _company(shuffle):
  """For each image, which images its key depends on: bool `[B, B]`."""
  net = tiny.Net(groups=8)
  method = _method(net, shuffle=shuffle)
  params, carried = _start(net)
  queries, keys = _views()

  @jax.jit
  def all_keys(keys):
    return _loss(method, params, carried, (queries, keys))[1].fresh.keys

  base, columns = all_keys(keys), []
  for i in range(BATCH):
    changed = all_keys(keys.at[i].multiply(0.5))
    columns.append(np.any(np.abs(changed - base) > 1e-6, axis=-1))
  return np.stack(columns, axis=1)


def test_shuffling_gives_keys_other_company_than_queries():
  """ShuffleBN's purpose: statistics do not tell a query which key is its own.

  With 8 groups of 2, an image's query shares its statistics with its
  neighbour; unshuffled keys share theirs with the same neighbour.
  """
  neighbours = np.kron(np.eye(8), np.ones((2, 2))).astype(bool)
  np.testing.assert_array_equal(_company(shuffle=False), neighbours)
  shuffled = _company(shuffle=True)
  # Still groups of two, image i among them, but of other images.
  np.testing.assert_array_equal(shuffled.sum(axis=1), 2)
  np.testing.assert_array_equal(shuffled, shuffled.T)
  assert np.all(np.diag(shuffled))
  assert np.sum(shuffled & neighbours) <= BATCH + 4


def test_the_shuffle_is_new_at_each_step_and_for_each_view():
  net = tiny.Net(groups=8)
  params, carried = _start(net)
  method = _method(net, symmetric=True)
  image = _views()[0]
  run = jax.jit(
      lambda key: method.loss(
          params, carried, (image, image), Keys(key, key), 0
      )[1].fresh.keys
  )
  one, other = run(jax.random.key(0)), run(jax.random.key(1))
  assert not np.allclose(one, other, atol=1e-3)
  # Two equal views, normalised in two shuffles.
  assert not np.allclose(one[:BATCH], one[BATCH:], atol=1e-3)


def test_one_group_leaves_nothing_to_shuffle():
  net = tiny.Net(groups=1)
  np.testing.assert_allclose(
      _all_keys(net, shuffle=True),
      _all_keys(net, shuffle=False),
      rtol=TOLERANCE,
      atol=1e-6,
  )


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_queue_holds_the_keys_of_the_global_batch_in_order(symmetric):
  params, carried = _start(Pixels())
  method = _method(Pixels(), symmetric=symmetric, axis_name="devices")
  mapped = jax.vmap(
      functools.partial(_loss, method), (None, None, 0), axis_name="devices"
  )
  _, aux = jax.jit(mapped)(params, carried, tiny.shards(_views(), 4))
  fresh = jax.tree.map(lambda x: x[0], aux.fresh)
  _, new = method.update(params, carried, fresh, 0)
  queries, keys = _views()
  pushed = [keys, queries] if symmetric else [keys]
  expected = np.concatenate([l2_normalize(_embed(params, x)) for x in pushed])
  count = len(expected)
  np.testing.assert_allclose(new.queue.keys[:count], expected, atol=TOLERANCE)
  np.testing.assert_array_equal(
      new.queue.keys[count:], carried.queue.keys[count:]
  )
  assert new.queue.pointer == count


def test_the_symmetric_loss_is_the_mean_of_both_directions():
  params, carried = _start(Pixels())
  views = _views()
  one_way = functools.partial(_loss, _method(Pixels()), params, carried)
  both = _loss(_method(Pixels(), symmetric=True), params, carried, views)[0]
  np.testing.assert_allclose(
      both, (one_way(views)[0] + one_way(views[::-1])[0]) / 2, rtol=TOLERANCE
  )


def test_version_1_has_a_linear_head_and_version_2_an_mlp():
  shapes = {}
  for name in ("moco_v1", "moco_v2"):
    params, _ = jax.eval_shape(
        _method(tiny.resnet(), name).init, jax.random.key(0), _views()
    )
    shapes[name] = {
        layer: leaf["kernel"].shape
        for layer, leaf in params["projector"].items()
    }
  assert shapes == {
      "moco_v1": {"layer_1": (16, DIM)},
      "moco_v2": {"layer_1": (16, 16), "layer_2": (16, DIM)},
  }


def test_the_width_of_the_head_is_settable():
  method = _method(tiny.resnet(), "moco_v2", hidden_dim=24)
  params, _ = jax.eval_shape(method.init, jax.random.key(0), _views())
  kernels = [x["kernel"].shape for x in params["projector"].values()]
  assert kernels == [(16, 24), (24, DIM)]


def test_defaults_are_those_of_the_papers():
  assert moco.moco_v1.__kwdefaults__["temperature"] == 0.07
  assert moco.moco_v2.keywords["temperature"] == 0.2
  for name, value in dict(dim=128, queue_size=65536, momentum=0.999).items():
    assert moco.moco.__kwdefaults__[name] == value


def test_metrics_give_chance_and_the_spread():
  params, carried = _start(Pixels())
  _, aux = _loss(_method(Pixels()), params, carried, _views())
  assert aux.metrics["chance_loss"] == pytest.approx(math.log(1 + QUEUE))
  assert 0.1 < aux.metrics["feature_std"] < 1.1
  # Two equal views are nearer than all random negatives; of equal images all
  # queries are one point.
  same = jnp.ones_like(_views()[0])
  _, aux = _loss(_method(Pixels()), params, carried, (same, same))
  assert aux.metrics["accuracy"] == 1.0 and aux.metrics["feature_std"] < 1e-3
  # A positive farther away than a queued copy of the query is not found.
  found = l2_normalize(_embed(params, _views()[0]))
  queue = carried.queue._replace(keys=carried.queue.keys.at[:BATCH].set(found))
  carried = carried._replace(queue=queue)
  _, aux = _loss(_method(Pixels()), params, carried, _views())
  assert aux.metrics["accuracy"] == 0.0


def test_features_of_an_image_do_not_depend_on_its_batch():
  net = tiny.Net(groups=8)
  params, carried = _start(net)
  encode = jax.jit(_method(net).encode)
  images = _views()[0]
  np.testing.assert_allclose(
      encode(params, carried, images)["pooled"][:3],
      encode(params, carried, images[:3])["pooled"],
      rtol=TOLERANCE,
      atol=1e-6,
  )


@pytest.mark.parametrize(
    "arguments,message",
    [
        (dict(temperature=0.0), "temperature is 0.0"),
        (dict(momentum=1.5), r"momentum is 1.5; .*\[0, 1\]"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    _method(tiny.Net(), **arguments)


def test_a_queue_that_the_batch_does_not_divide_is_refused():
  method = _method(tiny.Net(), queue_size=40)
  state = init_state(method, optim.sgd(0.1), jax.random.key(0), _batch())
  with pytest.raises(ValueError, match="40 keys .* batch of 16"):
    jax.eval_shape(make_step(method, optim.sgd(0.1)), state, _batch())
