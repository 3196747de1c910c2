"""Compiles train steps for a TPU or GPU that this machine does not have.

The compilers of TPU (libtpu) and GPU (JAX's CUDA plugin) run anywhere. Memory
is their plan, exact up to what the device's runtime keeps for itself. Times are
the TPU compiler's estimates: cycles that it expects of each operation, without
custom calls and collectives, as if memory and compute never waited.
"""

import collections
from collections.abc import Iterable, Mapping
import dataclasses
import importlib.util
import math
import os
import re
import time
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
import jax.numpy as jnp

from jssl.bench import _program
from jssl.config import ConfigDict, lookup

_GROUPS = 12  # Groups of operations that are listed.
_FIRST_BATCH = 64  # Images per device with which `measure_largest` starts.


@dataclasses.dataclass(frozen=True)
class Device:
  """A kind of device, of which data sheets give the limits.

  Attributes:
    platform: "tpu" or "cuda".
    module: What has to be installed to compile for it.
    memory: Bytes of its memory.
    flops: Operations per second in bfloat16.
    clock: Cycles per second of the compiler's estimates; None if it has none.
    topologies: Arguments of JAX's description, by number of devices.
  """

  platform: str
  module: str
  memory: int
  flops: float
  clock: float | None
  topologies: Mapping[int, dict[str, Any]]


def _tpu(name):
  """Returns topologies of one, four and eight chips of one host."""
  bounds = {1: (1, 1, 1), 4: (2, 2, 1), 8: (2, 4, 1)}
  return {
      count: dict(
          topology_name=f"{name}:{sides[0]}x{sides[1]}",
          chips_per_host_bounds=sides,
          num_slices=1,
      )
      for count, sides in bounds.items()
  }


# Facts of NVIDIA's H100 SXM that the compiler plans with.
_H100 = """
gpu_device_info {
  name: "NVIDIA H100 80GB HBM3"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability { major: 9 }
  core_count: 132
  clock_rate_ghz: 1.98
  fpus_per_core: 128
  device_memory_size: 84942979072
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_core_limit: 2048
  threads_per_block_limit: 1024
  threads_per_warp: 32
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  driver_version: "13.0.0"
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
"""
DEVICES = {
    "v5e": Device("tpu", "libtpu", 16 * 2**30, 197e12, 1.5e9, _tpu("v5e")),
    "v6e": Device("tpu", "libtpu", 32 * 2**30, 918e12, 1.75e9, _tpu("v6e")),
    "h100": Device(
        "cuda",
        "jax_cuda13_plugin",
        84_942_979_072,
        989e12,
        None,
        {
            count: dict(
                topology_name="h100",
                target_config=_H100,
                topology=f"1x1x{count}",
            )
            for count in (1, 4, 8)
        },
    ),
}


