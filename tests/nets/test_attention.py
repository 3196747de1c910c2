"""Attention: each path against the paper's equation, in value and gradient."""

import functools
import types

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import nets
from jssl.nets import _short_attention, attention

PATHS = {
    "cpu": attention._attend_by_head,
    "default": attention._attend_by_columns,
}
BATCH, HEADS, QUERIES, KEYS, DIM = 4, 3, 5, 7, 8
BIASES = {
    "none": None,
    "valid": (BATCH, 1, 1, KEYS),
    "relative": (1, HEADS, QUERIES, KEYS),
    "both": (BATCH, HEADS, QUERIES, KEYS),
}
each_path = pytest.mark.parametrize("path", PATHS)
each_bias = pytest.mark.parametrize("kind", BIASES)


def _inputs(kind="none", dtype=np.float32):
  random = np.random.default_rng(0)
  draw = lambda *shape: random.normal(size=shape).astype(np.float32)
  query, slope = (draw(BATCH, QUERIES, HEADS, DIM) for _ in range(2))
  key, value = (draw(BATCH, KEYS, HEADS, DIM) for _ in range(2))
  bias = None if BIASES[kind] is None else draw(*BIASES[kind])
  if kind in ("valid", "both"):
    valid = random.uniform(size=(BATCH, 1, 1, KEYS)) < 0.6
    valid[..., 0] = True
    bias = np.where(valid, bias, -np.inf).astype(np.float32)
  arrays = (jnp.asarray(x, dtype) for x in (3 * query, key, value))
  return (*arrays, bias), jnp.asarray(slope, dtype)


def _equation(inputs, slope):
  """Value and gradients in float64, by the derivative of the softmax."""
  *arrays, slope = (np.asarray(x, np.float64) for x in (*inputs[:3], slope))
  query, key, value = arrays
  scale = DIM**-0.5
  scores = np.einsum("bthd,bshd->bhts", query, key) * scale
  if inputs[3] is not None:
    scores = scores + inputs[3]
  weights = np.exp(scores - scores.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  out = np.einsum("bhts,bshd->bthd", weights, value)
  to_weights = np.einsum("bthd,bshd->bhts", slope, value)
  mean = np.sum(weights * to_weights, -1, keepdims=True)
  to_scores = weights * (to_weights - mean)
  gradients = [
      scale * np.einsum("bhts,bshd->bthd", to_scores, key),
      scale * np.einsum("bhts,bthd->bshd", to_scores, query),
      np.einsum("bhts,bthd->bshd", weights, slope),
  ]
  if inputs[3] is not None:
    shape = inputs[3].shape
    axes = tuple(i for i in range(4) if shape[i] < to_scores.shape[i])
    gradients.append(to_scores.sum(axes, keepdims=True))
  return out, gradients


def _by_kernel(query, key, value, _):
  return _short_attention.attend(query, key, value, interpret=True)


@functools.partial(jax.jit, static_argnums=0)
def _run(function, inputs, slope):
  out, pull = jax.vjp(function, *inputs)
  return out, [x for x in pull(slope) if x is not None]


@each_path
@each_bias
def test_value_and_gradient_are_the_equation_of_the_paper(path, kind):
  inputs, slope = _inputs(kind)
  out, gradients = _run(PATHS[path], inputs, slope)
  expected, slopes = _equation(inputs, slope)
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
  assert len(gradients) == len(slopes)
  for found, expected in zip(gradients, slopes):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@each_path
@each_bias
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_near(path, kind, dtype):
  inputs, slope = _inputs(kind, dtype)
  out, gradients = _run(PATHS[path], inputs, slope)
  expected, slopes = _equation(inputs, slope)
  assert [x.dtype for x in (out, *gradients[:3])] == [dtype] * 4
  assert all(x.dtype == jnp.float32 for x in gradients[3:])
  for found, exact in zip([out, *gradients], [expected, *slopes]):
    found = np.asarray(found, np.float32)
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert error < (0.01 if dtype == jnp.bfloat16 else 0.002)


@each_path
def test_large_scores_do_not_overflow(path):
  inputs, slope = _inputs()
  inputs = (300 * inputs[0], *inputs[1:])
  out, gradients = _run(PATHS[path], inputs, slope)
  expected, _ = _equation(inputs, slope)
  np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-3)
  assert all(np.all(np.isfinite(x)) for x in gradients)


