"""A branch on several views."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.methods import branch as branches
from jssl.methods.crops import Crops
import siamese_case as case
import tiny

BACKENDS = ["cpu", "gpu"]  # Views in turn, and at once.
each_backend = pytest.mark.parametrize("backend", BACKENDS)


@functools.cache
def _branch(rate=0.0):
  net = case.Dropping(rate)
  projector = branches.head(net, (12, 6))
  return branches.Branch(net, projector, branches.head(net, (5, 6)))


@functools.cache
def _start():
  return _init(_branch())


def _init(branch):
  init = jax.jit(lambda key, images: branches.init(key, branch, images))
  params, stats = init(jax.random.key(0), case.views()[0])
  return case.noisy(params, 1), case.noisy(stats, 2)


@functools.cache
def _embed(backend, rate=0.0):
  """`embed` as on a backend: `(params, views, key)`, with a gradient."""
  start, old = _start()

  def run(params, views, key):
    embedding, stats = branches.embed(_branch(rate), params, old, views, key)
    value = jnp.sum(jnp.sin(embedding.prediction))
    return value, (embedding, stats)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "default_backend", lambda: backend)
    lowered = jax.jit(jax.value_and_grad(run, has_aux=True)).lower(
        start, case.views(), jax.random.key(0)
    )
  return lowered.compile()


def _run(backend, rate=0.0, views=None, seed=0):
  """The embedding and the new statistics."""
  views = case.views() if views is None else views
  (_, outputs), _ = _embed(backend, rate)(
      _start()[0], views, jax.random.key(seed)
  )
  return outputs


def test_views_in_turn_and_at_once_are_the_same():
  inputs = (_start()[0], case.views(), jax.random.key(0))
  in_turn, at_once = [_embed(name, rate=0.5)(*inputs) for name in BACKENDS]
  (value, (embedding, stats)), gradient = in_turn
  assert embedding.projection.shape == (2, case.BATCH, 6)
  assert np.all(np.isfinite(value))
  for leaf in jax.tree.leaves(gradient):
    assert np.any(leaf)
  # The same dropout too.
  tiny.assert_trees_close(in_turn, at_once, case.TOLERANCE)


@each_backend
def test_each_view_is_normalised_by_statistics_of_its_own(backend):
  embedding, stats = _run(backend)
  # Alone, a view gives what it gives beside the other.
  forward = functools.partial(branches.forward, _branch(), *_start())
  alone = [forward(view, jax.random.key(0)) for view in case.views()]
  for i, (expected, _) in enumerate(alone):
    actual = jax.tree.map(lambda x: x[i], embedding)
    tiny.assert_trees_close(actual, expected, case.TOLERANCE)
  mean = jax.tree.map(lambda x, y: (x + y) / 2, alone[0][1], alone[1][1])
  tiny.assert_trees_close(stats, mean, case.TOLERANCE)
  # And by hand: the net's running mean, over both views.
  old = _start()[1]["net"]["BatchNorm_0"]["mean"]
  pixels = case.views().reshape(2 * case.BATCH, -1)
  np.testing.assert_allclose(
      stats["net"]["BatchNorm_0"]["mean"],
      0.9 * old + 0.1 * pixels.mean(axis=0),
      atol=1e-6,
  )


@each_backend
def test_dropout_differs_from_view_to_view_and_by_the_key(backend):
  same = jnp.stack([case.views()[0]] * 2)
  first, second = _run(backend, 0.5, same)[0].projection
  assert not np.allclose(first, second, atol=1e-2)
  again, _ = _run(backend, 0.5, same)[0].projection
  np.testing.assert_array_equal(first, again)
  other, _ = _run(backend, 0.5, same, seed=1)[0].projection
  assert not np.allclose(first, other, atol=1e-2)
  first, second = _run(backend, 0.0, same)[0].projection
  np.testing.assert_allclose(first, second, atol=1e-6)


@functools.cache
def _without_predictor():
  net = case.Dropping()
  branch = branches.Branch(net, branches.head(net, (6,)))
  return branch, *_init(branch)


@each_backend
def test_without_a_key_nothing_is_dropped(backend, monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  actual = branches.embed(_branch(rate=0.5), *_start(), case.views(), None)
  tiny.assert_trees_close(actual, _run(backend), case.TOLERANCE)


def test_small_views_follow_the_large_ones():
  branch, params, stats = _without_predictor()
  views, key = case.views(), jax.random.key(0)
  small = views[:, :, ::-1]
  # Prototypes, say, are no part of the branch.
  params = params | {"others": jnp.ones(3)}
  (large, few), new = branches.embed_crops(
      branch, params, stats, Crops(views, small), key
  )
  del params["others"]
  # Statistics move twice.
  first, stats = branches.embed(branch, params, stats, views, key)
  second, stats = branches.embed(branch, params, stats, small, key)
  for actual, expected in ((large, first), (few, second)):
    np.testing.assert_allclose(actual, expected.projection, rtol=1e-5)
  tiny.assert_trees_close(new, stats, 1e-5)


def test_without_small_views_their_projections_are_none():
  (large, few), _ = branches.embed_crops(
      *_without_predictor(), Crops(case.views(), None), jax.random.key(0)
  )
  assert large.shape == (2, case.BATCH, 6) and few.shape == (0, case.BATCH, 6)


def test_heads_compute_in_the_type_of_the_net_and_return_float32():
  class Half(case.Pixels):
    dtype = jnp.bfloat16

  assert branches.head(Half(), (4,)).dtype == jnp.bfloat16
  head = branches.head(Half(), (None, 4), last_norm=True)
  inputs = jnp.ones((2, 3), jnp.bfloat16)
  outputs, variables = head.init_with_output(jax.random.key(0), inputs)
  assert outputs.dtype == jnp.float32
  for leaf in jax.tree.leaves(variables):
    assert leaf.dtype == jnp.float32
  assert branches.head(case.Pixels(), (4,)).dtype == jnp.float32


def test_a_copy_is_equal_and_has_buffers_of_its_own():
  tree = {"a": jnp.arange(3.0), "b": [jnp.ones(2)]}
  copy = branches.own_copy(tree)
  tiny.assert_trees_close(copy, tree, 0)
  for x, y in zip(jax.tree.leaves(copy), jax.tree.leaves(tree)):
    assert x.unsafe_buffer_pointer() != y.unsafe_buffer_pointer()