def measure(
    config: ConfigDict, *, device: str, devices: int = 1
) -> dict[str, Any]:
  """Compiles the train step of a config, augmentation included.

  Args:
    config: See `jssl.config.base`; its data set is not opened. With
      `steps_per_dispatch` above 1, that many steps of a resident data set are
      compiled into one program, else one step of a streamed one.
    device: A key of `DEVICES`.
    devices: Number of them that share the batch.

  Returns:
    Of one step, and of one device where several share the batch:

    - "fits", and the bytes of memory: "memory_bytes", of which
      "parameter_bytes" (parameters, optimizer and what the method carries),
      "data_bytes" and "activation_bytes"; where it does not fit, there is
      nothing that follows, except the time to find out;
    - "flops" and "traffic_bytes", what operations read and write, as the
      compiler counts them; for micro-batches "flops" are those of the whole
      batch, and the traffic is None;
    - "estimated_seconds", "estimated_images_per_second" of all devices, and
      "estimated_fraction_of_peak", of the data sheet's peak in bfloat16; None
      for a GPU, whose compiler does not estimate;
    - "estimated_copy_seconds" and "copies": operations that only copy or
      transpose;
    - "estimated_views_seconds": those of the augmentation;
    - "dearest": seconds of the twelve dearest groups of operations, named by
      their scopes without numbers, so that equal layers are together;
    - "kernels": number of hand-written ones, which the estimate lacks;
    - "collectives": their number and "collective_bytes";
    - "compile_seconds" of wall time and "compile_cpu_seconds".

  Raises:
    ValueError: If the device is unknown, or something in the config is wrong.
    ImportError: If its compiler is not installed.
  """
  kind = DEVICES[lookup("--device", device, DEVICES)]
  config = _program.for_device(config)
  if config.batch_size % devices:
    raise ValueError(
        f"config.batch_size is {config.batch_size}; expected a multiple of"
        f" --devices={devices}."
    )
  steps = max(config.steps_per_dispatch, 1)
  call, arguments = _program.make_call(config, _targets(device, devices), steps)
  compiled, costs = _compile(call, arguments)
  state, *batch = arguments
  result = {
      "device": device,
      "devices": devices,
      "method": config.method.name,
      "net": config.net.name,
      "image_size": config.image_size,
      "batch_size": config.batch_size,
      "steps_per_dispatch": steps,
      "fits": compiled is not None and costs["memory_bytes"] <= kind.memory,
      "parameter_bytes": _size(state),
      "data_bytes": _size(batch) // devices,
      **costs,
      "jax": jax.__version__,
  }
  if compiled is None:
    return result
  operations = _operations(compiled.as_text())
  flops, traffic = _program.count(config, compiled, devices=devices)
  result |= {"flops": flops, "traffic_bytes": traffic}
  result |= _collectives(operations, steps)
  if kind.clock:
    result |= _estimates(operations, kind.clock, steps)
    seconds = result["estimated_seconds"]
    result |= {
        "estimated_images_per_second": config.batch_size / seconds,
        "estimated_fraction_of_peak": flops / seconds / kind.flops,
    }
  return result


def measure_largest(
    config: ConfigDict, *, device: str, devices: int = 1
) -> dict[str, Any]:
  """Compiles with the largest batch that fits, a power of two per device.

  Args:
    config: See `measure`; its batch size is not used.
    device: See `measure`.
    devices: See `measure`.

  Returns:
    The result of `measure` with that batch, or with two images per device if
    even these do not fit. Memory grows almost linearly with the batch, so two
    or three compilations find it.

  Raises:
    ValueError: See `measure`.
    ImportError: See `measure`.
  """
  limit = DEVICES[lookup("--device", device, DEVICES)].memory
  config = config.copy_and_resolve_references()
  results: dict[int, dict[str, Any]] = {}
  memory = {}
  count = _FIRST_BATCH
  while count not in results:
    config.batch_size = count * devices
    results[count] = measure(config, device=device, devices=devices)
    memory[0] = results[count]["parameter_bytes"]
    memory[count] = results[count]["memory_bytes"]
    count = _largest_power(memory, limit)
  fitting = [x for x, result in results.items() if result["fits"]]
  return results[max(fitting, default=min(results))]


def _largest_power(memory, limit):
  """Returns the largest power of two whose memory is within a limit, 2 or more.

  Memory is a line through the two largest counts that are known.
  """
  low, high = sorted(memory)[-2:]
  per_image = (memory[high] - memory[low]) / (high - low)
  most = high + (limit - memory[high]) / per_image
  return 2 ** max(math.floor(math.log2(max(most, 2))), 1)


def _compile(call, arguments):
  """Compiles; returns the program, None if it does not fit, and its costs."""
  start, start_cpu = time.perf_counter(), time.process_time()
  try:
    compiled = call.lower(*arguments).compile()
    plan = compiled.memory_analysis()
    costs = {
        "memory_bytes": _program.planned_bytes(compiled),
        "activation_bytes": plan and plan.temp_size_in_bytes,
    }
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    compiled, costs = None, {"memory_bytes": _bytes_in(str(error))}
  return compiled, {
      **costs,
      "compile_seconds": time.perf_counter() - start,
      "compile_cpu_seconds": time.process_time() - start_cpu,
  }


_COLUMNS = {
    "method": ("method", 1, "{}"),
    "net": ("net", 1, "{}"),
    "image_size": ("side", 1, "{}"),
    "batch_size": ("batch", 1, "{}"),
    "fits": ("fits", 1, "{}"),
    "memory_bytes": ("GiB", 2**-30, "{:.2f}"),
    "estimated_seconds": ("ms", 1e3, "{:.1f}"),
    "estimated_images_per_second": ("images/s", 1, "{:,.0f}"),
    "estimated_fraction_of_peak": ("of peak", 1, "{:.2f}"),
    "traffic_bytes": ("traffic, GB", 1e-9, "{:.1f}"),
    "estimated_views_seconds": ("views, ms", 1e3, "{:.1f}"),
    "estimated_copy_seconds": ("copies, ms", 1e3, "{:.1f}"),
    "collective_bytes": ("collectives, MiB", 2**-20, "{:.1f}"),
    "compile_cpu_seconds": ("compiled, CPU s", 1, "{:.0f}"),
}


