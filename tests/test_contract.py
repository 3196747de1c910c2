"""The contract that every method fulfils."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import optim
from jssl.checkpoint import Checkpoints
from jssl.method import Keys
from jssl.methods import METHODS
from jssl.step import init_state, make_step
import tiny

# A new method is one row: the arguments that make it tiny.
_MOCO = dict(
    augment=tiny.recipe, dim=8, queue_size=32, momentum=0.9, temperature=0.2
)
_TWO = dict(augment=tiny.recipe, second_augment=None)
_CROPS = dict(
    augment=tiny.recipe,
    local_augment=tiny.small_recipe,
    local_views=2,
    dim=8,
    hidden_dim=16,
    prototypes=12,
)
_TILES = dict(augment=tiny.large_recipe, tile_size=8, dim=8, hidden_dim=16)
_DECODER = dict(decoder_width=32, decoder_depth=1, decoder_heads=2)
ARGUMENTS = {
    "moco_v1": _MOCO,
    "moco_v2": _MOCO | dict(symmetric=True),
    "moco_v3": _TWO | dict(dim=8, hidden_dim=16, momentum=0.9),
    "simclr": dict(augment=tiny.recipe, dim=8, temperature=0.2),
    "nnclr": dict(
        augment=tiny.recipe,
        dim=8,
        hidden_dim=16,
        predictor_dim=16,
        queue_size=32,
        temperature=0.2,
    ),
    "byol": _TWO | dict(dim=8, hidden_dim=16, momentum=0.9),
    "simsiam": dict(augment=tiny.recipe, dim=16, predictor_dim=8),
    "barlow_twins": _TWO | dict(dim=16),
    "vicreg": _TWO | dict(dim=16),
    "swav": _CROPS | dict(queue_size=16),
    "dino": _CROPS | dict(second_augment=None, momentum=0.9),
    "supcon": dict(augment=tiny.recipe, dim=8),
    "rotation": dict(augment=tiny.recipe),
    "jigsaw": _TILES | dict(permutations=12),
    "relative_position": _TILES,
    "inpainting": dict(augment=tiny.recipe, overlap=1, decoder_width=8),
    "colorization": dict(augment=tiny.recipe, stride=2),
    "denoising": dict(augment=tiny.recipe, decoder_width=8),
    "mae": dict(augment=tiny.recipe, mask_ratio=0.5, **_DECODER),
    "simmim": dict(augment=tiny.recipe),
    "ijepa": dict(
        augment=tiny.recipe,
        min_keep=1,
        predictor_width=16,
        predictor_depth=1,
        predictor_heads=2,
        momentum=0.9,
    ),
}
BATCH = {"image": tiny.images(8), "label": jnp.arange(8) % 3}
SGD = optim.sgd(0.05, weight_decay=1e-4)
ADAMW = optim.adamw(1e-2, weight_decay=1e-4)  # Of transformers.

each_method = pytest.mark.parametrize("name", METHODS)


@functools.cache
def needs_patches(name):
  """Whether a method accepts transformers only."""
  return "patches" in METHODS[name](tiny.vit(), **ARGUMENTS[name]).needs


@functools.cache
def _method(name):
  net = tiny.vit() if needs_patches(name) else tiny.Net(groups=2, grid=2)
  return METHODS[name](net, **ARGUMENTS[name])


def _optimizer(name):
  return ADAMW if needs_patches(name) else SGD


@functools.cache
def _start(name):
  return tiny.start(_method(name), _optimizer(name), BATCH)


@functools.cache
def _step(name):
  """The compiled step, and a list that grows with each trace of it."""
  method, traces = _method(name), []

  def views(key, batch):
    traces.append(key)
    return method.views(key, batch)

  step = make_step(method._replace(views=views), _optimizer(name))
  return jax.jit(step), traces


@functools.cache
def _run(name, steps):
  """The state after some steps, and the rows of metrics."""
  if not steps:
    return _start(name), []
  state, rows = _run(name, steps - 1)
  state, row = _step(name)[0](state, BATCH)
  return state, [*rows, jax.tree.map(float, row)]


def _describe(tree):
  return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def _bits(tree):
  """Every leaf's bytes, PRNG keys by their data."""
  return [
      np.asarray(
          jax.random.key_data(x)
          if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
          else x
      ).tobytes()
      for x in jax.tree.leaves(tree)
  ]


def test_every_method_has_a_row():
  assert set(ARGUMENTS) == set(METHODS)


@each_method
def test_trees_shapes_and_types_stay(name):
  assert _describe(_run(name, 4)[0]) == _describe(_start(name))


@each_method
def test_the_step_is_traced_once(name):
  _run(name, 4)
  assert len(_step(name)[1]) == 1


@each_method
def test_everything_is_finite(name):
  state, rows = _run(name, 8)
  for leaf in jax.tree.leaves((state.params, state.carried, state.opt_state)):
    assert np.all(np.isfinite(leaf))
  for row in rows:
    assert {"loss", "gradient_norm"} < set(row)
    assert np.all(np.isfinite(list(row.values())))


@each_method
def test_the_loss_falls_on_one_batch(name):
  # The carried tree and the views are fixed: a queue that fills with keys of
  # these few images makes the task harder while the encoder gets better.
  state = start = _start(name)
  losses = []
  for _ in range(30):
    state = state._replace(carried=start.carried, step=start.step)
    state, row = _step(name)[0](state, BATCH)
    losses.append(float(row["loss"]))
  # By at least 15%; about a third is typical.
  assert losses[0] - losses[-1] > 0.15 * abs(losses[0]), losses


