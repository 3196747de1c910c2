"""Decodes picture files to pixels, with Pillow."""

import functools
import io
import re
import struct
from typing import Any
import zlib

import numpy as np
from PIL import ExifTags, Image, ImageOps

from jssl.data.source import retry

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# Formats of photographs and drawings. Pillow would open others too, whatever
# the suffix of a file, and some of those start other programs. MPO is from
# phones: several JPEGs in one file. TGA comes last, since it has no signature.
_FORMATS = "JPEG MPO PNG WEBP GIF BMP TIFF AVIF JPEG2000 PPM TGA".split()
_Tag = ExifTags.Base
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Longest side in pixels. A longer one comes from a broken header, or would take
# a lot of memory, since Pillow has a pointer for each row.
_LONGEST = 2**20
# A PNM header up to its largest value: kind, width, height, and comments.
_PNM = re.compile(rb"P[2356](?:(?:\s|#[^\r\n]*[\r\n])+([0-9]+)){3}\s")
_PART = struct.Struct(">I4s")
_UNSIGNED = 1  # TIFF's SampleFormat.
_CODESTREAM = b"\xff\x4f\xff\x51"  # Its first bytes in JPEG 2000.


# Remarks about pictures that a user should know: from a kind to the text about
# all pictures of that kind. {value} is the largest of their values.
KINDS = {
    "pages": "hold several pages or frames, and only the first is read",
    "channels": (
        "have up to {value} channels, more than are read, and only the first"
        " ones are used"
    ),
    "cmyk": "are in CMYK, and are converted to RGB without their color profile",
    "dark": (
        "have 16 bits per value but no value above {value:,}, where 65,535 is"
        " white, so that they are nearly black; rescale them to the full range"
        " or convert them to 8 bits"
    ),
    "pale": (
        "have 16 bits per value but no value above {value:,}, where 0 is white"
        " and 65,535 is full ink, so that they are nearly white; rescale them"
        " to the full range or convert them to 8 bits"
    ),
}


def read_size(encoded: bytes) -> tuple[int, int]:
  """Returns (height, width) of the upright picture, from its header.

  Args:
    encoded: The bytes of a picture file.

  Raises:
    ValueError: If the bytes are not a picture, with the reason.
  """
  try:
    with _open(encoded) as picture:
      # Of a TIFF, Pillow may have turned its own size already.
      width = _tag(picture, _Tag.ImageWidth, picture.width)
      height = _tag(picture, _Tag.ImageLength, picture.height)
      turned = _orientation(picture) >= 5
      return (width, height) if turned else (height, width)
  except Exception as error:  # Broken bytes raise nearly any type in Pillow.
    raise ValueError(_reason(encoded, error)) from error


def decode(
    encoded: bytes, canvas: int | None = None, *, channels: int = 3
) -> tuple[np.ndarray, tuple[int, int]]:
  """Decodes a picture, upright by its EXIF tag, and fits it to the canvas.

  A side longer than the canvas is shrunk to it and a shorter one is kept; the
  picture lies in the top left corner, padded with black. So no picture is
  enlarged, most are unchanged, and crops can be drawn in the true geometry,
  given by the returned size.

  Args:
    encoded: The bytes of a picture file: JPEG, PNG, WebP, GIF, BMP, TIFF (the
      first picture of each), AVIF, JPEG 2000, PNM or TGA; of 179 million pixels
      at most, Pillow's limit against decompression bombs, and a million on a
      side.
    canvas: Side of the square, or None to keep the picture's own size.
    channels: 1 (gray) or 3 (RGB), both with transparency over white, or 4
      (RGBA).

  Returns:
    The pixels, uint8 `[H, W, channels]` with H = W = canvas if that is given,
    and the true (height, width).

  Raises:
    ValueError: If the bytes are not a whole picture, or the value of white is
      unknown (floating-point numbers, integers of 32 bits or with a sign); with
      the reason.
    OSError: If the machine is out of memory at every try.
  """
  return decode_remarked(encoded, canvas, channels=channels)[:2]