def table(
    configs: Iterable[ConfigDict],
    *,
    device: str,
    devices: int = 1,
    largest: bool = False,
) -> list[dict[str, Any]]:
  """Compiles the train steps of configs and prints a row for each.

  Args:
    configs: See `measure`.
    device: See `measure`.
    devices: See `measure`.
    largest: Whether to look for the largest batch, see `measure_largest`.

  Returns:
    The results of `measure`.
  """
  print(f"{device}, {devices} device{'s' * (devices > 1)}; times are estimates")
  print("| " + " | ".join(name for name, _, _ in _COLUMNS.values()) + " |")
  print("| --- " * len(_COLUMNS) + "|")
  results = []
  row = measure_largest if largest else measure
  for config in configs:
    results.append(row(config, device=device, devices=devices))
    cells = [
        ""
        if (value := results[-1].get(key)) is None
        else text.format(
            value if isinstance(value, (str, bool)) else value * scale
        )
        for key, (_, scale, text) in _COLUMNS.items()
    ]
    print("| " + " | ".join(cells) + " |", flush=True)
  return results


def _targets(name, count):
  """Returns descriptions of devices, to compile for."""
  kind = DEVICES[name]
  if importlib.util.find_spec(kind.module) is None:
    packages = "'jssl[compilers]'"
    if kind.platform == "cuda":
      names = ("jax-cuda13-plugin", "jax-cuda13-pjrt")
      packages = " ".join(f"{x}=={jax.__version__}" for x in names)
    raise ImportError(
        f"The compiler for {name} is not installed: pip install {packages}"
    )
  if count not in kind.topologies:
    raise ValueError(
        f"--devices is {count}; expected one of {sorted(kind.topologies)}."
    )
  # libtpu would look for a TPU, and for other processes that use it.
  os.environ["TPU_SKIP_MDS_QUERY"] = "1"
  os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
  return topologies.get_topology_desc(
      platform=kind.platform, **kind.topologies[count]
  ).devices


def _size(tree):
  """Returns the bytes of all arrays of a tree."""
  return sum(
      math.prod(x.shape) * jax.dtypes.canonicalize_dtype(x.dtype).itemsize
      for x in jax.tree.leaves(tree)
      if not jnp.issubdtype(x.dtype, jax.dtypes.extended)
  )


class _Operation(NamedTuple):
  """An operation that runs, of a compiled program.

  Attributes:
    opcode: Such as "fusion", "copy" or "all-reduce".
    name: Name of the JAX operation with its scopes, such as
      "jit(step)/jvp(Branch)/net/stage_1/conv_1/conv_general_dilated".
    text: The line of the program.
    rounds: How often it runs.
    cycles: The compiler's estimate of one round.
  """

  opcode: str
  name: str
  text: str
  rounds: int
  cycles: int