@each_path
def test_tokens_that_are_not_valid_have_no_influence(path):
  (query, key, value, _), slope = _inputs()
  valid = np.random.default_rng(1).uniform(size=(BATCH, KEYS)) < 0.6
  valid[:, 0] = True
  bias = attention.bias_of(valid)
  out, (*same, _) = _run(PATHS[path], (query, key, value, bias), slope)
  kept = valid[..., None, None]
  moved = [np.where(kept, x, 100 * x) for x in (key, value)]
  again, (*others, _) = _run(PATHS[path], (query, *moved, bias), slope)
  np.testing.assert_array_equal(out, again)
  jax.tree.map(np.testing.assert_array_equal, same, others)
  assert not np.any(same[1][~valid]) and not np.any(same[2][~valid])


def test_biases_are_broadcast_and_added():
  (query, key, value, relative), _ = _inputs("relative")
  valid = np.random.default_rng(1).uniform(size=(BATCH, KEYS)) < 0.6
  valid[:, 0] = True
  expected = attention.attend(query, key, value, bias=relative)
  found = attention.attend(query, key, value, bias=relative[0])
  np.testing.assert_array_equal(found, expected)
  bias = attention.bias_of(valid, relative)
  assert bias.shape == (BATCH, HEADS, QUERIES, KEYS)
  found = attention.attend(query, key, value, bias=bias)
  own = np.where(valid, 0, -np.inf)[:, None, None]
  arrays = (query, key, value, relative + own)
  expected, _ = _equation(arrays, np.zeros_like(query))
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@each_path
def test_it_can_be_mapped(path):
  inputs, slope = _inputs("both")
  parts = lambda x: x.reshape(2, BATCH // 2, *x.shape[1:])
  run = functools.partial(_run, PATHS[path])
  whole = run(inputs, slope)
  mapped = jax.vmap(run)(jax.tree.map(parts, inputs), parts(slope))
  for found, expected in zip(*map(jax.tree.leaves, (mapped, whole))):
    found = found.reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [*PATHS, "kernel"])
@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
def test_devices_share_a_batch(name, mapping):
  (*inputs, bias), slope = _inputs("both")
  path = (PATHS | {"kernel": _by_kernel})[name]
  bias = None if name == "kernel" else bias
  run = functools.partial(_run, path)
  whole = run((*inputs, bias), slope)
  devices = jax.devices()[:2]
  parts = lambda x: x.reshape(2, BATCH // 2, *x.shape[1:])
  arguments = (*inputs, bias), slope
  if mapping == "pmap":
    run = jax.pmap(run, devices=devices)
    arguments = jax.tree.map(parts, arguments)
  else:
    mesh = jax.make_mesh(
        (2,),
        ("data",),
        devices=devices,
        axis_types=(jax.sharding.AxisType.Auto,),
    )
    spec = jax.sharding.PartitionSpec("data")
    run = jax.jit(
        jax.shard_map(
            run,
            mesh=mesh,
            in_specs=spec,
            out_specs=spec,
            check_vma=name != "kernel",  # Pallas cannot infer it.
        )
    )
  for found, exact in zip(*map(jax.tree.leaves, (run(*arguments), whole))):
    found = found.reshape(exact.shape)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)


@each_bias
def test_one_array_of_all_pairs_is_kept_in_half_precision(kind):
  inputs, _ = _inputs(kind, jnp.bfloat16)
  _, pull = jax.vjp(PATHS["default"], *inputs)
  shapes = [(BATCH, HEADS, *x) for x in ((QUERIES, KEYS), (KEYS, QUERIES))]
  pairs = [x for x in jax.tree.leaves(pull) if x.shape in shapes]
  bias = kind == "both"  # It is as large, and the caller's.
  assert len(pairs) == 1 + bias
  assert sum(x.dtype == jnp.bfloat16 for x in pairs) == 1


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_the_path_is_chosen_where_the_program_is_lowered(platform):
  (query, key, value, _), _ = _inputs()
  exported = jax.export.export(jax.jit(attention.attend), platforms=[platform])
  text = exported(query, key, value).mlir_module()
  by_columns = f"{BATCH}x{HEADS}x{KEYS}x{QUERIES}xf32"
  by_head = f"{BATCH}x{HEADS}x{QUERIES}x{KEYS}xf32"
  assert (by_columns in text) == (platform != "cpu")
  assert (by_head in text) == (platform == "cpu")


