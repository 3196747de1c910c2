"""Steps compiled for devices that are not there, and what is read of them."""

import ctypes
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.extend.backend
import pytest

from jssl.bench import _program, compile
from jssl.config import of_method

_ROOT = pathlib.Path(__file__).parent.parent
_CYCLES = 'backend_config={"window_config":{"estimated_cycles":"%d"}}'


def _operation(name, opcode, cycles, scope="", more=""):
  config = _CYCLES % cycles if cycles else ""
  return (
      f"  %{name} = f32[8,128]{{1,0:T(8,128)}} {opcode}(%x), {more}"
      f' metadata={{op_name="jit(step)/{scope}"}}, {config}'
  )


_PROGRAM = "\n".join([
    "HloModule step",
    "%fused (p: f32[8,128]) -> f32[8,128] {",
    _operation("inner", "add", 1_000_000),  # Part of a fusion: does not count.
    "}",
    "%body (p: f32[8,128]) -> f32[8,128] {",
    _operation("product.1", "fusion", 30, "jvp(Net)/net/block_1/dot_general"),
    _operation("all-reduce.1", "all-reduce", 0, "psum"),
    "}",
    "%condition (p: f32[8,128]) -> pred[] {",
    "  %bound = s32[]{:T(128)} constant(20)",
    "}",
    "%small (p: f32[8,128]) -> f32[8,128] {",
    _operation("copy.9", "copy", 1, "cond/branch_fun/copy"),
    "}",
    "%large (p: f32[8,128]) -> f32[8,128] {",
    _operation("update.1", "fusion", 500, "cond/branch_fun/mul"),
    "}",
    "ENTRY %main (x: f32[8,128]) -> f32[8,128] {",
    _operation("view.1", "fusion", 100, "views/crop"),
    _operation(
        "while.1",
        "while",
        0,
        more="condition=%condition, body=%body",
    ),
    _operation(
        "grad.1", "fusion", 7, "transpose(jvp(Net))/net/block_2/dot_general"
    ),
    _operation("copy_fusion.1", "fusion", 40, "transpose"),
    _operation(
        "conditional.1",
        "conditional",
        0,
        more="branch_computations={%small, %large}",
    ),
    "}",
])


def test_loops_count_every_round_and_conditions_their_dearest_branch():
  operations = compile._operations(_PROGRAM)
  assert compile._cycles(operations) == 100 + 20 * 30 + 7 + 40 + 500


def test_groups_of_operations_have_names_without_numbers():
  found = compile._estimates(compile._operations(_PROGRAM), 1.0)
  assert found["dearest"] == {
      "Net/net/block/dot_general": 600,
      "mul": 500,
      "views/crop": 100,
      "transpose": 40,
      "Net/net/block/dot_general, backward": 7,
  }
  assert found["estimated_views_seconds"] == 100
  assert (found["copies"], found["estimated_copy_seconds"]) == (1, 40)


def test_collectives_of_a_loop_count_once_per_step():
  found = compile._collectives(compile._operations(_PROGRAM), 20)
  assert found == {"collectives": 1, "collective_bytes": 8 * 128 * 4}


def test_a_batch_that_devices_do_not_divide_is_refused():
  config = of_method("simclr", "cifar10")
  config.batch_size = 12
  with pytest.raises(ValueError, match="batch_size is 12.*--devices=8"):
    compile.measure(config, device="v5e", devices=8)


@pytest.mark.parametrize(
    "bytes_of, expected, compilations",
    [
        # Linear, and a workspace that only small batches notice.
        (lambda count: 2**30 + count * 2**25, 256, 2),
        (lambda count: 2**30 + 2**32 + count * 2**24, 512, 3),
        # A loss that compares all images.
        (lambda count: 2**30 + count * 2**25 + count**2 * 2**12, 256, 2),
        # The first one is too large, and nothing fits.
        (lambda count: 2**30 + count * 2**30, 8, 2),
        (lambda count: 2**35 + count, 2, 3),
    ],
)
@pytest.mark.parametrize("devices", [1, 8])
def test_the_largest_batch_that_fits_is_found(
    monkeypatch, bytes_of, expected, compilations, devices
):
  tried = []

  def measure(config, *, device, devices):
    tried.append(config.batch_size // devices)
    used = bytes_of(tried[-1])
    return dict(
        fits=used <= compile.DEVICES[device].memory,
        parameter_bytes=2**30,
        memory_bytes=used,
        batch_size=config.batch_size,
    )

  monkeypatch.setattr(compile, "measure", measure)
  config = of_method("simclr", "cifar10")
  found = compile.measure_largest(config, device="v5e", devices=devices)
  assert found["batch_size"] == expected * devices
  assert len(tried) <= compilations
  if found["fits"]:
    assert bytes_of(2 * expected) > compile.DEVICES["v5e"].memory


def test_what_the_host_is_does_not_matter(monkeypatch):
  """For a TPU, a CPU host gets what a TPU host would get."""
  config = of_method("mae", "digits")
  for name in ("default_backend", "devices"):
    monkeypatch.setattr(jax, name, lambda: pytest.fail("It asks the host."))
  config = _program.for_device(config)
  assert config.precision == "bfloat16"
  targets = jax.extend.backend.get_backend("cpu").devices()[:1]
  call, arguments = _program.make_call(config, targets)
  text = call.lower(*arguments).as_text()
  assert "dot_general" in text and "bf16" in text


def test_what_is_unknown_is_refused():
  config = of_method("simclr", "cifar10")
  with pytest.raises(ValueError, match="--device is 'v5'.*Did you mean 'v5e'"):
    compile.measure(config, device="v5")


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is not None, reason="It is installed."
)
def test_a_missing_compiler_says_how_to_install_it():
  config = of_method("simclr", "cifar10")
  with pytest.raises(ImportError, match=r"pip install 'jssl\[compilers\]'"):
    compile.measure(config, device="v5e")


