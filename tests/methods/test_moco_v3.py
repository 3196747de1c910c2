"""MoCo v3; what it shares with BYOL is in test_target.py."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import optim
from jssl.methods.moco_v3 import moco_v3
from jssl.nets import ViT
from jssl.step import init_state, make_step
import siamese_case
import tiny

FEATURES = 8 * 8 * 3  # Of an image's pixels.
TEMPERATURE = 0.3
TRANSFORMER = ViT(8, depth=1, heads=2, patch_size=4, image_size=8)


class Patches(nn.Module):
  """A patch projection and nothing else, which compiles much faster."""

  @nn.compact
  def __call__(self, images, *, train=False):
    x = nn.Conv(8, (4, 4), 4, padding="VALID", name="patch")(images - 0.5)
    weight = self.param("weight", nn.initializers.ones, (8,))
    return {"pooled": jnp.mean(jnp.sin(4 * x) * weight, axis=(1, 2))}


@functools.cache
def _method(net=siamese_case.Pixels(), **arguments):
  settings = dict(
      dim=6, hidden_dim=16, temperature=TEMPERATURE, second_augment=None
  )
  return siamese_case.make("moco_v3", net, **settings | arguments)


def _cross_entropy(queries, keys):
  """Algorithm 1's `ctr`, query by query."""
  logits = siamese_case.unit(queries) @ siamese_case.unit(keys).T / TEMPERATURE
  total = 0.0
  for i, row in enumerate(logits):
    total += jnp.log(jnp.sum(jnp.exp(row))) - row[i]
  return 2 * TEMPERATURE * total / len(logits)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [dict(), dict(projector_layers=2, predictor_norm=False)],
    ids=["transformer", "resnet"],
)
def test_the_loss_finds_the_targets_projections_by_predictions(arguments):
  """Algorithm 1, in value and gradient, with another net as target."""
  method, views = _method(**arguments), siamese_case.views()
  params, carried = siamese_case.start(method, views)
  targets = [
      siamese_case.project(
          carried.target_params, carried.target_batch_stats, view
      )
      for view in views
  ]

  def by_hand(params):
    first, second = [
        siamese_case.predict(params, carried.batch_stats, view)
        for view in views
    ]
    value = _cross_entropy(first, targets[1])
    return value + _cross_entropy(second, targets[0]), first

  def loss(params):
    return method.loss(params, carried, views, siamese_case.KEYS, 0)

  (expected, first), gradient = jax.jit(
      jax.value_and_grad(by_hand, has_aux=True)
  )(params)
  (value, aux), actual = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  np.testing.assert_allclose(value, expected, rtol=siamese_case.TOLERANCE)
  tiny.assert_trees_close(actual, gradient, siamese_case.TOLERANCE)
  for part in ("net", "projector", "predictor"):
    leaves = jax.tree.leaves(actual[part])
    assert max(np.max(np.abs(leaf)) for leaf in leaves) > 1e-3
  np.testing.assert_allclose(
      aux.metrics["feature_std"],
      siamese_case.spread(first),
      rtol=siamese_case.TOLERANCE,
  )


def test_equal_images_are_at_chance():
  method, views = _method(), jnp.ones_like(siamese_case.views())
  params, carried = siamese_case.start(method, views)
  value, aux = jax.jit(method.loss)(
      params, carried, views, siamese_case.KEYS, 0
  )
  chance = 4 * TEMPERATURE * np.log(siamese_case.BATCH)
  assert aux.metrics["chance_loss"] == pytest.approx(chance, rel=1e-6)
  np.testing.assert_allclose(value, chance, rtol=siamese_case.TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "net,freeze_patch",
    [(TRANSFORMER, True), (Patches(), True), (Patches(), False)],
)
def test_the_patch_projection_stays_as_it_was_drawn(net, freeze_patch):
  method = _method(net, momentum=0.9, freeze_patch=freeze_patch)
  # By its decay alone it would move.
  optimizer = optim.sgd(0.5, weight_decay=0.1)
  batch = siamese_case.batch()
  start = state = jax.jit(
      lambda: init_state(method, optimizer, jax.random.key(0), batch)
  )()
  step = jax.jit(make_step(method, optimizer))
  for _ in range(3):
    state, _ = step(state, batch)

  def moved(tree, old, tolerance):
    """Which leaves differ by more than the tolerance, by their names."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(old))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): not np.allclose(
            x, y, rtol=tolerance, atol=0
        )
        for (path, x), y in pairs
    }

  for tree, old, tolerance in (
      (state.params, start.params, 0),
      # An average of equal numbers differs in its last bit.
      (state.carried.target_params, start.carried.target_params, 1e-6),
  ):
    moves = moved(tree, old, tolerance)
    assert {"net/patch/kernel", "net/patch/bias"} < set(moves)
    for name, moving in moves.items():
      frozen = freeze_patch and name.startswith("net/patch/")
      assert moving != frozen, name


def test_heads_have_neither_last_bias_nor_a_trained_last_norm():
  layer = lambda number, inputs: {
      f"layer_{number}": siamese_case.linear(inputs, 16),
      f"norm_{number}": siamese_case.norm(16),
  }
  predictor = layer(1, 6) | {"layer_2": siamese_case.linear(16, 6)}
  assert siamese_case.shapes(_method(), siamese_case.views()) == {
      "projector": (
          layer(1, FEATURES)
          | layer(2, 16)
          | {"layer_3": siamese_case.linear(16, 6)}
      ),
      "predictor": predictor,
  }
  # The ResNets' predictor ends without that norm, and has no bias either.
  method = _method(projector_layers=2, predictor_norm=False)
  assert siamese_case.shapes(method, siamese_case.views()) == {
      "projector": layer(1, FEATURES) | {"layer_2": siamese_case.linear(16, 6)},
      "predictor": predictor,
  }


@pytest.mark.parametrize("predictor_norm", [True, False])
def test_a_norm_without_parameters_ends_the_heads(predictor_norm):
  method = _method(predictor_norm=predictor_norm)
  _, carried = jax.eval_shape(
      method.init, jax.random.key(0), siamese_case.views()
  )
  assert set(carried.batch_stats["projector"]) == {"norm_1", "norm_2", "norm_3"}
  expected = {"norm_1", "norm_2"} if predictor_norm else {"norm_1"}
  assert set(carried.batch_stats["predictor"]) == expected


def test_defaults_are_those_of_the_paper():
  expected = dict(
      dim=256,
      hidden_dim=4096,
      projector_layers=3,
      predictor_norm=True,
      momentum=0.99,
      temperature=0.2,
      freeze_patch=True,
  )
  assert expected.items() <= moco_v3.__kwdefaults__.items()


def test_a_temperature_of_zero_is_refused():
  with pytest.raises(ValueError, match="temperature is 0.0"):
    _method(temperature=0.0)
