"""Attention, in the form that is fast on each kind of device.

The choice is made where a program is lowered, so exports and programs for other
devices get theirs.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jssl.nets import _short_attention

IMPLEMENTATIONS = ("auto", "einsum", "cudnn", "pallas")


def bias_of(valid: jax.Array, bias: jax.Array | None = None) -> jax.Array:
  """Makes a bias of the attention to valid tokens only.

  Args:
    valid: Which tokens are attended to, bool `[B, S]`, at least one per row.
    bias: Another bias that it is added to, or None.

  Returns:
    float32 `[B, 1 or heads, 1 or T, S]`, see `attend`: -inf at other tokens,
    which then influence neither value nor gradient.
  """
  own = jnp.where(valid, 0.0, -jnp.inf)[:, None, None]
  return own if bias is None else own + bias


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    bias: jax.Array | None = None,
    implementation: str = "auto",
) -> jax.Array:
  """Averages values by the softmax of scaled products of queries and keys.

  Kernels serve where they can, without a bias and with shapes that are known,
  so not in an export with a symbolic batch; products of arrays do elsewhere.

  Args:
    query: `[B, T, heads, D]`.
    key: `[B, S, heads, D]`.
    value: `[B, S, heads, D]`.
    bias: Added to the scaled products, float32, broadcast to `[B, heads, T,
      S]`; None for none.
    implementation: "einsum", without kernels; "cudnn", cuDNN's kernel on GPUs,
      in half precision; "pallas", the one of `jssl.nets._short_attention` on
      TPUs; or "auto", cuDNN's if all GPUs of this process support it. JAX
      exports a program with a kernel for one platform only.

  Returns:
    `[B, T, heads, D]`, of the type of `value`; the softmax is in float32.

  Raises:
    ValueError: If the implementation is unknown.

  Reference:
    Vaswani et al., Attention Is All You Need, 2017, equation 1.
  """
  check_implementation(implementation)
  if bias is not None:
    bias = bias.reshape((1,) * (4 - bias.ndim) + bias.shape)
  paths = {"cpu": _attend_by_head}
  shapes_are_known = all(isinstance(n, int) for n in query.shape + key.shape)
  if bias is None and shapes_are_known:
    if _is_for_cudnn(query) and (
        implementation == "cudnn"
        or (implementation == "auto" and _gpus_have_cudnn_attention())
    ):
      paths["cuda"] = _attend_by_cudnn
    if implementation == "pallas" and _short_attention.fits(query, key):
      paths["tpu"] = _attend_by_pallas
  return jax.lax.platform_dependent(
      *(query, key, value, bias), default=_attend_by_columns, **paths
  )


def check_implementation(name: str) -> None:
  """Refuses an unknown implementation, with a ValueError; see `attend`."""
  if name not in IMPLEMENTATIONS:
    raise ValueError(
        f"attention is {name!r}; expected one of {IMPLEMENTATIONS}."
    )


def _attend_by_head(query, key, value, bias):
  """For CPU: contiguous matrices, and a softmax that divides at last.

  It takes two thirds of the time of `jax.nn.dot_product_attention` there.
  """
  query = query * _short_attention.scale(query)
  q, k, v = (x.swapaxes(1, 2) for x in (query, key, value))
  scores = jnp.matmul(q, k.swapaxes(-1, -2), preferred_element_type=jnp.float32)
  if bias is not None:
    scores = scores + bias
  largest = jnp.max(scores, axis=-1, keepdims=True)
  weights = jnp.exp(scores - jax.lax.stop_gradient(largest))
  total = jnp.sum(weights, axis=-1, keepdims=True)
  sums = jnp.matmul(
      weights.astype(v.dtype), v, preferred_element_type=jnp.float32
  )
  return (sums / total).astype(v.dtype).swapaxes(1, 2)


# Scores are `[B, heads, S, T]`, a column per query. With a row per query, or a
# gradient by autodiff, the TPU's compiler transposes or keeps them in float32.
@jax.custom_vjp
def _attend_by_columns(query, key, value, bias):
  """For TPU: no array of T x S but one is kept, in the type of the values."""
  return _forward(query, key, value, bias)[0]


def _forward(query, key, value, bias):
  scores = _products(query * _short_attention.scale(query), key)
  if bias is not None:
    scores = scores + bias.swapaxes(-1, -2)
  weights = jnp.exp(scores - jnp.max(scores, axis=-2, keepdims=True))
  inverse = 1 / jnp.sum(weights, axis=-2)  # [B, heads, T]
  weights = weights.astype(value.dtype)
  sums = jnp.einsum(
      "bhst,bshd->bthd", weights, value, preferred_element_type=jnp.float32
  )
  out = (sums * _per_token(inverse)).astype(value.dtype)
  return out, (query, key, value, bias, weights, inverse, out)


def _backward(kept, slope):
  query, key, value, bias, weights, inverse, out = kept
  scale = _short_attention.scale(query)
  wide = slope.astype(jnp.float32)
  scaled = (wide * _per_token(inverse)).astype(value.dtype)
  to_value = jnp.einsum("bhst,bthd->bshd", weights, scaled)
  # The softmax's gradient: its mean over a column is that of the output.
  mean = jnp.sum(wide * out.astype(jnp.float32), axis=-1)  # [B, T, heads]
  centered = _products(slope, value) - mean.swapaxes(1, 2)[:, :, None]
  to_scores = weights.astype(jnp.float32) * inverse[:, :, None] * centered
  to_bias = None
  if bias is not None:
    to_bias = _sum_to(to_scores.swapaxes(-1, -2), bias.shape)
  to_scores = to_scores.astype(query.dtype)
  to_query = scale * jnp.einsum(
      "bhst,bshd->bthd", to_scores, key, preferred_element_type=jnp.float32
  )
  to_key = jnp.einsum("bhst,bthd->bshd", to_scores, query * scale)
  return to_query.astype(query.dtype), to_key, to_value, to_bias


_attend_by_columns.defvjp(_forward, _backward)


def _is_for_cudnn(query):
  half = query.dtype in (jnp.bfloat16, jnp.float16)
  return half and query.shape[-1] <= 128 and query.shape[-1] % 8 == 0


def _gpus_have_cudnn_attention():
  """Whether this process has GPUs, all of them Ampere or later."""
  try:
    devices = jax.local_devices(backend="cuda")
  except RuntimeError:
    return False
  return all(float(x.compute_capability) >= 8 for x in devices)


def _attend_by_cudnn(query, key, value, bias):
  """For GPU: cuDNN's kernel, whose gradient needs an even number of tokens."""
  del bias
  batch, tokens = query.shape[:2]
  odd = tokens % 2 or key.shape[1] % 2
  lengths = {}
  if odd:
    lengths = {
        "query_seq_lengths": jnp.full(batch, tokens, jnp.int32),
        "key_value_seq_lengths": jnp.full(batch, key.shape[1], jnp.int32),
    }
    query, key, value = map(_pad_to_even, (query, key, value))
  out = jax.nn.dot_product_attention(
      query, key, value, implementation="cudnn", **lengths
  )
  return out[:, :tokens]


def _pad_to_even(x):
  return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))


def _attend_by_pallas(query, key, value, bias):
  del bias
  return _short_attention.attend(query, key, value)


def _products(x, y):
  """Products of `[B, T, heads, D]` with `[B, S, heads, D]`, a column per x."""
  return jnp.einsum("bthd,bshd->bhst", x, y, preferred_element_type=jnp.float32)


def _per_token(x):
  """Brings `[B, heads, T]` to `[B, T, heads, 1]`."""
  return x.swapaxes(1, 2)[..., None]


def _sum_to(x: jax.Array, shape: Sequence[int]) -> jax.Array:
  """Sums over the axes along which a shape was broadcast."""
  axes = tuple(i for i, size in enumerate(shape) if size == 1)
  return jnp.sum(x, axis=axes, keepdims=True)
