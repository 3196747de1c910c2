"""The train step under every mapping over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jssl import optim, parallel
from jssl.method import Aux, Keys
from jssl.methods import METHODS
from jssl.step import make_step, TrainState
import tiny

TOLERANCE = 1e-5  # Of float32 sums in another order, after three steps.
STEPS, BATCH, QUEUE = 3, 16, 64


@pytest.fixture(autouse=True, scope="module")
def _compile_fast():
  """Most time goes to compiling; both sides of a comparison do without."""
  before = jax.config.read("jax_disable_most_optimizations")
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", before)


def _method(groups, symmetric, axis_name=None):
  return METHODS["moco_v2"](
      tiny.Net(groups=groups, axis_name=axis_name),
      augment=tiny.recipe,
      dim=8,
      queue_size=QUEUE,
      momentum=0.9,
      symmetric=symmetric,
      axis_name=axis_name,
  )


def _optimizer():
  return optim.sgd(0.05, weight_decay=1e-3)


def _batch(step):
  return {"image": tiny.images(BATCH, seed=step)}


@functools.cache
def _start(groups):
  state = tiny.start(_method(groups, False), _optimizer(), _batch(0))
  return jax.tree.map(np.asarray, state._replace(key=None)), state.key


def _state(groups):
  """A fresh copy of the state before the first step, which may be donated."""
  state, key = _start(groups)
  state = jax.tree.map(jnp.asarray, state)
  return state._replace(key=jax.random.clone(key))


def _mapped(step, mapping, devices):
  """A function of a state and a batch that is split over the devices."""
  if mapping == "jit":
    return jax.jit(step)
  if mapping == "pmap":
    mapped = parallel.map_devices(step, in_axes=(None, 0))
    return lambda state, batch: mapped(state, tiny.shards(batch, devices))
  if mapping == "vmap":
    mapped = jax.jit(
        jax.vmap(step, in_axes=(None, 0), axis_name=parallel.AXIS_NAME)
    )

    def apply(state, batch):
      outputs = mapped(state, tiny.shards(batch, devices))
      # The state is the same on all; the test of replicas is another one.
      return jax.tree.map(lambda x: x[0], outputs)

    return apply
  spec = jax.sharding.PartitionSpec
  return jax.jit(
      jax.shard_map(
          step,
          mesh=jax.make_mesh(
              (devices,),
              (parallel.AXIS_NAME,),
              devices=jax.devices()[:devices],
              axis_types=(jax.sharding.AxisType.Auto,),
          ),
          in_specs=(spec(), spec(parallel.AXIS_NAME)),
          out_specs=spec(),
          # Gathered keys are equal on every device, which it cannot infer.
          check_vma=False,
      )
  )


@functools.cache
def _after_three_steps(mapping, devices, groups, symmetric):
  axis_name = None if mapping == "jit" else parallel.AXIS_NAME
  method = _method(groups, symmetric, axis_name)
  step = _mapped(make_step(method, _optimizer(), axis_name), mapping, devices)
  state, metrics = _state(groups), []
  for i in range(STEPS):
    state, row = step(state, _batch(i))
    metrics.append(row)
  return state, metrics


CASES = [
    (mapping, devices, 8, True)
    for mapping in ("vmap", "pmap", "shard_map")
    for devices in (1, 2, 8)
] + [
    ("vmap", 8, 1, False),
    ("pmap", 2, 1, False),
    ("pmap", 8, 1, False),
    ("shard_map", 8, 1, False),
]


@pytest.mark.slow
@pytest.mark.parametrize("mapping,devices,groups,symmetric", CASES)
def test_three_steps_agree_with_one_device(mapping, devices, groups, symmetric):
  actual = _after_three_steps(mapping, devices, groups, symmetric)
  expected = _after_three_steps("jit", 1, groups, symmetric)
  tiny.assert_trees_close(actual, expected, TOLERANCE)


@pytest.mark.parametrize("groups,symmetric", [(8, True), (1, False)])
def test_replicas_are_identical_to_the_bit(groups, symmetric):
  # The output of the mapped step shows the first device's copy alone.
  outputs = _after_three_steps("pmap", 8, groups, symmetric)
  arrays = [
      jax.random.key_data(x)
      if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
      else x
      for x in jax.tree.leaves(outputs)
  ]
  for array in arrays:
    copies = [np.asarray(s.data) for s in array.addressable_shards]
    assert len(copies) == 8
    for copy in copies[1:]:
      assert copy.tobytes() == copies[0].tobytes()


def test_training_moves_everything_but_the_key():
  state, _ = _after_three_steps("jit", 1, 8, True)
  start = _state(8)
  assert state.step == STEPS and state.step.dtype == jnp.int32
  np.testing.assert_array_equal(
      jax.random.key_data(state.key), jax.random.key_data(start.key)
  )
  moved = jax.tree.map(
      lambda a, b: bool(jnp.any(a != b)),
      (state.params, state.carried.key_params, state.carried.batch_stats),
      (start.params, start.carried.key_params, start.carried.batch_stats),
  )
  assert all(jax.tree.leaves(moved))


def test_metrics_are_scalars_with_these_names():
  _, metrics = _after_three_steps("pmap", 8, 8, True)
  for row in metrics:
    assert set(row) == {
        "loss",
        "gradient_norm",
        "skipped",
        "accuracy",
        "chance_loss",
        "feature_std",
    }
    for value in row.values():
      assert value.shape == () and value.dtype == jnp.float32
      assert np.isfinite(value)


def _spoiled(where, axis_name=None):
  """A method of which something is not finite in step 1, on one device."""
  real = _method(8, True, axis_name)

  def loss(params, carried, views, keys, step):
    last = parallel.axis_size(axis_name) - 1
    here = (step == 1) & (parallel.axis_index(axis_name) == last)
    value, aux = real.loss(params, carried, views, keys, step)
    if where == "loss":
      value = value + jnp.where(here, jnp.inf, 0.0)
    elif where == "gradient":  # The square root's at 0; its value is fine.
      zero = jnp.where(here, 0.0 * value, 1.0)
      value = value + jnp.sqrt(zero) - jax.lax.stop_gradient(jnp.sqrt(zero))
    else:
      bad = jnp.where(parallel.pmean(here * 1.0, axis_name) > 0, jnp.nan, 0.0)
      aux = aux._replace(fresh=aux.fresh._replace(keys=aux.fresh.keys + bad))
    return value, aux

  return real._replace(loss=loss)


@pytest.mark.slow
@pytest.mark.parametrize("mapping,devices", [("jit", 1), ("pmap", 8)])
@pytest.mark.parametrize("where", ["loss", "gradient", "keys"])
def test_what_is_not_finite_changes_nothing(mapping, devices, where):
  axis_name = None if mapping == "jit" else parallel.AXIS_NAME
  step = _mapped(
      make_step(_spoiled(where, axis_name), _optimizer(), axis_name),
      mapping,
      devices,
  )
  state, skipped = _state(8), []
  before = []
  for i in range(3):
    before.append(jax.tree.map(np.asarray, state._replace(key=0)))
    state, row = step(state, _batch(i))
    skipped.append(float(row["skipped"]))
  before.append(jax.tree.map(np.asarray, state._replace(key=0)))
  assert skipped == [0, 1, 0]
  assert [s.step for s in before] == [0, 1, 2, 3]
  same = lambda i: all(
      np.array_equal(a, b)
      for a, b in zip(
          jax.tree.leaves(before[i]._replace(step=0)),
          jax.tree.leaves(before[i + 1]._replace(step=0)),
      )
  )
  assert [same(i) for i in range(3)] == [False, True, False]
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(before[3]))


def test_the_given_state_is_donated():
  step = parallel.map_devices(
      make_step(
          _method(8, True, parallel.AXIS_NAME),
          _optimizer(),
          parallel.AXIS_NAME,
      ),
      in_axes=(None, 0),
  )
  state = parallel.replicate(_state(8))
  new, _ = step(state, tiny.shards(_batch(0), 8))
  for leaf in jax.tree.leaves(state):
    assert leaf.is_deleted()
  for leaf in jax.tree.leaves(new):
    assert not leaf.is_deleted()


def _keep_gradients():
  """An optimizer that changes nothing and keeps the gradients."""
  return optax.GradientTransformation(
      lambda params: jax.tree.map(jnp.zeros_like, params),
      lambda gradients, state, params: (
          jax.tree.map(jnp.zeros_like, params),
          gradients,
      ),
  )


@pytest.mark.parametrize("groups", [1, 8])
def test_the_gradient_of_shards_is_that_of_the_global_batch(groups):
  state, batch = _state(groups), _batch(0)
  axis_name = parallel.AXIS_NAME
  step = _mapped(
      make_step(_method(groups, True, axis_name), _keep_gradients(), axis_name),
      "pmap",
      8,
  )
  kept = jax.tree.map(jnp.zeros_like, state.params)
  new, metrics = step(_state(groups)._replace(opt_state=kept), batch)

  method = _method(groups, True)
  key = jax.random.fold_in(state.key, 0)
  view_key, shared, local = jax.random.split(key, 3)

  @jax.jit
  def global_loss(params):
    views = method.views(view_key, batch)
    keys = Keys(shared, local)
    return method.loss(params, state.carried, views, keys, state.step)[0]

  gradient = jax.jit(jax.grad(global_loss))(state.params)
  tiny.assert_trees_close(new.opt_state, gradient, TOLERANCE)
  np.testing.assert_allclose(
      metrics["gradient_norm"], optax.tree.norm(gradient), rtol=TOLERANCE
  )
  np.testing.assert_allclose(
      metrics["loss"], global_loss(state.params), rtol=TOLERANCE
  )


def _probe(axis_name):
  """A method that carries what it saw in its last step."""
  real = _method(8, False, axis_name)

  def loss(params, carried, views, keys, step):
    del carried
    shared, local = map(jax.random.key_data, keys)
    gather = functools.partial(parallel.all_gather, axis_name=axis_name)
    seen = {
        "views": gather(jnp.stack(views, axis=1)),
        "shared": gather(shared[None]),
        "local": gather(local[None]),
        "step": step,
    }
    return params * jnp.mean(views[0]), Aux(seen, {})

  return real._replace(
      loss=loss,
      update=lambda params, carried, fresh, step: (params, fresh),
  )


def _unseen(*, step, devices=1):
  """A state for the probe."""
  params = jnp.ones(())
  carried = {
      "views": jnp.zeros((BATCH, 2, 8, 8, 3)),
      "shared": jnp.zeros((devices, 2), jnp.uint32),
      "local": jnp.zeros((devices, 2), jnp.uint32),
      "step": jnp.zeros((), jnp.int32),
  }
  return TrainState(
      jnp.asarray(step, jnp.int32),
      params,
      carried,
      optax.sgd(0.0).init(params),
      jax.random.key(3),
  )


@functools.cache
def _seen(mapping, devices, position=None):
  """What the probe saw in two steps over the same images."""
  axis_name = None if mapping == "jit" else parallel.AXIS_NAME
  step = make_step(_probe(axis_name), optax.sgd(0.0), axis_name)
  step = _mapped(step, mapping, devices)
  state = _unseen(step=0, devices=devices)
  batch, seen = _batch(0), []
  if position is not None:
    batch["position"] = jnp.asarray(position)
  for _ in range(2):
    state, _ = step(state, batch)
    seen.append(jax.tree.map(np.asarray, state.carried))
  return seen


def test_eight_devices_see_the_augmentations_of_one():
  for one, eight in zip(_seen("jit", 1), _seen("pmap", 8)):
    np.testing.assert_allclose(one["views"], eight["views"], atol=1e-6)
  # Not for want of augmentation: views, images and steps all differ.
  first, second = _seen("jit", 1)
  views = first["views"] - tiny.images(BATCH)[:, None] / 255.0
  for a, b in (
      (views[:, 0], views[:, 1]),
      (views[0], views[1]),
      (first["views"], second["views"]),
  ):
    assert np.mean(np.abs(a - b)) > 0.05


def test_a_position_in_the_batch_decides_the_augmentation():
  order = tuple(reversed(range(BATCH)))
  (given, _), (default, _) = _seen("jit", 1, order), _seen("jit", 1)
  noise = lambda seen: seen["views"] - tiny.images(BATCH)[:, None] / 255.0
  np.testing.assert_allclose(noise(given), noise(default)[::-1], atol=1e-6)


def test_devices_share_one_key_and_have_one_of_their_own():
  first, second = _seen("pmap", 8)
  for seen in (first, second):
    assert len(np.unique(seen["shared"], axis=0)) == 1
    assert len(np.unique(seen["local"], axis=0)) == 8
  assert np.any(first["shared"][0] != second["shared"][0])
  assert np.any(first["local"] != second["local"])
  assert (first["step"], second["step"]) == (0, 1)


def test_a_resumed_step_draws_what_the_first_run_drew():
  """Randomness is of the step's number, not of the calls before it."""
  step = jax.jit(make_step(_probe(None), optax.sgd(0.0)))
  state, _ = step(_unseen(step=1), _batch(0))
  np.testing.assert_array_equal(
      state.carried["views"], _seen("jit", 1)[1]["views"]
  )


