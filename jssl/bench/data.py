"""How fast a data set streams, and how much detail its canvas keeps."""

from collections.abc import Sequence
import concurrent.futures
import contextlib
import functools
import io
import itertools
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from jssl import augment, data
from jssl.augment.random_crop import sample_crop_box
from jssl.augment.resampling import size_on_canvas
from jssl.bench._timing import seconds_of
from jssl.data import reader
from jssl.data.cache import cached
from jssl.data.datasets import split_source

_WINDOWS = 5
_SETTLE_SECONDS = 2.0  # Until batches are read ahead.
# As in ImageNet: 400 x 350 on average, and most are 500 x 375.
_SIZES = ((500, 375), (375, 500), (400, 300), (500, 333))
_COUNT = 512
# Number of pictures whose detail is measured, of crops from each, and the
# longest side at which they are compared.
_COMPARED = 16
_CROPS = 4
_LONGEST = 2048
_NO_ENERGY = 1e-6  # Energy of a view of one color.
# Areas of the smallest crops in the papers: of SimCLR and BYOL, of MoCo and
# MAE, and of the local crops of SwAV and DINO. Zero is evaluation's crop.
_AREAS = {"0.08": 0.08, "0.2": 0.2, "local_0.05": 0.05, "evaluation": 0.0}


def measure(
    dataset: str | None,
    *,
    data_dir: str | None = None,
    canvas: int = 512,
    image_size: int = 224,
    batch_size: int = 128,
    workers: int = -1,
    cache: str | None = None,
) -> dict[str, Any]:
  """Times a stream and the bare decoder in turn, and measures the detail.

  Args:
    dataset: As in `jssl.data.open_source`; None for 512 generated photographs
      of ImageNet's sizes.
    data_dir: As in `jssl.data.open_source`.
    canvas: As `config.data.canvas`; 0 to leave pictures as they are.
    image_size: Side of the views, whose detail is measured.
    batch_size: Pictures per batch.
    workers: See `jssl.data.stream`.
    cache: A folder that keeps the stream's decoded pictures.

  Returns:
    Images per second of the stream, and of the decoder alone with the files in
    memory and one thread per core; their ratio, the median over the windows;
    seconds to the first batch; the number of damaged pictures that others
    replaced; notes, such as that the cache cannot be used; the bytes per image;
    and, with a canvas, `detail`.

  Raises:
    ValueError: If the settings do not suit the data set.
  """
  with tempfile.TemporaryDirectory() as folder:
    if dataset is None:
      _make_photographs(pathlib.Path(folder))
    name = dataset or f"folder:{folder}"
    split = "all" if split_source(name)[0] == "folder" else "train"
    source = data.open_source(name, split, data_dir=data_dir)
    result = _measure(source, canvas, batch_size, workers, cache)
    if canvas and dataset is None:
      encoded = _detailed_pictures()
    elif canvas:
      some = data.sample(source, _COMPARED)
      geometry = data.Geometry((canvas, canvas), canvas, source.channels)
      encoded = [x.encoded for x in _whole_records(some, geometry, some.length)]
    return result | (detail(encoded, canvas, image_size) if canvas else {})