def decode_remarked(
    encoded: bytes, canvas: int | None = None, *, channels: int = 3
) -> tuple[np.ndarray, tuple[int, int], dict[str, int]]:
  """Decodes as `decode` does, with remarks for the user.

  Args:
    encoded: As in `decode`.
    canvas: As in `decode`.
    channels: As in `decode`.

  Returns:
    The pixels and the size, as in `decode`, and remarks: from a key of `KINDS`
    to the number for its text, 0 if that has none.

  Raises:
    ValueError: As in `decode`.
    OSError: As in `decode`.
  """
  work = functools.partial(_decode, encoded, canvas, channels)
  try:
    return retry(work, "A picture", "decoded")
  except Exception as error:  # Broken bytes raise nearly any type in Pillow.
    if isinstance(error.__cause__, MemoryError):
      raise
    raise ValueError(_reason(encoded, error)) from error


def _decode(encoded, canvas, channels):
  _check_checksums(encoded)
  with _open(encoded) as picture:
    orientation = _orientation(picture)
    width, height = picture.size
    if canvas is not None:
      # JPEG can decode at 1/2, 1/4 or 1/8: still twice the canvas or more.
      picture.draft(picture.mode, (2 * canvas, 2 * canvas))
    reduced = picture.size != (width, height)
    if orientation != 1:
      ImageOps.exif_transpose(picture, in_place=True)
    if not reduced:
      width, height = picture.size
    elif orientation >= 5:
      width, height = height, width
    upright, remarks = _to_channels(picture, encoded, channels)
    if canvas is not None:
      upright = _shrink(upright, (min(width, canvas), min(height, canvas)))
    pixels = np.asarray(upright).reshape(*upright.size[::-1], channels)
    if canvas is not None:
      padded = np.zeros((canvas, canvas, channels), np.uint8)
      padded[: pixels.shape[0], : pixels.shape[1]] = pixels
      pixels = padded
    if _has_pages(picture):
      remarks["pages"] = 0
  return pixels, (height, width), remarks


def _shrink(picture, size):
  if picture.size == size:
    return picture
  # Hamming is as sharp as bicubic in two thirds of its time.
  return picture.resize(size, Image.Resampling.HAMMING, reducing_gap=2.0)


@functools.cache
def _known() -> list[str]:
  Image.init()
  return [name for name in _FORMATS if name in Image.OPEN]


def _open(encoded: bytes) -> Image.Image:
  picture = Image.open(io.BytesIO(encoded), formats=_known())
  if max(picture.size) > _LONGEST:
    width, height = picture.size
    raise ValueError(
        f"its header claims {width:,} pixels in width and {height:,} in"
        f" height; expected {_LONGEST:,} at most"
    )
  return picture


def _check_checksums(encoded: bytes) -> None:
  """Refuses a PNG whose pixels have changed.

  Pillow checks the parts before the pixels, but neither the pixels nor the
  orientation after them.
  """
  if not encoded.startswith(_PNG_SIGNATURE):
    return
  at = len(_PNG_SIGNATURE)
  while at + 8 <= len(encoded):  # Length, kind, content and checksum.
    length, kind = _PART.unpack_from(encoded, at)
    stop = at + 8 + length
    if kind == b"IEND":
      return
    if kind in (b"IDAT", b"eXIf"):
      if stop + 4 > len(encoded):
        raise ValueError("image file is truncated")
      found = int.from_bytes(encoded[stop : stop + 4], "big")
      if zlib.crc32(memoryview(encoded)[at + 4 : stop]) != found:
        raise ValueError(
            f"its bytes have changed: the checksum of a part {kind.decode()} is"
            " wrong"
        )
    at = stop + 4


def _orientation(picture: Image.Image) -> int:
  """Returns 1 for an upright picture, 5 to 8 for one that needs a quarter turn,
  perhaps mirrored.
  """
  try:
    found = picture.getexif().get(_Tag.Orientation, 1)
  except Exception:  # A broken tag does not spoil the picture.
    return 1
  return found if found in range(1, 9) else 1


def _tag(picture: Any, tag: int, default: Any = None) -> Any:
  """Returns the largest value of a tag of a TIFF; the default for others."""
  if picture.format != "TIFF":
    return default
  found = picture.tag_v2.get(tag, default)
  return max(found, default=default) if isinstance(found, tuple) else found


def _has_pages(picture: Image.Image) -> bool:
  try:  # The others are previews and maps, in phones' pictures.
    return picture.format != "MPO" and getattr(picture, "is_animated", False)
  except Exception:  # What follows a whole picture may be broken.
    return True