FROZEN, AFTER = 4, 100
RATE = lambda step: 1e-2 / (1 + 0.01 * step)


def _spy():
  """A transformation that changes nothing and keeps what it saw."""
  return optax.GradientTransformation(
      lambda params: jax.tree.map(jnp.zeros_like, params),
      lambda updates, state, params=None: (updates, updates),
  )


def _with_prototypes(name, frozen_steps=FROZEN):
  return METHODS[name](
      tiny.Net(),
      augment=tiny.recipe,
      dim=8,
      hidden_dim=16,
      prototypes=12,
      frozen_steps=frozen_steps,
      # Without a norm, DINO's tiny projections have gradients of 1e4.
      **(
          dict(second_augment=None, projector_norm=True)
          if name == "dino"
          else {}
      ),
  )


def _train(method, optimizer, steps):
  """The states before and after each step, and its rows of metrics."""
  step = jax.jit(make_step(method, optimizer))
  states, rows = [tiny.start(method, optimizer, _batch(0))], []
  for i in range(steps):
    state, row = step(states[-1], _batch(i % 3))
    states.append(state)
    rows.append(row)
  return states, rows


@pytest.mark.slow
@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("optimizer", ["sgd", "lars", "adamw"])
@pytest.mark.parametrize("name", ["dino", "swav"])
def test_thawed_parameters_meet_an_optimizer_that_starts(
    name, optimizer, accumulated
):
  """Fresh moments and counts, but the schedule's own learning rate."""

  def make(thawed=0):
    rate = lambda step: RATE(step + thawed // accumulated)
    inner = optim.OPTIMIZERS[optimizer](rate, weight_decay=rate)
    return optim.accumulate(inner, accumulated)

  states, _ = _train(
      _with_prototypes(name),
      optax.chain(_spy(), make(), _spy()),
      FROZEN + AFTER,
  )
  drawn = states[0].params["prototypes"]
  for state in states[: FROZEN + 1]:
    np.testing.assert_allclose(state.params["prototypes"], drawn, atol=1e-7)
    for spied in state.opt_state[::2]:
      np.testing.assert_array_equal(spied["prototypes"], 0.0)
  fresh, update = make(FROZEN), jax.jit(make(FROZEN).update)
  expected_state = fresh.init(drawn)
  sizes = {}
  for i in range(1, AFTER + 1):
    before, after = states[FROZEN + i - 1], states[FROZEN + i]
    seen, _, actual = after.opt_state
    expected, expected_state = update(
        seen["prototypes"], expected_state, before.params["prototypes"]
    )
    np.testing.assert_allclose(
        actual["prototypes"], expected, rtol=1e-4, atol=1e-8, err_msg=str(i)
    )
    rate = RATE((FROZEN + i - 1) // accumulated)
    sizes[i] = float(jnp.sqrt(jnp.mean(actual["prototypes"] ** 2)) / rate)
  assert all(sizes[i] > 0 for i in range(accumulated, AFTER, accumulated))
  if optimizer == "adamw":
    assert sizes[accumulated] == pytest.approx(1.0, abs=0.05)
    # By a count that went on, 2 to 5 times as far.
    assert max(sizes.values()) < 1.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dino", "swav"])
def test_frozen_parameters_do_not_affect_the_others(name):
  """Neither in their updates nor by the limit of the gradient's norm."""
  optimizer = optim.adamw(RATE, weight_decay=0.1, clip_norm=1e-2)
  frozen, rows = _train(_with_prototypes(name), optimizer, 2)
  method = _with_prototypes(name, frozen_steps=0)

  def loss(params, carried, views, keys, step):
    hidden = jax.lax.stop_gradient(params["prototypes"])
    params = {**params, "prototypes": hidden}
    return method.loss(params, carried, views, keys, step)

  hidden, expected = _train(method._replace(loss=loss), optimizer, 2)
  others = lambda state: {k: state.params[k] for k in ("net", "projector")}
  # The second step, whose prototypes decayed, differs by them alone.
  tiny.assert_trees_close(others(frozen[1]), others(hidden[1]), 1e-7)
  norm = rows[0]["gradient_norm"]
  assert norm == expected[0]["gradient_norm"] > 1e-2
  _, free = _train(method, optimizer, 1)
  assert free[0]["gradient_norm"] > norm


@pytest.mark.slow
def test_a_parameter_frozen_for_ever_leaves_no_trace_in_the_optimizer():
  method = METHODS["moco_v3"](
      tiny.vit(), augment=tiny.recipe, second_augment=None, dim=8, hidden_dim=16
  )
  for optimizer in (
      optim.adamw(RATE, weight_decay=0.1),
      optim.lars(RATE, weight_decay=0.1),
      optax.adamw(1e-2),  # Its count does not matter here.
  ):
    states, _ = _train(method, optimizer, 2)
    flat = lambda state: {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            (state.params, state.opt_state)
        )
    }
    start, end = flat(states[0]), flat(states[-1])
    patch = [key for key in start if "['patch']" in key]
    assert len(patch) >= 4  # Kernel and bias, and of each at least a moment.
    for key in patch:
      np.testing.assert_array_equal(start[key], end[key], key)
    assert any(
        np.any(start[key] != end[key]) for key in set(start) - set(patch)
    )


@pytest.mark.slow
def test_an_optimizer_with_one_count_for_all_is_refused_for_a_while():
  for optimizer in (optax.adamw(0.1), optim.accumulate(optax.adam(0.1), 2)):
    with pytest.raises(ValueError, match="ScaleByAdamState.*jssl.optim.adamw"):
      _train(_with_prototypes("dino"), optimizer, 1)
  # Momentum starts at the first update of each parameter by itself.
  _train(_with_prototypes("dino"), optax.sgd(0.1, momentum=0.9), 1)
  _train(_with_prototypes("dino", frozen_steps=0), optax.adamw(0.1), 1)


@pytest.mark.slow
def test_an_optimizer_whose_updates_ignore_the_count_may_freeze():
  """Lion counts steps, but takes them all the same size."""
  for optimizer in (optax.lion(0.1), optim.accumulate(optax.lion(0.1), 2)):
    states, _ = _train(_with_prototypes("dino"), optimizer, FROZEN + 2)
    moves = [
        np.abs(b.params["prototypes"] - a.params["prototypes"]).max()
        for a, b in zip(states, states[1:])
    ]
    np.testing.assert_allclose(moves[:FROZEN], 0.0, atol=1e-7)
    assert max(moves[FROZEN:]) == pytest.approx(0.1, rel=0.01)
  # Without a second moment to start, none is refused; with one, any is.
  with pytest.raises(ValueError, match="ScaleByRmsWithCountState"):
    optimizer = optax.rmsprop(0.1, bias_correction=True)
    _train(_with_prototypes("dino"), optimizer, 1)


@pytest.mark.slow
def test_freezing_works_with_a_constant_learning_rate():
  """Whose optimizer is two, of parts of the parameters."""
  optimizer = optim.sgd(
      lambda step: 0.1 / (1 + step),
      weight_decay=0.1,
      constant_rate=("prototypes",),
  )
  states, _ = _train(_with_prototypes("dino"), optimizer, FROZEN + 1)
  drawn = states[0].params["prototypes"]
  np.testing.assert_array_equal(states[FROZEN].params["prototypes"], drawn)
  assert np.any(states[FROZEN + 1].params["prototypes"] != drawn)
  kept = [
      leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(
          states[FROZEN].opt_state
      )
      if "prototypes" in jax.tree_util.keystr(path)
  ]
  assert kept and not any(np.any(leaf) for leaf in kept)
