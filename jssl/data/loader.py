"""The loader: batches of decoded pictures, in order and ahead of the caller.

It serves loading into memory, streaming and embedding. Grain's threads or
worker processes read ahead and decode each picture once. A batch depends on its
own number alone, not on the number of workers, and loading can start at any
batch.
"""

from collections.abc import Callable, Generator, Sequence
import functools
import itertools
import logging
import os
import re
import signal
import threading
import time
import warnings

from absl import flags
import numpy as np

from jssl.data.order import batch_indices
from jssl.data.reader import Batch, Geometry, make_reader, Reader
from jssl.data.source import Source

# Before JAX 0.11, it warns on import that its workers cannot be profiled.
logging.getLogger("absl").disabled = True
try:
  import grain
finally:
  logging.getLogger("absl").disabled = False

# Pictures that are decoded in one go: batched reads are faster, and a batch is
# shared among many workers.
_PART = 32
_PART_BYTES = 2**23  # Limit of files read at once, which the host must hold.
# Batches that are prepared ahead of the requested one.
_AHEAD = 2
# Up to this many cores threads suffice: Pillow decodes outside Python's lock.
_THREADS = 8
_WATCH_SECONDS = 1.0
# Pictures that are tried as the replacement of a broken one.
_TRIES = 100


def load_batches(
    read: Reader,
    indices: Callable[[int], Sequence[int]],
    numbers: range,
    *,
    batch_size: int,
    part: int = _PART,
    workers: int = 0,
) -> Generator[Batch, None, None]:
  """Loads batches in order, a few of them ahead of the caller.

  Args:
    read: Reads and decodes pictures, see `jssl.data.reader.make_reader`.
    indices: A function from the number of a batch to its pictures.
    numbers: Consecutive numbers of batches.
    batch_size: Pictures per batch; the last one may have fewer.
    part: Pictures that are decoded in one go.
    workers: Number of processes that decode; 0 for threads of this one; -1
      for what suits the machine.

  Yields:
    A `Batch` for each number.

  Raises:
    ValueError: If `workers` is below -1.
    ChildProcessError: If a worker dies.
  """
  workers = count_workers(workers)
  cores = os.cpu_count() or 1
  # Small batches are cut finer, so that each worker has a part to decode.
  part = min(part, max(_AHEAD * batch_size // (workers or cores), 1))
  parts = -(-batch_size // part)
  ahead = _AHEAD * parts

  def decode(number):
    """Decodes a part of a batch; parts are numbered over all batches."""
    batch, position = divmod(int(number), parts)
    wanted = indices(batch)[position * part : (position + 1) * part]
    with warnings.catch_warnings():
      warnings.filterwarnings("ignore", module="PIL")  # Odd metadata, mostly.
      return read(wanted)

  threads = grain.ReadOptions(
      num_threads=1 if workers else min(cores, ahead),
      prefetch_buffer_size=ahead,
  )
  dataset = grain.MapDataset.range(numbers.start * parts, numbers.stop * parts)
  dataset = dataset.map(decode).to_iter_dataset(threads)
  if workers:
    if not flags.FLAGS.is_parsed():  # Grain reads one, also in a notebook.
      flags.FLAGS.mark_as_parsed()
    dataset = dataset.mp_prefetch(
        grain.MultiprocessingOptions(
            num_workers=workers,
            per_worker_buffer_size=max(ahead // workers, 1),
        ),
        worker_init_fn=functools.partial(_end_with, os.getpid()),
    )
  iterator = iter(dataset.batch(parts, batch_fn=_join))
  try:
    yield from iterator
  except RuntimeError as error:
    raise _explained(error) from error
  finally:
    iterator.close()


def load_in_order(
    source: Source, geometry: Geometry, *, batch_size: int, start: int = 0
) -> Generator[Batch, None, None]:
  """Loads the pictures of a source in its order.

  Memory does not grow with the number of pictures.

  Args:
    source: The source of the pictures.
    geometry: The form of the decoded pictures.
    batch_size: Pictures per batch; the last one may have fewer.
    start: Position of the first picture.

  Yields:
    Every `Batch` up to the end of the source.
  """
  if start >= source.length:
    return
  starts = range(start, source.length, batch_size)
  yield from load_batches(
      make_reader(source, geometry),
      lambda number: range(source.length)[starts[number] :][:batch_size],
      range(len(starts)),
      batch_size=batch_size,
      part=part_size(source),
  )


def part_size(source: Source) -> int:
  """Returns how many pictures to read at once, by the size of the first."""
  first = len(source.read([0])[0].encoded)
  return min(max(_PART_BYTES // max(first, 1), 1), _PART)


def stream(
    read: Reader,
    *,
    seed: int,
    size: int,
    batch_size: int,
    start: int,
    stop: int,
    share: slice = slice(None),
    workers: int = -1,
) -> Generator[Batch, None, None]:
  """Loads batches in the order of `batch_indices`.

  Args:
    read: Reads and decodes pictures, see `jssl.data.reader.make_reader`.
    seed: Seed of the order.
    size: Number of pictures in the source.
    batch_size: Pictures per batch, over all processes that train.
    start: First step.
    stop: Step after the last.
    share: Which rows of each batch to read; all by default.
    workers: See `load_batches`.

  Yields:
    A `Batch` per step. Each broken picture is replaced by the next that can be
    decoded, in the order of the source; `broken` names it.

  Raises:
    ValueError: If `workers` is below -1, or no picture near a broken one can
      be decoded.
    ChildProcessError: If a worker dies.
  """

  def indices(step):
    rows = batch_indices(seed, step, size=size, batch_size=batch_size)
    return rows[share]

  yield from load_batches(
      functools.partial(_read_replacing, read, size),
      indices,
      range(start, stop),
      batch_size=len(range(batch_size)[share]),
      workers=workers,
  )


def _read_replacing(read: Reader, size: int, indices: Sequence[int]) -> Batch:
  """Reads pictures, each broken one replaced by the next that can be decoded.

  "Next" is in the order of the source, so that a batch depends on nothing else.
  `broken` names the pictures that were replaced.
  """
  batch = read(indices)
  remarks = batch.remarks
  for row, reason in batch.broken.items():
    steps = range(1, min(_TRIES, size - 1) + 1)
    others = (read([(int(indices[row]) + i) % size]) for i in steps)
    whole = next((other for other in others if not other.broken), None)
    if whole is None:
      raise ValueError(
          f"Neither {reason.partition(':')[0]} nor any of the pictures after it"
          f" can be decoded: check the files. {reason}."
      )
    batch.image[row], batch.extent[row] = whole.image[0], whole.extent[0]
    batch.label[row], batch.name[row] = whole.label[0], whole.name[0]
    remarks += whole.remarks
  return batch._replace(remarks=remarks)


def count_workers(workers: int) -> int:
  """Returns the number of processes that decode; 0 means threads.

  Args:
    workers: See `load_batches`.

  Raises:
    ValueError: If it is below -1.
  """
  if workers < -1:
    raise ValueError(
        f"workers is {workers}; expected a number of processes, 0 for threads,"
        " or -1 for what suits the machine."
    )
  cores = os.cpu_count() or 1
  if workers == -1:
    return 0 if cores <= _THREADS else cores
  return workers


def _join(parts):
  """Joins the parts of a batch."""
  starts = np.cumsum([0, *(len(part.label) for part in parts)])
  index, image, extent, label, name, _, notes, remarks = zip(*parts)
  return Batch(
      *map(np.concatenate, (index, image, extent, label)),
      name=list(itertools.chain(*name)),
      broken={
          int(start) + row: reason
          for start, part in zip(starts, parts)
          for row, reason in part.broken.items()
      },
      notes=tuple(itertools.chain(*notes)),
      remarks=tuple(itertools.chain(*remarks)),
  )


def _end_with(parent: int, worker: int, workers: int) -> None:
  """Ends a worker soon after its parent, which may be killed at any moment.

  Ctrl-C reaches all processes of a terminal, and the parent decides.
  """
  del worker, workers
  signal.signal(signal.SIGINT, signal.SIG_IGN)

  def watch():
    while os.getppid() == parent:
      time.sleep(_WATCH_SECONDS)
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def _explained(error):
  """Names the cause of a worker's death."""
  match = re.search(r"exit code (-?\d+)", str(error))
  if match is None:
    return error
  code = int(match[1])
  how = f"exit code {code}"
  if code < 0:
    how = f"killed by {signal.Signals(-code).name}"
  return ChildProcessError(
      f"A process that decodes pictures died ({how}). SIGKILL mostly means that"
      " the memory of the machine was full, SIGBUS that /dev/shm was: lower"
      " config.data.workers, or decode in threads with config.data.workers=0."
  )
