"""Arrays of pixels as small pictures inside HTML."""

import base64
from collections.abc import Sequence
import io
import os
from typing import Any, NamedTuple
import warnings

import numpy as np
from PIL import Image

# Up to this side, JPEG would be larger, and show.
_LOSSLESS = 48


class Thumbnail(NamedTuple):
  """A picture in a page.

  Attributes:
    uri: The picture itself, as a data URI.
    alt: What it shows.
    pixelated: Whether it is so small that its pixels are shown as squares.
    caption: What stands below it.
    wrong: Whether it is marked as wrong.
  """

  uri: str
  alt: str
  pixelated: bool
  caption: str = ""
  wrong: bool = False


def make(
    pixels: np.ndarray,
    alt: str,
    *,
    extent: np.ndarray | None = None,
    size: int = 112,
    caption: str = "",
    wrong: bool = False,
) -> Thumbnail:
  """Makes a thumbnail.

  Args:
    pixels: uint8, or float in [0, 1], `[H, W, C]`, of 1, 3 or 4 channels.
    alt: See `Thumbnail`.
    extent: True (height, width) of a picture on a canvas, or None.
    size: Its longer side, in pixels, unless it is smaller than that.
    caption: See `Thumbnail`.
    wrong: See `Thumbnail`.
  """
  image = shrink(to_image(pixels), extent=extent, size=size)
  small = max(image.size) <= _LOSSLESS
  return Thumbnail(data_uri(image), alt, small, caption, wrong)


def to_image(pixels: np.ndarray) -> Image.Image:
  """Makes a Pillow image of uint8, or float in [0, 1], `[H, W, C]`."""
  pixels = np.asarray(pixels)
  if pixels.dtype != np.uint8:
    pixels = np.nan_to_num(pixels.astype(np.float32))
    pixels = np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
  return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def shrink(
    image: Image.Image, *, size: int, extent: np.ndarray | None = None
) -> Image.Image:
  """Gives a picture its true proportions, and at most `size` pixels a side."""
  if extent is not None:  # The top left corner of a canvas.
    right, bottom = map(min, extent[::-1], image.size)
    image = image.crop((0, 0, int(right), int(bottom)))
  width, height = (float(x) for x in image.size)
  if extent is not None:
    height, width = (float(x) for x in extent)
    # No more pixels than there are in the canvas.
    scale = max(image.size) / max(height, width)
    height, width = height * scale, width * scale
  scale = min(1.0, size / max(height, width))
  to = max(1, round(scale * width)), max(1, round(scale * height))
  if image.size == to:
    return image
  return image.resize(to, Image.Resampling.LANCZOS)


def data_uri(image: Image.Image) -> str:
  """Encodes a picture: as PNG if it is small or transparent, else as JPEG."""
  png = max(image.size) <= _LOSSLESS or image.mode == "RGBA"
  return _encode(image, "png" if png else "jpeg")


def sprite(images: Sequence[Image.Image], *, cell: int, columns: int) -> str:
  """Puts pictures into the cells of one, row after row, each in the middle.

  Args:
    images: At most `cell` pixels a side.
    cell: Side of a cell, in pixels.
    columns: Cells a row.

  Returns:
    The data URI.
  """
  rows = -(-len(images) // columns)
  mode = max((image.mode for image in images), key=("L", "RGB", "RGBA").index)
  sheet = Image.new(mode, (columns * cell, rows * cell))
  for i, image in enumerate(images):
    left, top = cell * (i % columns), cell * (i // columns)
    offset = [(cell - side) // 2 for side in image.size]
    sheet.paste(image, (left + offset[0], top + offset[1]))
  png = cell <= 16 or mode == "RGBA"
  return _encode(sheet, "png" if png else "jpeg")


def save_figure(
    figure: Any,
    file: str | os.PathLike | io.BytesIO,
    *,
    dpi: int = 80,
    all_colors: bool = False,
) -> None:
  """Writes a figure of Matplotlib as PNG.

  Args:
    figure: The figure.
    file: A file, or its path.
    dpi: Pixels an inch.
    all_colors: Whether colors stay as they are, as photographs need; or 256 of
      them, which take a third of the bytes.
  """
  drawn = io.BytesIO()
  with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="Glyph")  # Of foreign scripts.
    figure.savefig(drawn, format="png", dpi=dpi)
  with Image.open(drawn) as image:
    colors = image.convert("RGB")
    result = colors if all_colors else colors.quantize(256)
    result.save(file, "png", optimize=True)


def _encode(image, kind):
  file = io.BytesIO()
  options = {"quality": 80} if kind == "jpeg" else {"optimize": True}
  image.save(file, kind, **options)
  text = base64.b64encode(file.getvalue()).decode()
  return f"data:image/{kind};base64,{text}"