def _to_channels(
    picture: Image.Image, encoded: bytes, channels: int
) -> tuple[Image.Image, dict[str, int]]:
  """Converts any of Pillow's modes to 8 bits and a number of channels."""
  remarks = {}
  bits, largest = _bits(picture, encoded), 0
  count = _tag(picture, _Tag.SamplesPerPixel, 1)
  if count > len(picture.getbands()):
    remarks["channels"] = count
  if picture.mode == "CMYK":
    remarks["cmyk"] = 0
  _check_range(picture)
  # Whether a value of 0 is white: in ink, and in some TIFFs.
  inverted = (
      picture.mode == "CMYK"
      or _tag(picture, _Tag.PhotometricInterpretation) == 0
  )
  if picture.mode.startswith("I"):
    picture, largest = _to_eight_bits(picture, bits or 16, inverted)
  elif bits == 16:
    # Pillow has kept only the upper of two bytes.
    colors = [x for x in picture.getbands() if x not in ("A", "a")]
    extrema: list[Any] = [picture.getchannel(x).getextrema() for x in colors]
    largest = max(high for _, high in extrema) * 256 + 255
  if bits == 16 and 0 < largest < 2**15:
    remarks["pale" if inverted else "dark"] = largest
  if picture.has_transparency_data:
    picture = _with_alpha(picture, bits)
    if channels < 4:
      white = Image.new("RGBA", picture.size, "white")
      picture = Image.alpha_composite(white, picture)
  mode = _MODES[channels]
  return picture if picture.mode == mode else picture.convert(mode), remarks


def _bits(picture: Image.Image, encoded: bytes) -> int:
  """Returns the bits per value, or 0 where Pillow has scaled fewer than 16."""
  if picture.format == "PNG":
    return encoded[24]
  if picture.format == "TIFF":
    return _tag(picture, _Tag.BitsPerSample, 1)
  scaled = 0
  if picture.format == "JPEG2000":  # The first channel's, in its header.
    scaled = (encoded[encoded.index(_CODESTREAM) + 42] & 0x7F) + 1
  elif picture.format == "PPM" and (header := _PNM.match(encoded)):
    scaled = int(header[1]).bit_length()
  return scaled if scaled == 16 else 0


def _check_range(picture: Image.Image) -> None:
  """Refuses values whose black and white are unknown."""
  if picture.mode.startswith("F"):
    kind = "floating-point numbers"
  elif _tag(picture, _Tag.SampleFormat, _UNSIGNED) != _UNSIGNED:
    kind = "integers with a sign"
  elif picture.mode == "I" and picture.format == "TIFF":
    kind = "integers of 32 bits"
  else:
    return
  values = np.asarray(picture)
  raise ValueError(
      f"its values are {kind}, from {np.nanmin(values):g} to"
      f" {np.nanmax(values):g}, and it is not known which of them is white;"
      " scale them to unsigned 8 or 16 bits"
  )


def _to_eight_bits(
    picture: Image.Image, bits: int, inverted: bool
) -> tuple[Image.Image, int]:
  """Converts gray of more than 8 bits; returns its largest value, too."""
  values = np.asarray(picture)
  largest = int(values.max())
  eight = (values >> (bits - 8)).astype(np.uint8)
  if inverted:  # Pillow inverts 8 bits, but not these.
    eight = 255 - eight
  gray = Image.fromarray(eight)
  hidden = picture.info.get("transparency")
  if hidden is not None:
    alpha = np.where(values == hidden, 0, 255).astype(np.uint8)
    gray = Image.merge("LA", (gray, Image.fromarray(alpha)))
  return gray, largest


def _with_alpha(picture: Image.Image, bits: int) -> Image.Image:
  """Converts a picture of any mode that has transparency to RGBA."""
  hidden: Any = picture.info.get("transparency")
  # A PNG's transparent color has the file's bit depth; its pixels have 8 bits.
  if picture.mode == "L" and bits in (2, 4):
    picture.info["transparency"] = hidden * 255 // (2**bits - 1)
  elif picture.mode == "RGB" and bits == 16:
    picture.info["transparency"] = tuple(value >> 8 for value in hidden)
  if picture.mode == "La":
    picture = picture.convert("LA")
  return picture if picture.mode == "RGBA" else picture.convert("RGBA")


def _reason(encoded: bytes, error: Exception) -> str:
  if not encoded:
    return "the file is empty, not a regular file, over 1 GiB, or unreadable"
  if isinstance(error, Image.UnidentifiedImageError):
    return "not a picture in a format that Pillow reads"
  return str(error) or type(error).__name__
