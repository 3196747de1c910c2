"""A branch on several views."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.methods import _branch
from jssl.nets import BatchNorm
import siamese_case
import tiny


class WithoutViews(nn.Module):
  """A backbone from elsewhere, which cannot tell views apart."""

  @nn.compact
  def __call__(self, images, *, train=False):
    pixels = images.reshape(len(images), -1)
    return {"pooled": BatchNorm(name="BatchNorm_0")(pixels, train=train)}


@functools.cache
def _make(rate=0.0, joint=False, groups=1, own=True):
  net = siamese_case.Dropping(rate, groups) if own else WithoutViews()
  projector = _branch.head(net, (12, 6))
  return _branch.Branch(net, projector, _branch.head(net, (5, 6)), joint=joint)


@functools.cache
def _start():
  init = jax.jit(lambda key, views: _branch.init(key, _make(), views))
  params, stats = init(jax.random.key(0), siamese_case.views())
  return siamese_case.noisy(params, 1), siamese_case.noisy(stats, 2)


@functools.cache
def _embed(**options):
  """`(params, views, key)` to value, embedding, statistics, and a gradient."""

  def run(params, views, key):
    embedding, stats = _branch.forward(
        _make(**options), params, _start()[1], views, key
    )
    return jnp.sum(jnp.sin(embedding.prediction)), (embedding, stats)

  return jax.jit(jax.value_and_grad(run, has_aux=True))


def _run(*sizes, seed=0, **options):
  """The embedding and the new statistics."""
  sizes = sizes or (siamese_case.views(),)
  (_, outputs), _ = _embed(**options)(_start()[0], sizes, jax.random.key(seed))
  return outputs


def _alone(view):
  """The embedding of one view alone, and the statistics after it."""
  key = jax.random.key(0)
  embedding, stats = _branch.forward(_make(), *_start(), view[None], key)
  return jax.tree.map(lambda x: x[0], embedding), stats


@pytest.mark.slow
@pytest.mark.parametrize("own", [True, False])
def test_each_view_is_normalised_by_statistics_of_its_own(own):
  embedding, stats = _run(own=own)
  assert embedding.projection.shape == (2, siamese_case.BATCH, 6)
  # Alone, a view gives what it gives next to the other.
  alone = [_alone(view) for view in siamese_case.views()]
  for i, (expected, _) in enumerate(alone):
    actual = jax.tree.map(lambda x: x[i], embedding)
    tiny.assert_trees_close(actual, expected, siamese_case.TOLERANCE)
  if not own:  # It moves its statistics once per view.
    return
  mean = jax.tree.map(lambda x, y: (x + y) / 2, alone[0][1], alone[1][1])
  tiny.assert_trees_close(stats, mean, siamese_case.TOLERANCE)
  # And by hand: the net's running mean, over both views.
  old = _start()[1]["net"]["BatchNorm_0"]["mean"]
  pixels = siamese_case.views().reshape(2 * siamese_case.BATCH, -1)
  np.testing.assert_allclose(
      stats["net"]["BatchNorm_0"]["mean"],
      0.9 * old + 0.1 * pixels.mean(axis=0),
      atol=1e-6,
  )


@pytest.mark.parametrize("own", [True, False])
def test_joint_views_are_normalised_as_one_batch(own):
  views = siamese_case.views()
  inputs = (_start()[0], (views,), jax.random.key(0))
  (value, (embedding, stats)), gradient = _embed(joint=True, own=own)(*inputs)
  one = views.reshape(1, -1, *views.shape[2:])
  (expected, (whole, new)), slope = _embed()(inputs[0], (one,), inputs[2])
  unfolded = jax.tree.map(lambda x: x.reshape(2, siamese_case.BATCH, -1), whole)
  tiny.assert_trees_close(embedding, unfolded, siamese_case.TOLERANCE)
  tiny.assert_trees_close(
      (value, stats, gradient), (expected, new, slope), siamese_case.TOLERANCE
  )
  # Which is another function than statistics of each view.
  separate = _run()[0].projection
  assert not np.allclose(embedding.projection, separate, atol=1e-2)


@pytest.mark.parametrize("groups", [1, 2])
def test_joint_groups_hold_all_views_of_their_images(groups):
  views = siamese_case.views()
  embedding, _ = _run(joint=True, groups=groups)
  pixels = views.reshape(2, groups, -1, views[0, 0].size)  # [V, G, n, D]
  mean = pixels.mean(axis=(0, 2), keepdims=True)
  expected = (pixels - mean) / jnp.sqrt(
      pixels.var(axis=(0, 2), keepdims=True) + 1e-5
  )
  variables = _start()[0]["net"]["BatchNorm_0"]
  expected = expected * variables["scale"] + variables["bias"]
  expected = expected.reshape(2, siamese_case.BATCH, -1)
  head, _ = _branch.forward(
      _make(joint=True).projector,
      _start()[0]["projector"],
      _start()[1]["projector"],
      expected.swapaxes(0, 1).reshape(2 * siamese_case.BATCH, -1),
      None,
  )
  head = head.reshape(siamese_case.BATCH, 2, -1).swapaxes(0, 1)
  np.testing.assert_allclose(
      embedding.projection, head, atol=siamese_case.TOLERANCE
  )


@pytest.mark.parametrize("joint", [False, True])
def test_the_net_runs_per_size_and_the_heads_once(joint):
  global_views, key = siamese_case.views(), jax.random.key(0)
  local_views = jnp.concatenate([2 * global_views[:, :, ::-1], global_views])
  embedding, stats = _run(global_views, local_views, joint=joint)
  assert embedding.projection.shape == (6, siamese_case.BATCH, 6)
  # By hand: the net on each size in turn, then the projector on all crops.
  params, old = _start()
  pooled, running = [], old["net"]
  for views in (global_views, local_views):
    parts = [views.reshape(-1, *views.shape[2:])] if joint else list(views)
    outputs, news = zip(*[
        _branch.forward(_make().net, params["net"], running, x, key)
        for x in parts
    ])
    running = jax.tree.map(lambda *x: sum(x) / len(x), *news)
    rows = jnp.concatenate([x["pooled"] for x in outputs])
    pooled.append(rows.reshape(*views.shape[:2], -1))
  pooled = jnp.concatenate(pooled)
  parts = [pooled.reshape(-1, pooled.shape[-1])] if joint else list(pooled)
  outputs, news = zip(*[
      _branch.forward(
          _make().projector, params["projector"], old["projector"], x, None
      )
      for x in parts
  ])
  expected = jnp.concatenate(outputs).reshape(embedding.projection.shape)
  np.testing.assert_allclose(
      embedding.projection, expected, atol=siamese_case.TOLERANCE
  )
  mean = jax.tree.map(lambda *x: sum(x) / len(x), *news)
  tiny.assert_trees_close(stats["projector"], mean, siamese_case.TOLERANCE)
  tiny.assert_trees_close(stats["net"], running, siamese_case.TOLERANCE)


def test_gradients_reach_every_parameter():
  inputs = (_start()[0], (siamese_case.views(),), jax.random.key(0))
  for joint in (False, True):
    (value, _), gradient = _embed(joint=joint)(*inputs)
    assert np.isfinite(value)
    for leaf in jax.tree.leaves(gradient):
      assert np.any(leaf)


def test_dropout_differs_from_view_to_view_and_by_the_key():
  same = jnp.stack([siamese_case.views()[0]] * 2)
  first, second = _run(same, rate=0.5)[0].projection
  assert not np.allclose(first, second, atol=1e-2)
  again, _ = _run(same, rate=0.5)[0].projection
  np.testing.assert_array_equal(first, again)
  other, _ = _run(same, rate=0.5, seed=1)[0].projection
  assert not np.allclose(first, other, atol=1e-2)
  first, second = _run(same)[0].projection
  np.testing.assert_allclose(first, second, atol=1e-6)


def test_without_a_key_nothing_is_dropped():
  views = (siamese_case.views(),)
  actual = _branch.forward(_make(rate=0.5), *_start(), views, None)
  tiny.assert_trees_close(actual, _run(), siamese_case.TOLERANCE)


def test_other_parameters_are_no_part_of_the_branch():
  params = _start()[0] | {"prototypes": jnp.ones(3)}
  actual = _branch.forward(
      _make(), params, _start()[1], (siamese_case.views(),), None
  )
  tiny.assert_trees_close(actual, _run(), siamese_case.TOLERANCE)


def test_heads_compute_in_the_type_of_the_net_and_return_float32():
  class Half(siamese_case.Pixels):
    dtype = jnp.bfloat16

  assert _branch.head(Half(), (4,)).dtype == jnp.bfloat16
  head = _branch.head(Half(), (None, 4), last_norm=True)
  inputs = jnp.ones((2, 3), jnp.bfloat16)
  outputs, variables = head.init_with_output(jax.random.key(0), inputs)
  assert outputs.dtype == jnp.float32
  for leaf in jax.tree.leaves(variables):
    assert leaf.dtype == jnp.float32
  assert _branch.head(siamese_case.Pixels(), (4,)).dtype == jnp.float32


def test_a_copy_is_equal_and_has_buffers_of_its_own():
  tree = {"a": jnp.arange(3.0), "b": [jnp.ones(2)]}
  copy = _branch.copy(tree)
  tiny.assert_trees_close(copy, tree, 0)
  for x, y in zip(jax.tree.leaves(copy), jax.tree.leaves(tree)):
    assert x.unsafe_buffer_pointer() != y.unsafe_buffer_pointer()
