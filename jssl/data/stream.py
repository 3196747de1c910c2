"""Batches of a set that does not fit the device, decoded as they are needed.

By Grain: threads or worker processes read ahead and decode each picture once.
What a batch holds is a function of (seed, step) alone, so it does not depend on
their number, and a resumed run starts in the middle.
"""

from collections.abc import Iterator
import functools
import itertools
import os
import re
import signal
import threading
import time
from typing import NamedTuple
import warnings

from absl import flags
import grain
import numpy as np

from jssl.data import chunks
from jssl.data import order
from jssl.data.decode import Remark

# Pictures a worker decodes in one go: batched reads are faster, and a batch is
# shared among many workers.
_CHUNK = 32
# Batches that are ready or in work ahead of the one that is asked for.
_AHEAD = 2
# Up to so many cores, threads do: Pillow lets go of Python's lock to decode.
_THREADS = 8
_WATCH_SECONDS = 1.0


class Batch(NamedTuple):
  """This process's share of a batch, or a part of that, decoded.

  Attributes:
    image: uint8 `[B, H, W, C]`.
    extent: True heights and widths, int32 `[B, 2]`.
    label: int32 `[B]`, -1 without one.
    replaced: "name: reason" for each picture that could not be decoded, whose
      place another one took.
    notes: What a user should know of how pictures were read.
    remarks: What a user should know of pictures, see `chunks.Chunk`.
  """

  image: np.ndarray
  extent: np.ndarray
  label: np.ndarray
  replaced: list[str]
  notes: list[str]
  remarks: list[tuple[str, Remark]]


class _Chunks(NamedTuple):
  """The chunks of all batches, one after the other, decoded when asked for."""

  read: chunks.Reader
  seed: int
  size: int
  batch_size: int
  share: tuple[int, ...]  # Bounds in the batch of this process's chunks.

  @property
  def per_batch(self):
    return len(self.share) - 1

  def decode(self, number):
    step, part = divmod(int(number), self.per_batch)
    rows = order.batch_indices(
        self.seed, step, size=self.size, batch_size=self.batch_size
    )[self.share[part] : self.share[part + 1]]
    with warnings.catch_warnings():
      warnings.filterwarnings("ignore", module="PIL")
      chunk = chunks.read_whole(self.read, rows, self.size)
    return Batch(
        chunk.image,
        chunk.extent,
        chunk.label,
        list(chunk.broken.values()),
        list(chunk.notes),
        list(chunk.remarks),
    )


def stream(
    read: chunks.Reader,
    *,
    seed: int,
    size: int,
    batch_size: int,
    start: int,
    stop: int,
    share: range | None = None,
    workers: int = -1,
) -> Iterator[Batch]:
  """Reads batches in the order of `order.batch_indices`, ahead of the caller.

  Args:
    read: Reads and decodes pictures, see `jssl.data.chunks.reader`.
    seed: Of the order.
    size: Number of pictures that `read` knows.
    batch_size: Pictures of a batch, over all processes that train.
    start: First step.
    stop: Step after the last.
    share: Which rows of each batch to read; None for all.
    workers: Number of processes that decode; 0 for threads of this one; -1
      for what suits the machine.

  Yields:
    A `Batch` a step.

  Raises:
    ValueError: If `workers` is below -1, or no picture near a broken one can
      be decoded.
    ChildProcessError: If a worker dies.
  """
  share = range(batch_size) if share is None else share
  bounds = (*share[::_CHUNK], share.stop)
  source = _Chunks(read, seed, size, batch_size, bounds)
  parts = source.per_batch
  cores = os.cpu_count() or 1
  workers = count_workers(workers)
  chunk_ids = grain.MapDataset.range(start * parts, stop * parts)
  ahead = _AHEAD * parts
  threads = grain.ReadOptions(
      num_threads=1 if workers else cores, prefetch_buffer_size=max(ahead, 1)
  )
  dataset = chunk_ids.map(source.decode)
  if workers:
    if not flags.FLAGS.is_parsed():  # Grain reads one, also in a notebook.
      flags.FLAGS.mark_as_parsed()
    dataset = dataset.to_iter_dataset(threads).mp_prefetch(
        grain.MultiprocessingOptions(
            num_workers=workers,
            per_worker_buffer_size=max(ahead // workers, 1),
        ),
        worker_init_fn=functools.partial(_end_with, os.getpid()),
    )
  else:
    dataset = dataset.to_iter_dataset(threads)
  iterator = iter(dataset.batch(parts, batch_fn=_join))
  try:
    yield from iterator
  except RuntimeError as error:
    raise _explained(error) from error
  finally:
    iterator.close()


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


def count_workers(workers: int) -> int:
  """Returns the number of processes that decode, see `stream`; 0: threads."""
  if workers < -1:
    raise ValueError(
        f"workers is {workers}; expected a number of processes, 0 for threads,"
        " or -1 for what suits the machine."
    )
  cores = os.cpu_count() or 1
  if workers == -1:
    workers = 0 if cores <= _THREADS else cores
  return workers


def _join(parts):
  image, extent, label, replaced, notes, remarks = zip(*parts)
  return Batch(
      *map(np.concatenate, (image, extent, label)),
      replaced=list(itertools.chain(*replaced)),
      notes=list(itertools.chain(*notes)),
      remarks=list(itertools.chain(*remarks)),
  )


def _explained(error):
  """Names the cause of a worker's death."""
  code = re.search(r"exit code (-?\d+)", str(error))
  if code is None:
    return error
  number = int(code[1])
  how = f"exit code {number}"
  if number < 0:
    how = f"killed by {signal.Signals(-number).name}"
  return ChildProcessError(
      f"A process that decodes pictures died ({how}). SIGKILL mostly means that"
      " the memory of the machine was full, SIGBUS that /dev/shm was: lower"
      " config.data.workers, or decode in threads with config.data.workers=0."
  )
