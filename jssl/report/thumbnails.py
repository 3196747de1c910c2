"""Small images: arrays of pixels, encoded only when a page shows them."""

import base64
from collections.abc import Sequence
import dataclasses
import io

import numpy as np
from PIL import Image

from jssl.data import Images

# Up to this side, a JPEG would be larger than a PNG and show artifacts.
_LOSSLESS = 48
_SIDE = 112


@dataclasses.dataclass(frozen=True)
class Thumbnail:
  """A small image, with its caption and description.

  Attributes:
    pixels: uint8 `[H, W, C]`, of 1, 3 or 4 channels.
    alt: What it shows, for readers who cannot see it.
    caption: Text below it, or "".
    wrong: Whether it is marked as wrong.
  """

  pixels: np.ndarray
  alt: str
  caption: str = ""
  wrong: bool = False

  @property
  def pixelated(self) -> bool:
    """Whether it is so small that its pixels are shown as squares."""
    return max(self.pixels.shape[:2]) <= _LOSSLESS

  @property
  def uri(self) -> str:
    """The image as a data URI."""
    return data_uri(self.pixels, lossless=self.pixelated)


def make(
    pixels: np.ndarray, alt: str, *, size: int = _SIDE, caption: str = ""
) -> Thumbnail:
  """Makes a thumbnail of an image.

  Args:
    pixels: As in `shrink`.
    alt: See `Thumbnail`.
    size: As in `shrink`.
    caption: See `Thumbnail`.
  """
  return Thumbnail(shrink(pixels, size=size), alt, caption)


def shrink_one(images: Images, i: int, *, size: int = _SIDE) -> np.ndarray:
  """Scales the image at position i down, see `shrink`."""
  extent = None if images.extent is None else images.extent[i]
  return shrink(images.image[i], size=size, extent=extent)


def shrink(
    pixels: np.ndarray, *, size: int, extent: np.ndarray | None = None
) -> np.ndarray:
  """Scales an image down, in its true proportions.

  Args:
    pixels: uint8, or float in [0, 1], `[H, W, C]`, of 1, 3 or 4 channels; an
      image on a canvas is in its top left corner.
    size: Largest side of the result, in pixels. No image is enlarged.
    extent: True (height, width) of an image on a canvas; None if all of
      `pixels` is the image.

  Returns:
    uint8 `[h, w, C]`.
  """
  pixels = np.asarray(pixels)
  if pixels.dtype != np.uint8:
    pixels = np.nan_to_num(pixels.astype(np.float32))
    pixels = np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
  image = _to_pillow(pixels)
  height, width = map(int, pixels.shape[:2] if extent is None else extent)
  image = image.crop((0, 0, min(width, image.width), min(height, image.height)))
  # No more pixels than the canvas has.
  scale = min(size, max(image.size)) / max(height, width)
  to = max(1, round(scale * width)), max(1, round(scale * height))
  if image.size != to:
    image = image.resize(to, Image.Resampling.LANCZOS)
  return np.asarray(image).reshape(*to[::-1], -1)


def tile(
    images: Sequence[np.ndarray], *, cell: int, columns: int
) -> np.ndarray:
  """Arranges images in the cells of a larger one, row after row, centred.

  Args:
    images: uint8 `[h, w, C]`, at most `cell` pixels per side.
    cell: Side of a cell, in pixels.
    columns: Cells per row.

  Returns:
    uint8 `[H, W, C]`, black between the images.
  """
  rows = -(-len(images) // columns)
  sheet = np.zeros((rows * cell, columns * cell, images[0].shape[2]), np.uint8)
  for i, image in enumerate(images):
    height, width, _ = image.shape
    top = cell * (i // columns) + (cell - height) // 2
    left = cell * (i % columns) + (cell - width) // 2
    sheet[top : top + height, left : left + width] = image
  return sheet


def data_uri(pixels: np.ndarray, *, lossless: bool) -> str:
  """Encodes an image for use in HTML.

  Args:
    pixels: uint8 `[H, W, C]`. A fourth channel, of transparency, needs PNG.
    lossless: Whether it becomes a PNG rather than a JPEG.
  """
  image = _to_pillow(pixels)
  file = io.BytesIO()
  kind = "png" if lossless or image.mode == "RGBA" else "jpeg"
  image.save(file, kind, optimize=True, quality=80)
  text = base64.b64encode(file.getvalue()).decode()
  return f"data:image/{kind};base64,{text}"


def _to_pillow(pixels):
  return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
