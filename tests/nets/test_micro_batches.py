"""Backbones that compute a batch in parts."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import losses
from jssl.method import Keys
from jssl.methods import METHODS
from jssl.nets import MicroBatched
import tiny

BATCH, PARTS = 16, 4


def _as_on_tpu(monkeypatch):
  """In a loop, which for a ResNet on CPU is unrolled."""
  choose = lambda *operands, cpu, default: default(*operands)
  monkeypatch.setattr(jax.lax, "platform_dependent", choose)


def _images():
  return tiny.images(2 * BATCH).reshape(2, BATCH, 8, 8, 3) / 255.0


@functools.cache
def _variables():
  return tiny.resnet().init(jax.random.key(0), _images()[0])


def _contrast(net, params, images):
  """A loss that looks across the whole batch, and the new statistics."""
  variables = {**_variables(), "params": params}

  def features(view):
    return net.apply(variables, view, train=True, mutable=["batch_stats"])

  (first, _), (second, new) = features(images[0]), features(images[1])
  value = losses.nt_xent(first["pooled"], second["pooled"], temperature=0.5)
  return value, new["batch_stats"]


def _gradient(net):
  run = jax.jit(
      jax.value_and_grad(functools.partial(_contrast, net), has_aux=True)
  )
  return run(_variables()["params"], _images())


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_value_and_gradient_are_those_of_the_whole_batch(platform, monkeypatch):
  if platform == "tpu":
    _as_on_tpu(monkeypatch)
  # Statistics of a part are those of a group of the whole batch.
  (value, _), gradient = _gradient(MicroBatched(tiny.resnet(), PARTS))
  (expected, _), whole = _gradient(tiny.resnet(groups=PARTS))
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  tiny.assert_trees_close(gradient, whole, 1e-5)


def test_accumulating_gradients_would_be_another_loss():
  """Else the test above would show nothing."""
  (value, _), _ = _gradient(tiny.resnet(groups=PARTS))
  run = jax.jit(functools.partial(_contrast, tiny.resnet()))
  size = BATCH // PARTS
  parts = [
      run(_variables()["params"], _images()[:, i : i + size])[0]
      for i in range(0, BATCH, size)
  ]
  assert abs(float(np.mean(parts)) - float(value)) > 0.1


def test_running_statistics_move_once_a_part():
  (_, new), _ = _gradient(MicroBatched(tiny.resnet(), PARTS))
  expected = _variables()
  for view in _images()[1:]:
    for part in view.reshape(PARTS, -1, 8, 8, 3):
      _, fresh = tiny.resnet().apply(
          expected, part, train=True, mutable=["batch_stats"]
      )
      expected = {**expected, **fresh}
  tiny.assert_trees_close(new, expected["batch_stats"], 1e-5)


def test_parameters_and_features_are_those_of_the_net():
  net = MicroBatched(tiny.resnet(), PARTS)
  variables = net.init(jax.random.key(0), _images()[0])
  tiny.assert_trees_close(variables, _variables(), 0)
  features = net.apply(variables, _images()[0][:3])
  tiny.assert_trees_close(
      features, tiny.resnet().apply(variables, _images()[0][:3]), 1e-6
  )


@pytest.mark.parametrize("platform", ["cpu", "tpu", "cuda"])
@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_the_platform_that_a_program_is_lowered_for_decides(platform, kind):
  """Whatever the host: a program for a TPU is lowered on a CPU too."""
  net = {"resnet": tiny.resnet(), "vit": tiny.vit()}[kind]
  parts = MicroBatched(net, PARTS)
  images = jnp.zeros((BATCH, 8, 8, 3))

  def loss(variables):
    outputs, _ = parts.apply(
        variables, images, train=True, mutable=["batch_stats"]
    )
    return jnp.sum(outputs["pooled"])

  variables = jax.eval_shape(net.init, jax.random.key(0), images)
  exported = jax.export.export(
      jax.jit(jax.value_and_grad(loss)), platforms=[platform]
  )(variables)
  unrolled = platform == "cpu" and kind == "resnet"
  # Forward and backward.
  loops = exported.mlir_module().count("stablehlo.while")
  assert loops == (0 if unrolled else 2)


def test_memory_falls_with_the_number_of_parts(monkeypatch):
  _as_on_tpu(monkeypatch)
  images = jnp.ones((2, 64, 32, 32, 3))

  def temporary(net):
    run = jax.jit(jax.grad(lambda p: _contrast(net, p, images)[0]))
    compiled = run.lower(_variables()["params"]).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  whole = temporary(tiny.resnet())
  assert temporary(MicroBatched(tiny.resnet(), 8)) < 0.5 * whole


def test_a_method_takes_it_for_a_net():
  """Two views at once, under vmap, with a head that sees the whole batch."""
  arguments = dict(augment=tiny.recipe, dim=8, temperature=0.5)
  whole = METHODS["simclr"](tiny.resnet(groups=PARTS), **arguments)
  parts = METHODS["simclr"](MicroBatched(tiny.resnet(), PARTS), **arguments)
  views = whole.views(jax.random.key(1), {"image": tiny.images(BATCH)})
  params, carried = whole.init(jax.random.key(0), views)
  keys = Keys(jax.random.key(2), jax.random.key(3))
  results = []
  for method in (whole, parts):
    run = jax.jit(
        jax.value_and_grad(
            lambda p, method=method: method.loss(p, carried, views, keys, 0)[0]
        )
    )
    results.append(run(params))
  tiny.assert_trees_close(*results, 1e-5)


@pytest.mark.parametrize("parts", [0, 3, 32])
def test_parts_that_do_not_divide_the_batch_are_refused(parts):
  net = MicroBatched(tiny.resnet(), parts)
  with pytest.raises(ValueError, match=f"16 images .* {parts} parts"):
    net.apply(_variables(), _images()[0], train=True, mutable=["batch_stats"])
