"""Decodes randomly damaged pictures, in a process that may die of it.

  python tests/data/fuzz_case.py COUNT SEED

The last line is JSON: how many were decoded and refused, the reasons, the
slowest in seconds, and the largest memory of the process in bytes.
"""

import collections
import io
import json
import pathlib
import random
import resource
import sys
import time
import warnings
import zlib

import numpy as np
from PIL import Image

from jssl.data.decode import decode, read_size

_MODES = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "GIF": ("L", "P"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA"),
    "PPM": ("1", "L", "RGB"),
    "TGA": ("L", "LA", "P", "RGB", "RGBA"),
    "MPO": ("L", "RGB"),
}
# What else a file may be; where a format does not know it, it ignores it.
_OPTIONS = (
    {},
    {"exif": True},  # A quarter turn.
    {"transparency": True},
    {"compression": "tiff_lzw", "exif": True},
    {"pages": True},
)
_PAGED = ("GIF", "WEBP", "PNG", "TIFF", "MPO")
_PNG_MARK = b"\x89PNG\r\n\x1a\n"


def originals() -> list[bytes]:
  """Whole pictures of every format and mode."""
  random_ = np.random.default_rng(0)
  made = []
  for name, modes in _MODES.items():
    for mode in modes:
      for size in ((1, 1), (37, 23), (200, 150)):
        noise = random_.integers(0, 256, (size[1], size[0], 3), np.uint8)
        picture = Image.fromarray(noise)
        if mode == "I;16":
          picture = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
        elif mode != "RGB":
          picture = picture.convert(mode)
        for options in _OPTIONS:
          made.append(_save(picture, name, **options))
  return list(dict.fromkeys(made))


def _save(
    picture, name, exif=False, transparency=False, pages=False, **options
):
  if exif:
    options["exif"] = _exif()
  if transparency and name in ("PNG", "GIF") and "A" not in picture.mode:
    options["transparency"] = (9, 9, 9) if picture.mode == "RGB" else 1
  if pages and name in _PAGED:
    options |= {"save_all": True, "append_images": [picture.rotate(180)]}
  if name != "TIFF" or picture.size == (1, 1):
    options.pop("compression", None)
  file = io.BytesIO()
  picture.save(file, name, **options)
  return file.getvalue()


def mend(content: bytes) -> bytes:
  """Corrects the checksums of a PNG, so that what it holds is decoded."""
  if not content.startswith(_PNG_MARK):
    return content
  mended, at = bytearray(content), len(_PNG_MARK)
  while at + 12 <= len(mended):
    stop = at + 8 + int.from_bytes(mended[at : at + 4])
    if stop + 4 > len(mended):
      break
    checksum = zlib.crc32(mended[at + 4 : stop])
    mended[stop : stop + 4] = checksum.to_bytes(4)
    at = stop + 4
  return bytes(mended)


def _exif():
  exif = Image.Exif()
  exif[0x0112] = 6  # A quarter turn.
  exif[0x010E] = "described"
  return exif


def spoil(content: bytes, chance: random.Random) -> bytes:
  """Changes some bytes, as a disk, a network or an enemy would."""
  content = bytearray(content)
  for _ in range(chance.choice((1, 1, 2, 5, 20))):
    at = chance.randrange(len(content)) if content else 0
    if chance.random() < 0.4:
      at = min(at, chance.randrange(64))  # Headers decide most.
    kind = chance.randrange(6)
    if kind == 0 and content:
      content[at % len(content)] ^= 1 << chance.randrange(8)
    elif kind == 1 and content:
      content[at % len(content)] = chance.choice((0, 0xFF, 0x7F, 0x80))
    elif kind == 2:
      del content[at:]
    elif kind == 3:
      content[at:at] = chance.randbytes(chance.randrange(1, 40))
    elif kind == 4:
      content[at : at + 4] = b"\xff\xff\xff\xff"  # Sizes are of four bytes.
    else:
      del content[at : at + chance.randrange(1, 200)]
  return bytes(content)


def main(count: int, seed: int) -> None:
  """Decodes so many, each twice, and reads their sizes."""
  warnings.simplefilter("ignore")
  chance = random.Random(seed)
  whole = originals()
  for content in whole:
    decode(content, 24)
  done = collections.Counter()
  reasons = collections.Counter()
  slowest = 0.0
  for _ in range(count):
    content = spoil(chance.choice(whole), chance)
    if chance.random() < 0.5:
      content = mend(content)
    start = time.perf_counter()
    for canvas, channels in ((24, 3), (None, chance.choice((1, 3, 4)))):
      try:
        pixels, (height, width) = decode(content, canvas, channels=channels)
        size = (canvas, canvas) if canvas else (height, width)
        assert pixels.shape == (*size, channels), pixels.shape
        assert pixels.dtype == np.uint8 and min(height, width) > 0
        done["decoded"] += 1
      except ValueError as error:
        assert str(error)
        reasons[str(error)[:40]] += 1
        done["refused"] += 1
    try:
      assert min(read_size(content)) > 0
    except ValueError:
      pass
    slowest = max(slowest, time.perf_counter() - start)
  print(
      json.dumps({
          **done,
          "reasons": len(reasons),
          "slowest": slowest,
          "memory": _peak_memory(),
      })
  )


def _peak_memory():
  # On Linux, `ru_maxrss` counts what the starting process had, too.
  status = pathlib.Path("/proc/self/status")
  if status.exists():
    fields = dict(x.split(":", 1) for x in status.read_text().splitlines())
    return 1024 * int(fields["VmHWM"].split()[0])
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
  main(*map(int, sys.argv[1:]))
