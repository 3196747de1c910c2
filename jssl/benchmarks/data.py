"""How fast a data set streams, beside the bare decoder on the same cores."""

import concurrent.futures
import contextlib
import itertools
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from jssl import data
from jssl.data import cache as caches
from jssl.data import chunks

_WINDOWS = 5
_SETTLE_SECONDS = 2.0  # Until what is read ahead is there.
# Of ImageNet: 400 x 350 on average, and most are 500 x 375.
_SIZES = ((500, 375), (375, 500), (400, 300), (500, 333))
_COUNT = 512


def measure(
    dataset: str | None,
    *,
    data_dir: str | None = None,
    canvas: int = 256,
    batch_size: int = 128,
    workers: int = -1,
    cache: str | None = None,
) -> dict[str, Any]:
  """Times both in turn, in windows of two batches at least.

  Args:
    dataset: As in `jssl.data.open_source`; None for 512 photographs of the
      sizes of ImageNet, made on the spot.
    data_dir: As there.
    canvas: Side that pictures are stretched to; 0 to leave them as they are.
    batch_size: Pictures of a batch.
    workers: See `jssl.data.stream`.
    cache: A folder that keeps decoded pictures, of the stream alone.

  Returns:
    Images a second of the stream and of the decoder alone, with as many
    threads as there are cores and the files in memory; their ratio, the median
    over the windows; seconds to the first batch; the number of pictures that
    others took the place of; and notes, such as that the cache cannot be used.

  Raises:
    ValueError: If the set cannot be used so.
  """
  with tempfile.TemporaryDirectory() as folder:
    if dataset is None:
      _make_photographs(pathlib.Path(folder))
      dataset = f"folder:{folder}"
    split = "all" if dataset.startswith("folder:") else "train"
    source = data.open_source(dataset, split, data_dir=data_dir)
    return _measure(source, canvas, batch_size, workers, cache)


def _measure(source, canvas, batch_size, workers, cache):
  geometry = data.measure(source, canvas or None)
  read = chunks.reader(source, geometry)
  if cache:
    read = caches.cached(read, source, geometry, cache)
  data.steps_per_epoch(source.length, batch_size)
  calls = max(2, 512 // batch_size)  # Batches of a window.
  batches = data.stream(
      read,
      seed=0,
      size=source.length,
      batch_size=batch_size,
      start=0,
      stop=10**9 // batch_size,
      workers=workers,
  )
  records = _whole_records(source, geometry, batch_size)
  replaced, notes = [], {}

  def take(count):
    for batch in itertools.islice(batches, count):
      replaced.extend(batch.replaced)
      notes.update(dict.fromkeys(batch.notes))

  streamed, bare = [], []
  with (
      contextlib.closing(batches),
      concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
  ):
    first = _seconds(lambda: take(1))
    for _ in range(_WINDOWS):
      time.sleep(_SETTLE_SECONDS)
      bare.append(
          _seconds(
              lambda: list(
                  pool.map(
                      lambda x: data.decode(
                          x.encoded, geometry.canvas, channels=source.channels
                      ),
                      records * calls,
                  )
              )
          )
      )
      take(8)  # What was read ahead beside the other.
      streamed.append(_seconds(lambda: take(calls)))
  images = calls * batch_size
  return {
      "dataset": source.name,
      "images_per_second": images / statistics.median(streamed),
      "bare_images_per_second": images / statistics.median(bare),
      "fraction_of_bare": statistics.median(
          b / s for b, s in zip(bare, streamed)
      ),
      "first_batch_seconds": first,
      "cores": os.cpu_count(),
      "workers": data.count_workers(workers),
      "cache": cache,
      "replaced": len(replaced),
      "notes": list(notes),
  }


def _whole_records(source, geometry, count):
  """Reads pictures that the bare decoder can decode, so many."""
  index = data.batch_indices(0, 0, size=source.length, batch_size=count)
  read = source.read(index)
  broken = chunks.decode_records(read, geometry).broken
  whole = [record for row, record in enumerate(read) if row not in broken]
  if not whole:
    raise ValueError(
        f"None of {count} pictures of {source.name} can be decoded: check the"
        f" files. The first is {next(iter(broken.values()))}."
    )
  return list(itertools.islice(itertools.cycle(whole), count))


def _seconds(function):
  start = time.perf_counter()
  function()
  return time.perf_counter() - start


def _make_photographs(folder):
  """Writes cuts of two photographs, no two the same."""
  random = np.random.default_rng(0)
  photographs = load_sample_images().images
  for i in range(_COUNT):
    photograph = Image.fromarray(photographs[i % len(photographs)])
    left, top = random.integers(0, 100, 2)
    cut = photograph.crop((left, top, left + 500, top + 300))
    cut.resize(_SIZES[i % len(_SIZES)]).save(folder / f"{i:04}.jpg", quality=90)
