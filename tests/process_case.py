"""One of several processes that train methods together.

python tests/process_case.py ADDRESS PROCESSES INDEX FOLDER METHOD...
"""

import json
import pathlib
import sys

import jax

from jssl import parallel
from jssl.checkpoint import Checkpoints
from jssl.step import make_step


def train(name: str, folder: pathlib.Path) -> None:
  """Takes a few steps on this process's share; all save the state."""
  # Here, because it makes arrays: before, the processes must have met.
  import test_devices as case
  import tiny

  method = case.make_method(name, parallel.AXIS_NAME)
  step = parallel.map_devices(
      make_step(method, case.OPTIMIZER, parallel.AXIS_NAME), in_axes=(None, 0)
  )
  local = jax.local_device_count()
  first = jax.process_index() * local
  shares = tiny.shards(case.make_batch(), jax.device_count())
  own = jax.tree.map(lambda x: x[first : first + local], shares)
  state = parallel.replicate(
      tiny.start(method, case.OPTIMIZER, case.make_batch())
  )
  for _ in range(case.STEPS):
    state, metrics = step(state, own)
  checkpoints = Checkpoints(str(folder / name))
  checkpoints.save(case.STEPS, state)
  checkpoints.close()
  if jax.process_index() == 0:
    row = {name: float(value) for name, value in metrics.items()}
    (folder / f"{name}.json").write_text(json.dumps(row))


if __name__ == "__main__":
  address, count, index, folder, *names = sys.argv[1:]
  jax.config.update("jax_disable_most_optimizations", True)
  jax.distributed.initialize(address, int(count), int(index))
  for name in names:
    train(name, pathlib.Path(folder))