# Kernels.

_interpreted = functools.partial(_short_attention.attend, interpret=True)


@pytest.mark.parametrize(
    "queries,keys,heads,dim", [(197, 197, 3, 64), (50, 50, 5, 32), (5, 7, 2, 8)]
)
def test_the_kernel_for_tpu_agrees_in_value_and_gradient(
    queries, keys, heads, dim
):
  random = np.random.default_rng(2)
  draw = lambda *shape: random.normal(size=shape).astype(np.float32)
  query, slope = (draw(2, queries, heads, dim) for _ in range(2))
  inputs = (2 * query, *(draw(2, keys, heads, dim) for _ in range(2)))
  columns = lambda *arrays: PATHS["default"](*arrays, None)
  expected = _run(columns, inputs, slope)
  for found, exact in zip(
      *map(jax.tree.leaves, (_run(_interpreted, inputs, slope), expected))
  ):
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)


def test_the_kernel_for_tpu_is_near_in_half_precision():
  (*inputs, _), slope = _inputs(dtype=jnp.bfloat16)
  out, gradients = _run(_interpreted, tuple(inputs), slope)
  expected, slopes = _equation((*inputs, None), slope)
  for found, exact in zip([out, *gradients], [expected, *slopes]):
    assert found.dtype == jnp.bfloat16
    error = np.linalg.norm(np.asarray(found, np.float32) - exact)
    assert error < 0.01 * np.linalg.norm(exact)


def test_the_kernel_for_tpu_can_be_mapped():
  (*inputs, _), slope = _inputs()
  parts = lambda x: x.reshape(2, BATCH // 2, *x.shape[1:])
  run = functools.partial(_run, _interpreted)
  whole = run(tuple(inputs), slope)
  mapped = jax.vmap(run)(tuple(map(parts, inputs)), parts(slope))
  for found, exact in zip(*map(jax.tree.leaves, (mapped, whole))):
    found = found.reshape(exact.shape)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)


def _exported(platform, shape, *, implementation, bias=None):
  function = jax.jit(
      functools.partial(
          attention.attend, bias=bias, implementation=implementation
      )
  )
  arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16)] * 3
  return jax.export.export(function, platforms=[platform])(*arrays)


def test_the_kernel_for_tpu_is_in_its_programs_only():
  shape = (2, 197, 3, 64)
  has_kernel = lambda *arguments, **others: (
      "tpu_custom_call" in _exported(*arguments, **others).mlir_module()
  )
  assert has_kernel("tpu", shape, implementation="pallas")
  assert not has_kernel("tpu", shape, implementation="auto")
  assert not has_kernel("tpu", shape, implementation="einsum")
  assert not has_kernel("cpu", shape, implementation="pallas")
  assert not has_kernel("cuda", shape, implementation="pallas")
  # Biases, symbolic batches and long sequences are left to products.
  bias = np.zeros((1, 3, 197, 197), np.float32)
  assert not has_kernel("tpu", shape, implementation="pallas", bias=bias)
  (batch,) = jax.export.symbolic_shape("batch")
  assert not has_kernel("tpu", (batch, *shape[1:]), implementation="pallas")
  assert not has_kernel("tpu", (2, 577, 12, 64), implementation="pallas")