_with_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="No compiler for TPU: pip install '.[compilers]'.",
)


@_with_compiler
@pytest.mark.parametrize(
    "method,net,image_size,devices",
    [
        ("mae", "vit_micro", 16, 1),
        ("mae", "vit_micro", 16, 8),
        ("simclr", "resnet8", 32, 1),
        ("moco_v2", "resnet8", 32, 8),
    ],
)
def test_a_step_is_compiled_for_a_tpu(method, net, image_size, devices):
  """Views, blocks of transformers and ResNets, optimizer and collectives."""
  done = subprocess.run(
      [
          *(sys.executable, "-m", "jssl.bench", "compile", "--device=v5e"),
          *(f"--method={method}", f"--net={net}", f"--devices={devices}"),
          *("--batch_size=64", f"--image_size={image_size}"),
      ],
      cwd=_ROOT,
      env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "false"},
      capture_output=True,
      text=True,
  )
  assert not done.returncode, done.stderr
  found = json.loads(done.stdout.splitlines()[-1])
  assert found["fits"] and found["parameter_bytes"] < found["memory_bytes"]
  assert 1e-5 < found["estimated_seconds"] < 1e-2
  assert 0 < found["estimated_views_seconds"] < found["estimated_seconds"]
  # Parameters and the optimizer's state are read, and written.
  assert found["traffic_bytes"] > 2 * found["parameter_bytes"]
  assert sum(found["dearest"].values()) <= found["estimated_seconds"] * 1.001
  assert (found["collective_bytes"] > 0) == (devices > 1)


@_with_compiler
def test_several_steps_are_estimated_as_each_of_them():
  code = """
import jax
jax.config.update("jax_platforms", "cpu")
from jssl.bench import _program, compile
from jssl.config import of_method
for steps in (1, 4):
  config = of_method("mae", "digits")
  config.steps_per_dispatch = steps
  print(compile.measure(config, device="v5e")["estimated_seconds"])
"""
  done = subprocess.run(
      [sys.executable, "-c", code],
      cwd=_ROOT,
      env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "false"},
      capture_output=True,
      text=True,
  )
  assert not done.returncode, done.stderr
  one, of_four = map(float, done.stdout.split())
  assert 0.7 * one < of_four < 1.3 * one


def _has_cudnn():
  try:
    ctypes.CDLL("libcudnn.so.9")
  except OSError:
    return False
  return importlib.util.find_spec("jax_cuda13_plugin") is not None


_KERNEL = """
import sys
import jax
import jax.numpy as jnp
jax.config.update("jax_platforms", "cpu")
from jssl.bench import _program, compile
from jssl.nets import attention

device, implementation, *sizes = sys.argv[1:]
tokens, heads, dim = map(int, sizes)

def loss(query, key, value):
  out = attention.attend(query, key, value, implementation=implementation)
  return jnp.sum(out.astype(jnp.float32) ** 2)

array = jax.ShapeDtypeStruct((1, 2, tokens, heads, dim), jnp.bfloat16)
gradient = jax.pmap(
    jax.grad(loss, argnums=(0, 1, 2)), devices=compile._targets(device, 1)
)
print(gradient.lower(array, array, array).compile().as_text())
"""


def _compiled_attention(*arguments):
  done = subprocess.run(
      [sys.executable, "-c", _KERNEL, *map(str, arguments)],
      cwd=_ROOT,
      env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "false"},
      capture_output=True,
      text=True,
  )
  assert not done.returncode, done.stderr
  return done.stdout


@_with_compiler
@pytest.mark.parametrize("device", ["v5e", "v6e"])
@pytest.mark.parametrize(
    "tokens,heads,dim",
    [
        (197, 3, 64),
        (50, 5, 32),
        (37, 2, 40),
        # The largest that `_short_attention.fits` lets through.
        pytest.param(577, 6, 64, marks=pytest.mark.slow),
        pytest.param(257, 16, 64, marks=pytest.mark.slow),
    ],
)
def test_the_attention_kernel_is_compiled_for_tpus(device, tokens, heads, dim):
  text = _compiled_attention(device, "pallas", tokens, heads, dim)
  assert text.count('custom_call_target="tpu_custom_call"') == 2
  assert f"[2,{heads},{tokens},{tokens}]" not in text


@pytest.mark.skipif(not _has_cudnn(), reason="No compiler for GPU, or cuDNN.")
@pytest.mark.parametrize("tokens", [196, 197])
def test_attention_by_cudnn_is_compiled_for_a_gpu(tokens):
  text = _compiled_attention("h100", "cudnn", tokens, 6, 64)
  assert text.count('custom_call_target="__cudnn$fmha') == 2
  assert f",{tokens},{tokens}]" not in text