# "  %name = type opcode(operands), attributes", and the first line of a
# computation, "%name (parameters) -> type {" or "ENTRY %name ...".
_LINE = re.compile(r"^\s+(?:ROOT )?%\S+ = .*?\s([a-z][a-z\-]*)\(")
_COMPUTATION = re.compile(r"^(ENTRY )?%(\S+) .*\{$")
_NAME = re.compile(r'op_name="([^"]*)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
# A scan counts from 0 to a constant, with which its condition compares.
_CONDITION = re.compile(r"condition=%([^\s,)]+)")
_BOUND = re.compile(r" = s32\[\]\S* constant\((\d+)\)")
_CALLED = re.compile(r"(?:body|to_apply|calls)=%([^\s,)]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_PAIR = re.compile(r"(?:true|false)_computation=%([^\s,)]+)")


def _operations(text: str) -> list[_Operation]:
  """Lists what runs of a program's text, loops and branches included.

  Of the branches of a condition the dearest counts.
  """
  lines: dict[str, list[str]] = {}
  entry = current = ""
  for line in text.splitlines():
    if start := _COMPUTATION.match(line):
      current = start[2]
      lines[current] = []
      entry = current if start[1] else entry
    elif current:
      lines[current].append(line)

  def run(name, rounds):
    for line in lines[name]:
      if not (match := _LINE.match(line)):
        continue
      opcode = match[1]
      if opcode == "while":
        condition = lines[_CONDITION.search(line)[1]]
        bounds = [int(x) for x in _BOUND.findall("\n".join(condition))]
        inner = max(bounds, default=1)
        yield from run(_CALLED.search(line)[1], rounds * inner)
      elif opcode == "conditional":
        names = _PAIR.findall(line) or [
            x.strip().lstrip("%") for x in _BRANCHES.search(line)[1].split(",")
        ]
        branches = [list(run(x, rounds)) for x in names]
        yield from max(branches, key=_cycles)
      elif opcode == "call":
        yield from run(_CALLED.search(line)[1], rounds)
      else:
        label, cycles = _NAME.search(line), _CYCLES.search(line)
        yield _Operation(
            opcode,
            label[1] if label else "",
            line,
            rounds,
            int(cycles[1]) if cycles else 0,
        )

  return list(run(entry, 1))


def _cycles(operations):
  return sum(x.rounds * x.cycles for x in operations)


def _estimates(operations, clock, steps=1):
  """Returns seconds per step of a program, and of some of its operations."""
  cycles_per_second = clock * steps
  groups = collections.Counter()
  for x in filter(lambda x: x.cycles, operations):
    groups[_group(x)] += x.rounds * x.cycles / cycles_per_second
  copies = [x for x in operations if _is_copy(x)]
  views = [x for x in operations if "/views" in x.name]
  return {
      "estimated_seconds": _cycles(operations) / cycles_per_second,
      "estimated_views_seconds": _cycles(views) / cycles_per_second,
      "copies": sum(x.rounds for x in copies) / steps,
      "estimated_copy_seconds": _cycles(copies) / cycles_per_second,
      "kernels": sum("tpu_custom_call" in x.text for x in operations),
      "dearest": dict(groups.most_common(_GROUPS)),
  }


def _is_copy(x):
  """Whether an operation only moves data."""
  name = x.text.split("=")[0]
  return x.cycles and (
      x.opcode in ("copy", "transpose")
      or (x.opcode == "fusion" and re.search("%(copy|transpose)", name))
  )


def _group(x):
  """Names an operation by its scopes, without numbers and transformations.

  "jit(step)/transpose(jvp(Branch))/net/block_3/mlp/dot_general" becomes
  "Branch/net/block/mlp/dot_general, backward".
  """
  scopes = [s for s in x.name.split("/") if not s.startswith("jit(")]
  path = "/".join(re.sub(r"[_.]?\d+", "", s) for s in scopes)
  path = re.sub(r"(?:transpose|jvp|vmap|remat|checkpoint)\(|\)", "", path)
  path = re.sub("(^|/)(shard_map|cond/branch_fun)?(?=/)", "", path).strip("/")
  return f"{path or x.opcode}{', backward' * ('transpose(' in x.name)}"


_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")
_ARRAY = re.compile(r"(pred|[a-z]+)(\d*)\[([\d,]*)\]")


def _collectives(operations, steps):
  """Returns number and bytes of the results of collectives per step."""
  found = [
      x
      for x in operations
      if x.opcode.startswith(_COLLECTIVES)
      and not x.opcode.endswith("-start")  # It shows its operands, too.
  ]
  return {
      "collectives": sum(x.rounds for x in found) / steps,
      "collective_bytes": sum(x.rounds * _result(x) for x in found) / steps,
  }


def _result(x):
  """Returns the bytes of an operation's result."""
  shapes = x.text.split(f" {x.opcode}(")[0].split(" = ")[1]
  return sum(
      math.prod(map(int, sides.split(",") if sides else ()))
      * (int(bits or 8) // 8)
      for _, bits, sides in _ARRAY.findall(shapes)
  )


def _bytes_in(message):
  """Returns the bytes that the compiler says it needs; None if it does not."""
  if not (found := re.search(r"Used ([\d.]+)([KMGT]?) of", message)):
    return None
  return round(float(found[1]) * 1024 ** " KMGT".index(found[2] or " "))