@pytest.mark.parametrize("queries,keys", [(5, 7), (5, 6), (6, 7), (6, 6)])
def test_an_odd_number_of_tokens_is_padded_for_cudnn(
    monkeypatch, queries, keys
):
  original, lengths = jax.nn.dot_product_attention, []

  def on_cpu(*arrays, implementation, **others):
    assert implementation == "cudnn"
    assert not any(x.shape[1] % 2 for x in arrays)
    lengths.extend(others)
    return original(*arrays, **others)

  monkeypatch.setattr(jax.nn, "dot_product_attention", on_cpu)
  (query, key, value, _), slope = _inputs()
  inputs = (
      jnp.concatenate([query, query[:, :1]], 1)[:, :queries],
      *(x[:, :keys] for x in (key, value)),
  )
  slope = jnp.concatenate([slope, slope[:, :1]], 1)[:, :queries]
  out, gradients = _run(attention._attend_by_cudnn, (*inputs, None), slope)
  expected, slopes = _equation((*inputs, None), slope)
  assert bool(lengths) == bool(queries % 2 or keys % 2)
  for found, exact in zip([out, *gradients], [expected, *slopes]):
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)


def test_cudnn_is_used_where_it_applies(monkeypatch):
  def is_used(dim=64, dtype=jnp.bfloat16, bias=None, implementation="auto"):
    used = []

    def by_cudnn(query, *_):  # Another function each time: JAX caches traces.
      used.append(query.shape)
      return query

    monkeypatch.setattr(attention, "_attend_by_cudnn", by_cudnn)
    arrays = [jax.ShapeDtypeStruct((2, 6, 3, dim), dtype)] * 3
    attend = functools.partial(attention.attend, implementation=implementation)
    jax.eval_shape(attend, *arrays, bias=bias)
    return bool(used)

  monkeypatch.setattr(attention, "_gpus_have_cudnn_attention", lambda: True)
  assert is_used() and is_used(dtype=jnp.float16)
  assert is_used(implementation="cudnn")
  assert not is_used(dtype=jnp.float32)
  assert not is_used(dim=132) and not is_used(dim=20)
  assert not is_used(bias=jnp.zeros((1, 1, 1, 6)))
  assert not is_used(implementation="einsum")
  assert not is_used(implementation="pallas")
  monkeypatch.setattr(attention, "_gpus_have_cudnn_attention", lambda: False)
  assert not is_used() and is_used(implementation="cudnn")


def test_gpus_support_cudnn_attention_from_ampere_on(monkeypatch):
  def none(backend):
    raise RuntimeError(f"Unknown backend {backend}")

  gpu = lambda x: types.SimpleNamespace(compute_capability=x)
  monkeypatch.setattr(jax, "local_devices", none)
  assert not attention._gpus_have_cudnn_attention()
  for found, expected in (
      (["7.5"], False),
      (["8.0"], True),
      (["10.0"], True),
      (["9.0", "7.0"], False),
  ):
    devices = list(map(gpu, found))
    monkeypatch.setattr(jax, "local_devices", lambda backend: devices)
    assert attention._gpus_have_cudnn_attention() == expected


@pytest.mark.parametrize("implementation", attention.IMPLEMENTATIONS)
def test_nets_hand_on_the_implementation(monkeypatch, implementation):
  seen = []

  def attend(query, key, value, *, bias, implementation):
    seen.append(implementation)
    return value

  monkeypatch.setattr(nets.vit, "attend", attend)
  net = nets.ViT(
      8,
      depth=2,
      heads=2,
      patch_size=4,
      image_size=8,
      attention=implementation,
  )
  key = jax.random.key(0)
  jax.eval_shape(net.init, key, jnp.zeros((1, 8, 8, 3)))
  decoder = nets.TransformerDecoder(
      12, width=8, depth=1, heads=2, attention=implementation
  )
  index = jnp.zeros((1, 2), int)
  run = functools.partial(decoder.init, grid=(2, 2))
  jax.eval_shape(run, key, jnp.zeros((1, 3, 8)), index, index)
  assert seen == [implementation] * 3


def test_an_unknown_implementation_is_refused():
  inputs, _ = _inputs()
  with pytest.raises(ValueError, match="attention is 'flash'.*'cudnn'"):
    attention.attend(*inputs[:3], implementation="flash")
  net = nets.vit_tiny(attention="flash")
  with pytest.raises(ValueError, match="attention is 'flash'.*'pallas'"):
    jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
