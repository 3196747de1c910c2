"""Estimates loss and gradient of two ViT-S blocks on a TPU, without one.

  python tests/benchmarks/blocks.py v5e auto

prints, for an implementation of the attention (see `jssl.nets.attention`), what
`jssl.bench.compile` reads of the compiled program. The estimate is the
compiler's, not a measurement, and lacks kernels.
"""

from absl import app
import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl import cli
from jssl.bench import compile
from jssl.bench._timing import show
from jssl.nets import vit

_BATCH, _TOKENS, _WIDTH = 256, 197, 384  # Images of 224 pixels.


def main(argv: list[str]) -> None:
  """Prints the estimates for a key of `compile.DEVICES`."""
  _, device, implementation = argv
  jax.config.update("jax_platforms", "cpu")
  block = lambda i: vit.Block(
      6, attention=implementation, dtype=jnp.bfloat16, name=f"block_{i}"
  )
  blocks = nn.Sequential([lambda x, i=i: block(i)(x) for i in (1, 2)])
  tokens = jax.ShapeDtypeStruct((_BATCH, _TOKENS, _WIDTH), jnp.bfloat16)
  params = jax.eval_shape(blocks.init, jax.random.key(0), tokens)

  def loss(params, tokens):
    return jnp.sum(blocks.apply(params, tokens).astype(jnp.float32) ** 2)

  gradient = jax.pmap(
      jax.grad(loss),
      in_axes=(None, 0),
      out_axes=None,
      devices=compile._targets(device, 1),
  )
  shares = jax.ShapeDtypeStruct((1, *tokens.shape), tokens.dtype)
  compiled, costs = compile._compile(gradient, (params, shares))
  operations = compile._operations(compiled.as_text())
  clock = compile.DEVICES[device].clock
  show(costs | compile._estimates(operations, clock))


if __name__ == "__main__":
  app.run(main, flags_parser=lambda argv: cli.parse(argv, words=2))
