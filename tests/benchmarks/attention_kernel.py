"""Counts the instructions of the attention kernel for a TPU, without one.

  python tests/benchmarks/attention_kernel.py v5e 256 197 6 64

prints, for a batch of 256 images with 197 tokens and 6 heads of 64 features,
the cycles of its forward and backward pass as the compiler schedules them. A
bundle of instructions takes a cycle; the time to move data, which goes on
meanwhile, is computed from its bytes. `jssl.bench compile` knows neither.
"""

import os
import pathlib
import re
import tempfile

from absl import app
import jax
import jax.numpy as jnp

from jssl import cli
from jssl.bench import compile
from jssl.bench._timing import show
from jssl.nets import attention

_BANDWIDTH = {"v5e": 819e9, "v6e": 1640e9}  # Bytes per second.
_BUNDLES = re.compile(r"non empty scheduled bundles: (\d+)")


def main(argv: list[str]) -> None:
  """Prints the seconds on a key of `compile.DEVICES`, for the given sizes."""
  device, (batch, *shape) = argv[1], map(int, argv[2:])
  jax.config.update("jax_platforms", "cpu")
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
    # Read when libtpu is loaded.
    os.environ["LIBTPU_INIT_ARGS"] = (
        f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
    )
    _compile(device, (batch, *shape))
    forward, backward = (
        bundles * batch / compile.DEVICES[device].clock
        for bundles in _bundles(folder)
    )
  array = 2 * batch * shape[0] * shape[1] * shape[2]
  show({
      "device": device,
      "forward_seconds": forward,
      "backward_seconds": backward,
      "forward_seconds_of_transfers": 4 * array / _BANDWIDTH[device],
      "backward_seconds_of_transfers": 7 * array / _BANDWIDTH[device],
  })


def _compile(device, shape):
  def loss(*arrays):
    out = attention.attend(*arrays, implementation="pallas")
    return jnp.sum(out.astype(jnp.float32) ** 2)

  gradient = jax.pmap(
      jax.grad(loss, argnums=(0, 1, 2)), devices=compile._targets(device, 1)
  )
  array = jax.ShapeDtypeStruct((1, *shape), jnp.bfloat16)
  gradient.lower(array, array, array).compile()


def _bundles(folder):
  """Reads the numbers of bundles of the two kernels, of which one is longer."""
  schedules = pathlib.Path(folder).glob("*-schedule-analysis_final_bundles.txt")
  texts = [path.read_text() for path in schedules]
  return sorted(
      int(_BUNDLES.search(text)[1])
      for text in texts
      # The whole program, of several operations, names the kernels, too.
      if text.count("custom_call_target") == 1
      and 'custom_call_target="tpu_custom_call"' in text
  )


if __name__ == "__main__":
  app.run(main, flags_parser=lambda argv: cli.parse(argv, words=5))