def detail(
    encoded: Sequence[bytes], canvas: int, image_size: int
) -> dict[str, float]:
  """Measures how much detail views keep when they are cut from a canvas.

  The energy of the Laplacian of a view's luma, relative to that of the same
  view cut from the stored picture, of at most 2,048 pixels per side: 1 if
  nothing is lost. Local crops have three sevenths of `image_size`.

  Args:
    encoded: Picture files.
    canvas: As `config.data.canvas`.
    image_size: Side of the views.

  Returns:
    "detail_of_0.08" (of the picture's area), "detail_of_0.2",
    "detail_of_local_0.05", "detail_of_evaluation": means over the pictures and
    four crops of each. Evaluation's crop is the central one of 0.875.
  """
  kept: dict[str, list[float]] = {name: [] for name in _AREAS}
  for place, content in enumerate(encoded):
    extent = jnp.array(data.decode(content)[1])
    # Few shapes to compile.
    stored = min(_LONGEST, -(-int(extent.max()) // 64) * 64)
    original, small = (
        data.decode(content, side)[0] for side in (stored, canvas)
    )
    for name, area in _AREAS.items():
      size = image_size * 3 // 7 if "local" in name else image_size
      boxes = _boxes(jax.random.key(place), extent, area)
      whole, part = (
          _energies(x, extent, boxes, size) for x in (original, small)
      )
      kept[name] += (part / jnp.maximum(whole, _NO_ENERGY)).tolist()
  return {
      f"detail_of_{name}": statistics.fmean(shares)
      for name, shares in kept.items()
  }


def _boxes(key, extent, area):
  """Boxes of a fraction of the picture, or evaluation's, `[N, 4]`."""
  if not area:
    sides = jnp.full((2,), 0.875 * jnp.min(extent))
    return jnp.concatenate([(extent - sides) / 2, sides])[None]
  draw = functools.partial(sample_crop_box, scale=(area, area))
  return jax.vmap(draw, in_axes=(0, None))(
      jax.random.split(key, _CROPS), extent
  )


@functools.partial(jax.jit, static_argnums=3)
def _energies(image, extent, boxes, size):
  """Energy of the Laplacian of each view, `[N]`."""
  canvas = jnp.asarray(image.shape[:2], jnp.float32)
  scale = jnp.tile(size_on_canvas(canvas, extent) / extent, 2)

  def energy(box):
    view = augment.resized_crop(augment.to_float(image), box * scale, size)
    y = augment.to_grayscale(view)[..., 0]
    around = y[:-2, 1:-1] + y[2:, 1:-1] + y[1:-1, :-2] + y[1:-1, 2:]
    return jnp.sum((4 * y[1:-1, 1:-1] - around) ** 2)

  return jax.vmap(energy)(boxes)


def _measure(source, canvas, batch_size, workers, cache):
  geometry = data.measure(source, canvas or None)
  read = reader.make_reader(source, geometry)
  if cache:
    read = cached(read, source, geometry, cache)
  data.steps_per_epoch(source.length, batch_size)
  count = max(2, 512 // batch_size)  # Batches per window.
  batches = data.stream(
      read,
      seed=0,
      size=source.length,
      batch_size=batch_size,
      start=0,
      stop=10**9 // batch_size,
      workers=workers,
  )
  records = _whole_records(source, geometry, batch_size) * count
  decode = lambda record: data.decode(
      record.encoded, geometry.canvas, channels=source.channels
  )
  replaced, notes = [], {}

  def take(count):
    for batch in itertools.islice(batches, count):
      replaced.extend(batch.broken.values())
      notes.update(dict.fromkeys(batch.notes))

  streamed, bare = [], []
  with (
      contextlib.closing(batches),
      concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
  ):
    first = seconds_of(lambda: take(1))
    for _ in range(_WINDOWS):
      time.sleep(_SETTLE_SECONDS)
      bare.append(seconds_of(lambda: list(pool.map(decode, records))))
      take(8)  # Batches that were read ahead meanwhile.
      streamed.append(seconds_of(lambda: take(count)))
  images = len(records)
  return {
      "dataset": source.name,
      "canvas": canvas,
      "bytes_per_image": int(np.prod(geometry.shape)),
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
  """Reads a number of pictures that the bare decoder can decode."""
  index = data.batch_indices(0, 0, size=source.length, batch_size=count)
  read = source.read(index)
  broken = reader.decode_records(read, geometry).broken
  whole = [record for row, record in enumerate(read) if row not in broken]
  if not whole:
    raise ValueError(
        f"None of {count} pictures of {source.name} can be decoded: check the"
        f" files. The first is {next(iter(broken.values()))}."
    )
  return list(itertools.islice(itertools.cycle(whole), count))


def _make_photographs(folder):
  """Writes crops of two photographs, no two the same."""
  random = np.random.default_rng(0)
  photographs = load_sample_images().images
  for i in range(_COUNT):
    photograph = Image.fromarray(photographs[i % len(photographs)])
    left, top = random.integers(0, 100, 2)
    cut = photograph.crop((left, top, left + 500, top + 300))
    cut.resize(_SIZES[i % len(_SIZES)]).save(folder / f"{i:04}.jpg", quality=90)


def _detailed_pictures():
  """JPEGs of ImageNet's sizes with the detail of pictures from a camera.

  Crops of two photographs, not resized, and noise with the 1 / f amplitudes of
  natural images.
  """
  random = np.random.default_rng(0)
  photographs = [*map(Image.fromarray, load_sample_images().images)]
  encoded = []
  for i in range(_COMPARED):
    width, height = _SIZES[i % len(_SIZES)]
    if i % 2:
      picture = _noise(random, height, width)
    else:
      short, long = sorted((width, height))
      source = photographs[i // 2 % len(photographs)]  # Wider than tall.
      left = random.integers(0, source.width - long + 1)
      top = random.integers(0, source.height - short + 1)
      picture = source.crop((left, top, left + long, top + short))
      if height > width:
        picture = picture.transpose(Image.Transpose.ROTATE_90)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    encoded.append(buffer.getvalue())
  return encoded


def _noise(random, height, width):
  """Noise in three strongly correlated channels."""
  rows = np.fft.fftfreq(height)[:, None] * height
  columns = np.fft.rfftfreq(width) * width
  frequency = np.maximum(np.hypot(rows, columns), 1.0)
  shape = (4, *frequency.shape)
  waves = random.normal(size=shape) + 1j * random.normal(size=shape)
  noise = np.fft.irfft2(waves / frequency, s=(height, width))
  noise = 0.9 * noise[:1] + 0.4 * noise[1:]
  noise = (noise - noise.mean()) / noise.std()
  pixels = np.clip(115 + 55 * noise, 0, 255).astype(np.uint8)
  return Image.fromarray(pixels.transpose(1, 2, 0))