@each_method
def test_no_gradient_reaches_what_is_carried(name):
  method, (state, _) = _method(name), _run(name, 2)
  leaves, tree = jax.tree.flatten(state.carried)
  floats = [jnp.issubdtype(x.dtype, jnp.floating) for x in leaves]

  def loss(params, chosen):
    chosen = iter(chosen)
    whole = [next(chosen) if f else x for x, f in zip(leaves, floats)]
    keys = Keys(jax.random.key(1), jax.random.key(2))
    views = method.views(jax.random.key(3), BATCH)
    carried = tree.unflatten(whole)
    return method.loss(params, carried, views, keys, state.step)[0]

  chosen = [x for x, f in zip(leaves, floats) if f]
  for_params, for_carried = jax.jit(jax.grad(loss, (0, 1)))(
      state.params, chosen
  )
  for gradient in for_carried:
    np.testing.assert_array_equal(gradient, np.zeros_like(gradient))
  assert all(np.any(gradient) for gradient in jax.tree.leaves(for_params))


@pytest.mark.slow
@each_method
def test_a_resumed_run_is_identical_to_the_bit(name, tmp_path):
  checkpoints = Checkpoints(str(tmp_path))
  checkpoints.save(2, _run(name, 2)[0])
  checkpoints.wait()
  like = jax.eval_shape(lambda: _start(name))
  state = checkpoints.restore(like)
  checkpoints.close()
  assert _bits(state) == _bits(_run(name, 2)[0])
  # To one device, as the compiled step of this test expects.
  state = jax.device_put(state, jax.devices()[0])
  for _ in range(2):
    state, _ = _step(name)[0](state, BATCH)
  assert _bits(state) == _bits(_run(name, 4)[0])


@each_method
def test_encode_gives_pooled_features_and_stages(name):
  state = _start(name)
  images = BATCH["image"] / 255.0
  features = jax.jit(_method(name).encode)(state.params, state.carried, images)
  assert features["pooled"].shape == (8, 32)
  assert features["pooled"].dtype == jnp.float32
  channels = 32 if needs_patches(name) else 8
  # Images of 8 pixels, or of 3 x 3 tiles of 8, at a stride of 2.
  side = 12 if "tile_size" in ARGUMENTS[name] else 4
  assert features["stage_1"].shape == (8, side, side, channels)


@pytest.mark.slow
@each_method
def test_pictures_are_images(name):
  method, state = _method(name), _start(name)
  if method.pictures is None:
    return
  views = method.views(jax.random.key(0), BATCH)
  pictures = jax.jit(method.pictures)(state.params, state.carried, views)
  for images in pictures:
    assert images.shape == BATCH["image"].shape
    assert np.all(np.isfinite(images))


@each_method
def test_a_method_refuses_to_go_without_what_it_needs_and_no_more(name):
  method = _method(name)

  def is_refused(function, *arguments):
    try:
      function(*arguments)
    except ValueError:
      return True
    return False

  refused = {
      "patches": is_refused(
          lambda: METHODS[name](tiny.Net(grid=2), **ARGUMENTS[name])
      )
  }
  for need, batch in {
      "labels": {"image": BATCH["image"]},
      "color": BATCH | {"image": BATCH["image"][..., :1]},
  }.items():
    refused[need] = is_refused(
        jax.eval_shape, method.views, jax.random.key(0), batch
    )
  assert method.needs == {
      need for need, is_needed in refused.items() if is_needed
  }


@each_method
def test_drawings_of_views_are_images(name):
  method = _method(name)
  if method.draw is None:
    return
  batch = jax.tree.map(lambda x: x[:1], BATCH)
  drawn = method.draw(method.views(jax.random.key(0), batch))
  for images in drawn.values():
    assert images.ndim == 4 and images.shape[-1] == 3
    assert np.all((images >= 0) & (images <= 1))


@each_method
def test_steps_in_a_loop_keep_every_type_in_bfloat16(name):
  """As on TPU and GPU: many steps per call."""
  make = tiny.vit if needs_patches(name) else tiny.resnet
  net = make(dtype=jnp.bfloat16)
  method = METHODS[name](net, **ARGUMENTS[name])
  schedule = optim.cosine(0.1, epochs=1, steps_per_epoch=10, warmup_epochs=0.5)
  optimizer = optim.adamw(schedule, weight_decay=schedule, clip_norm=1.0)

  def run(state, batch):
    step = make_step(method, optimizer)
    return jax.lax.scan(lambda s, _: step(s, batch), state, length=3)

  start = jax.eval_shape(
      lambda key: init_state(method, optimizer, key, BATCH), jax.random.key(0)
  )
  state, metrics = jax.eval_shape(run, start, BATCH)
  assert _describe(state) == _describe(start)
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(state.params))
  assert metrics["loss"].shape == (3,) and metrics["loss"].dtype == jnp.float32


@pytest.mark.slow
@each_method
def test_the_step_exports_for_tpu_and_gpu(name):
  step, state = make_step(_method(name), _optimizer(name)), _start(name)
  inputs, tree = jax.tree.flatten(
      (state._replace(key=jax.random.key_data(state.key)), BATCH)
  )

  def flat(*leaves):  # Exports support arrays, but no typed PRNG keys.
    state, batch = tree.unflatten(leaves)
    state = state._replace(key=jax.random.wrap_key_data(state.key))
    state, metrics = step(state, batch)
    state = state._replace(key=jax.random.key_data(state.key))
    return jax.tree.leaves((state, metrics))

  exported = jax.export.export(jax.jit(flat), platforms=["tpu", "cuda"])(
      *inputs
  )
  assert set(exported.platforms) == {"tpu", "cuda"}
  # The state keeps its structure.
  states = exported.out_avals[: len(jax.tree.leaves(state))]
  assert [x.shape for x in states] == [x.shape for x in inputs[: len(states)]]
  assert len(exported.mlir_module_serialized) > 10_000
