"""From the bytes of a picture file to pixels, with Pillow."""

import functools
import io

import numpy as np
from PIL import ExifTags
from PIL import Image
from PIL import ImageOps

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# Those of photographs and drawings. Pillow knows more, whatever a file is
# called, and some of them start other programs.
_FORMATS = (
    "JPEG",
    "MPO",  # Of phones: a JPEG with others behind it.
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    "AVIF",
    "JPEG2000",
    "PPM",
    "TGA",  # Last: it has no mark of its own.
)


def read_size(encoded: bytes) -> tuple[int, int]:
  """Returns (height, width) of the upright picture, from its header.

  Args:
    encoded: The bytes of a picture file.

  Raises:
    ValueError: If the bytes are not a picture, with the reason.
  """
  try:
    with _open(encoded) as picture:
      return _upright_size(picture, _orientation(picture))
  except Exception as error:  # Broken bytes raise nearly any type in Pillow.
    raise ValueError(_reason(encoded, error)) from error


def decode(
    encoded: bytes, canvas: int | None = None, *, channels: int = 3
) -> tuple[np.ndarray, tuple[int, int]]:
  """Decodes a picture, upright by its EXIF tag, and fits it to the canvas.

  The whole picture is stretched to the square, so crops can be drawn in the
  true geometry (from the size returned) and resampled from the canvas.

  Args:
    encoded: The bytes of a picture file: JPEG, PNG, WebP, GIF (its first
      picture), BMP, TIFF, AVIF, JPEG 2000, PNM or TGA; of 179 million pixels
      at most, which is Pillow's guard against bombs.
    canvas: Side of the square, or None to keep the picture's own size.
    channels: 1 (grey), 3 (RGB, transparency over white) or 4 (RGBA).

  Returns:
    The pixels, uint8 `[H, W, channels]` with H = W = canvas if that is given,
    and the true (height, width).

  Raises:
    ValueError: If the bytes are not a whole picture, with the reason.
  """
  try:
    with _open(encoded) as picture:
      orientation = _orientation(picture)
      extent = _upright_size(picture, orientation)
      if canvas is not None:
        # JPEG can decode at 1/2, 1/4 or 1/8: still twice the canvas or more.
        picture.draft(picture.mode, (2 * canvas, 2 * canvas))
      if orientation != 1:
        ImageOps.exif_transpose(picture, in_place=True)
      fitted = _to_channels(picture, channels)
      if canvas is not None and fitted.size != (canvas, canvas):
        # To reduce, Hamming is as sharp as bicubic in two thirds of its time.
        method = Image.Resampling.HAMMING
        if min(fitted.size) < canvas:
          method = Image.Resampling.BICUBIC
        fitted = fitted.resize((canvas, canvas), method, reducing_gap=2.0)
      pixels = np.asarray(fitted)
  except Exception as error:  # Broken bytes raise nearly any type in Pillow.
    raise ValueError(_reason(encoded, error)) from error
  return pixels.reshape(*pixels.shape[:2], channels), extent


@functools.cache
def _known() -> list[str]:
  Image.init()
  return [name for name in _FORMATS if name in Image.OPEN]


def _open(encoded: bytes) -> Image.Image:
  return Image.open(io.BytesIO(encoded), formats=_known())


def _orientation(picture: Image.Image) -> int:
  try:
    found = picture.getexif().get(ExifTags.Base.Orientation, 1)
  except Exception:  # A broken tag spoils no picture.
    return 1
  return found if found in range(1, 9) else 1


def _upright_size(picture: Image.Image, orientation: int) -> tuple[int, int]:
  width, height = picture.size
  if 5 <= orientation <= 8:  # A quarter turn, perhaps mirrored.
    width, height = height, width
  return height, width


def _to_channels(picture: Image.Image, channels: int) -> Image.Image:
  """Converts any of Pillow's modes to 8 bits and so many channels."""
  if picture.mode == "F":
    raise ValueError("its floating-point pixels have no known range")
  if picture.mode.startswith("I"):  # Pillow would clip 16 bits, not scale them.
    picture = picture.convert("I").point(lambda v: v / 256).convert("L")
  if channels == 3 and picture.has_transparency_data:
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture)
  mode = _MODES[channels]
  return picture if picture.mode == mode else picture.convert(mode)


def _reason(encoded: bytes, error: Exception) -> str:
  if not encoded:
    return "the file is empty, no plain file, over 1 GiB, or cannot be read"
  if isinstance(error, Image.UnidentifiedImageError):
    return "not a picture in a format that Pillow reads"
  return str(error) or type(error).__name__
