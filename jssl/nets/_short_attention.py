"""A TPU kernel for attention over few tokens, such as the patches of an image.

All scores of an image and head are in the chip's fast memory at once: no array
of T x S is read from or written to the large one, and queries, keys and values
are read in the layout that linear layers give them, heads side by side. The
backward pass computes the scores anew.
"""

import functools
import math

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
import numpy as np

# Of the 16 MiB that a v5e gives a kernel. The rest is for scores.
_BLOCK_BYTES = 12 * 2**20
_LANES, _SUBLANES = 128, 8


def fits(query: jax.Array, key: jax.Array) -> bool:
  """Returns whether an image's arrays fit into the chip's fast memory.

  Args:
    query: `[B, T, heads, D]`.
    key: `[B, S, heads, D]`.
  """
  tokens = [-(-x.shape[1] // _SUBLANES) * _SUBLANES for x in (query, key)]
  width = -(-math.prod(query.shape[2:]) // _LANES) * _LANES
  # The backward pass has three arrays of T tokens and four of S. The next
  # image is loaded and the last is stored meanwhile.
  block = 2 * (3 * tokens[0] + 4 * tokens[1]) * width * query.dtype.itemsize
  scores = 3 * 4 * tokens[0] * (-(-tokens[1] // _LANES) * _LANES)
  return block + scores <= _BLOCK_BYTES


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    interpret: bool = False,
) -> jax.Array:
  """Computes `jssl.nets.attention.attend` without a bias, on a TPU.

  Args:
    query: `[B, T, heads, D]`.
    key: `[B, S, heads, D]`.
    value: `[B, S, heads, D]`.
    interpret: Whether to run the kernel's operations one by one, on any device.

  Returns:
    `[B, T, heads, D]`.
  """
  return _forward(query, key, value, interpret)[0]


def _forward(query, key, value, interpret):
  (out,) = _call(_forward_kernel, [query, key, value], [query], interpret)
  return out, (query, key, value)


def _backward(interpret, kept, slope):
  arrays = [*kept, slope]
  return tuple(_call(_backward_kernel, arrays, kept, interpret))


attend.defvjp(_forward, _backward)


def _call(kernel, arrays, like, interpret):
  """Runs a kernel on each image; results have the shapes of other arrays."""
  batch, _, heads, dim = arrays[0].shape
  flat = lambda x: (*x.shape[:2], heads * dim)
  block = lambda x: pl.BlockSpec((1, *flat(x)[1:]), lambda i: (i, 0, 0))
  results = [jax.ShapeDtypeStruct(flat(x), x.dtype) for x in like]
  pairs = batch * heads * arrays[0].shape[1] * arrays[1].shape[1]
  products = 2 if len(like) == 1 else 5
  outputs = pl.pallas_call(
      functools.partial(kernel, heads),
      grid=(batch,),
      in_specs=[block(x) for x in arrays],
      out_specs=[block(x) for x in like],
      out_shape=results,
      interpret=interpret,
      compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
      cost_estimate=pl.CostEstimate(
          flops=2 * products * pairs * dim,
          transcendentals=pairs,
          bytes_accessed=sum(x.nbytes for x in (*arrays, *like)),
      ),
  )(*(x.reshape(flat(x)) for x in arrays))
  return [x.reshape(y.shape) for x, y in zip(outputs, like)]


# Scores are `[S, T]`: sums over a column need no exchange between lanes, and
# only arrays of a head's width are transposed.


def _forward_kernel(heads, query, key, value, out):
  for part in _parts(query, heads):
    q, k, v = (x[0, :, part] for x in (query, key, value))
    q = q * scale(q)
    weights, inverse = _softmax(q, k)
    sums = _product(v, weights.astype(v.dtype), 0, 0)  # [D, T]
    out[0, :, part] = (sums * inverse).T.astype(out.dtype)


def _backward_kernel(
    heads, query, key, value, slope, to_query, to_key, to_value
):
  for part in _parts(query, heads):
    q, k, v, g = (x[0, :, part] for x in (query, key, value, slope))
    factor = scale(q)
    q = q * factor
    weights, inverse = _softmax(q, k)
    weights = weights * inverse
    sums = _product(weights.astype(g.dtype), g, 1, 0)
    to_value[0, :, part] = sums.astype(to_value.dtype)
    to_weights = _product(v, g, 1, 1)
    mean = jnp.sum(weights * to_weights, axis=0, keepdims=True)
    to_scores = (weights * (to_weights - mean)).astype(q.dtype)
    sums = _product(to_scores, q, 1, 0)
    to_key[0, :, part] = sums.astype(to_key.dtype)
    sums = _product(k, to_scores, 0, 0) * factor.astype(np.float32)  # [D, T]
    to_query[0, :, part] = sums.T.astype(to_query.dtype)


def _parts(x, heads):
  """Features of each head, of `[1, T, heads * D]`."""
  dim = x.shape[-1] // heads
  return [slice(i * dim, (i + 1) * dim) for i in range(heads)]


def _softmax(query, key):
  """Returns unnormalised weights `[S, T]`, and 1 / their sums `[1, T]`."""
  scores = _product(key, query, 1, 1)
  weights = jnp.exp(scores - jnp.max(scores, axis=0, keepdims=True))
  return weights, 1 / jnp.sum(weights, axis=0, keepdims=True)


def scale(query: jax.Array) -> np.ndarray:
  """Returns the factor of the scores, `D ** -0.5`, of the type of `query`."""
  return np.float32(query.shape[-1] ** -0.5).astype(query.dtype)


def _product(x, y, axis, other):
  """Sums products of matrices over an axis of each, in float32."""
  dimensions = (((axis,), (other,)), ((), ()))
  return jax.lax.dot_general(
      x, y, dimensions, preferred_element_type=jnp.float32
  )
