"""Decoding: which side is up, transparency, depth, checksums, remarks."""

import io
import itertools
import struct
import zlib

import numpy as np
import PIL
from PIL import Image
import pytest

from jssl.data import source
from jssl.data.decode import decode, decode_remarked, KINDS, read_size

_ORIENTATION = 0x0112
# From the upright picture to the stored one, by the orientation tag.
_STORED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: lambda x: np.rot90(x, -1),
}
_FILES = {
    "TIFF": {},
    "TIFF of LZW": {"compression": "tiff_lzw"},
    "TIFF of JPEG": {"compression": "jpeg", "quality": 95},
    "PNG": {},
    "JPEG": {"quality": 95},
    "MPO": {"quality": 95},
    "WEBP": {"lossless": True},
}


def _encode(picture, file, **options):
  buffer = io.BytesIO()
  if not isinstance(picture, Image.Image):
    picture = Image.fromarray(np.ascontiguousarray(picture))
  picture.save(buffer, file.partition(" ")[0], **options)
  return buffer.getvalue()


def _pixels(height, width):
  """A smooth picture without symmetry: what JPEG keeps nearly as it is."""
  y, x = np.mgrid[0:height, 0:width] / max(height, width)
  waves = [np.sin(3 * x), np.cos(4 * y), np.sin(3 * (x + y))]
  return (127 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


@pytest.mark.parametrize("orientation", _STORED)
@pytest.mark.parametrize("file", _FILES)
def test_the_size_is_that_of_the_upright_pixels(file, orientation):
  upright = _pixels(64, 160)
  exif = Image.Exif()
  exif[_ORIENTATION] = orientation
  encoded = _encode(
      _STORED[orientation](upright), file, exif=exif, **_FILES[file]
  )
  assert read_size(encoded) == (64, 160)
  pixels, extent = decode(encoded)
  assert extent == (64, 160) and pixels.shape == (64, 160, 3)
  assert np.abs(pixels.astype(int) - upright).max() <= 8
  for canvas in (100, 16):  # JPEG is decoded at a smaller size for the latter.
    pixels, extent = decode(encoded, canvas)
    assert extent == (64, 160) and pixels.shape == (canvas, canvas, 3)
    expected, _ = decode(_encode(upright, "PNG"), canvas)
    assert np.abs(pixels.astype(int) - expected).max() <= 10


def test_a_canvas_is_writable_and_may_be_large():
  pixels, _ = decode(_encode(_pixels(5, 7), "PNG"), 14_000)
  pixels[0, 0] = 1
  assert pixels.shape == (14_000, 14_000, 3) and not pixels[5:].any()


def _chunk(kind, content):
  checksum = zlib.crc32(kind + content)
  size = struct.pack(">I", len(content))
  return size + kind + content + struct.pack(">I", checksum)


def _png(rows, *, bits, color, extra=b""):
  """A PNG of rows of bytes, in any depth."""
  height = len(rows)
  width = 8 * len(rows[0]) // (bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color])
  header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
  content = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
  return (
      b"\x89PNG\r\n\x1a\n"
      + _chunk(b"IHDR", header)
      + extra
      + _chunk(b"IDAT", content)
      + _chunk(b"IEND", b"")
  )


def test_a_tag_behind_the_pixels_of_a_png_counts():
  upright = _pixels(6, 10)
  encoded = _encode(np.rot90(upright), "PNG")
  exif = Image.Exif()
  exif[_ORIENTATION] = 6
  tag = _chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
  encoded = encoded[:-12] + tag + encoded[-12:]
  assert read_size(encoded) == (6, 10)
  pixels, extent = decode(encoded)
  assert extent == (6, 10)
  np.testing.assert_array_equal(pixels, upright)


def _transparent():
  """Pictures of every mode with transparency; the middle one is opaque gray.

  The hidden ones differ in color from one picture to the other.
  """
  made = {}
  for hidden in (0, 60, 200):
    gray = np.array([[hidden, 100, hidden]], np.uint8)
    alpha = np.array([[0, 255, 0]], np.uint8)
    la = Image.merge("LA", (Image.fromarray(gray), Image.fromarray(alpha)))
    rgba = la.convert("RGBA")
    palette = Image.fromarray(np.array([[1, 0, 1]], np.uint8))
    palette = palette.convert("P")
    palette.putpalette([100] * 3 + [hidden] * 3)
    trns = lambda *values: _chunk(
        b"tRNS", struct.pack(f">{len(values)}H", *values)
    )
    deep = np.array([hidden * 257, 25700, hidden * 257], ">u2")
    deep_rgb = np.repeat(deep, 3)
    made[hidden] = {
        "RGBA.png": _encode(rgba, "PNG"),
        "LA.png": _encode(la, "PNG"),
        "L with tRNS.png": _encode(
            Image.fromarray(gray), "PNG", transparency=hidden
        ),
        "RGB with tRNS.png": _encode(
            rgba.convert("RGB"), "PNG", transparency=(hidden,) * 3
        ),
        "P with tRNS.png": _encode(palette, "PNG", transparency=1),
        "P with alphas.png": _encode(
            palette, "PNG", transparency=bytes([255, 0])
        ),
        "P.gif": _encode(palette, "GIF", transparency=1),
        "RGBA.webp": _encode(rgba, "WEBP", lossless=True, exact=True),
        "RGBA.tif": _encode(rgba, "TIFF"),
        "LA.tif": _encode(la, "TIFF"),
        "I;16 with tRNS.png": _png(
            [deep.tobytes()], bits=16, color=0, extra=trns(hidden * 257)
        ),
        "RGB of 16 bits with tRNS.png": _png(
            [deep_rgb.tobytes()],
            bits=16,
            color=2,
            extra=trns(*[hidden * 257] * 3),
        ),
    }
  return made


_HIDDEN = _transparent()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", _HIDDEN[0])
def test_hidden_colors_do_not_show(name, channels):
  shown = [decode(x[name], channels=channels)[0] for x in _HIDDEN.values()]
  for pixels in shown:
    values = pixels[0].astype(int)
    assert np.abs(values - [[255], [100], [255]]).max() <= 1
    np.testing.assert_array_equal(pixels, shown[0])


@pytest.mark.parametrize("name", _HIDDEN[0])
def test_four_channels_keep_transparency(name):
  pixels, _ = decode(_HIDDEN[60][name], channels=4)
  assert pixels[0, :, 3].tolist() == [0, 255, 0]
  assert abs(int(pixels[0, 1, 0]) - 100) <= 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_hidden_gray_of_few_bits_does_not_show(bits, channels):
  top = 2**bits - 1
  for hidden in range(top + 1):
    other = (hidden + 1) % (top + 1)
    byte = (hidden << (8 - bits)) | (other << (8 - 2 * bits))
    trns = _chunk(b"tRNS", struct.pack(">H", hidden))
    encoded = _png([[byte]], bits=bits, color=0, extra=trns)
    pixels, _ = decode(encoded, channels=channels)
    assert (pixels[0, 0] == 255).all()
    assert (pixels[0, 1] == 255 * other // top).all()


@pytest.mark.skipif(
    int(PIL.__version__.split(".")[0]) < 12,
    reason="Pillow before 12 does not open it, so it is refused.",
)
def test_premultiplied_gray_is_laid_over_white():
  """Pillow writes no such TIFF: the tag of its second channel is changed."""
  la = np.array([[[50, 128], [0, 0]]], np.uint8)
  encoded = bytearray(_encode(Image.fromarray(la, "LA"), "TIFF"))
  tag = struct.pack("<HHI", 338, 3, 1)  # ExtraSamples, one short.
  at = encoded.index(tag) + len(tag)
  assert encoded[at] == 2
  encoded[at] = 1
  with Image.open(io.BytesIO(encoded)) as picture:
    assert picture.mode == "La"
  for channels in (1, 3):
    pixels, _ = decode(bytes(encoded), channels=channels)
    # Half of 100, and half of white.
    assert np.abs(pixels[0].astype(int) - [[177], [255]]).max() <= 1
  pixels, _ = decode(bytes(encoded), channels=4)
  assert pixels[0, :, 3].tolist() == [128, 0]


def _remarks(encoded, **options):
  return decode_remarked(encoded, **options)[2]


def _values(pixels):
  return pixels[..., 0].tolist()


def test_values_of_12_bits_in_16_are_remarked_with_the_brightest():
  deep = np.array([[0, 16, 4000, 4095]], np.uint16)
  for file in ("PNG", "TIFF"):
    assert _remarks(_encode(deep, file)) == {"dark": 4095}
  assert _remarks(_encode(deep * 16, "PNG")) == {}
  rgb = np.repeat(deep.astype(">u2"), 3).tobytes()
  assert _remarks(_png([rgb], bits=16, color=2)) == {"dark": 4095}
  assert _remarks(_png([rgb[:16]], bits=16, color=6)) == {"dark": 4095}
  full = np.repeat((deep * 16).astype(">u2"), 3).tobytes()
  assert _remarks(_png([full], bits=16, color=2)) == {}
  assert _remarks(_encode(deep * 0, "PNG")) == {}  # Black, however deep.
  assert _remarks(_encode((deep // 16).astype(np.uint8), "PNG")) == {}


def _pnm(kind, white, values):
  """A PNM with a comment in its header, of one row, as bytes or as text."""
  values = np.asarray(values)
  width = values.size // (3 if kind in ("P3", "P6") else 1)
  header = f"{kind}\n# by a scanner\n{width} 1 # wide, high\n{white}\n"
  if kind in ("P2", "P3"):
    return f"{header}{' '.join(map(str, values.ravel()))}\n".encode()
  return (
      header.encode() + values.astype(">u2" if white > 255 else "u1").tobytes()
  )


@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
def test_a_pnm_is_dark_relative_to_its_own_white(kind):
  deep = np.array([0, 16, 4000, 4095, 4000, 16])
  pixels = decode(_pnm(kind, 65535, deep))[0]
  found = _remarks(_pnm(kind, 65535, deep))
  assert pixels.max() <= 16 and set(found) == {"dark"}
  # Of colors, Pillow gives 8 bits, from which there is only a bound.
  assert 4095 <= found["dark"] <= (4095 if kind in ("P2", "P5") else 4095 + 256)
  for white, values in ((65535, deep * 16), (4095, deep), (4095, deep // 16)):
    assert _remarks(_pnm(kind, white, values)) == {}
  assert decode(_pnm(kind, 4095, deep))[0].max() == 255
  assert _remarks(_pnm(kind, 255, deep // 100)) == {}


def test_a_bitmap_of_one_bit_has_no_value_of_white():
  pixels, _ = decode(b"P4\n8 1\n\x0f", channels=1)
  assert _values(pixels) == [[255] * 4 + [0] * 4]
  assert _remarks(b"P1\n65535 1\n" + b"1" * 65535) == {}


def test_jpeg_2000_is_dark_by_the_depth_in_its_header():
  deep = np.tile(np.array([0, 16, 4000, 4095], np.uint16), (16, 4))
  for options in ({}, {"no_jp2": True}):
    encoded = _encode(deep, "JPEG2000", **options)
    assert decode(encoded)[0].max() <= 16
    assert _remarks(encoded) == {"dark": 4095}
    assert _remarks(_encode(deep * 16, "JPEG2000", **options)) == {}
    # The header of 12 bits: Pillow scales the values.
    twelve = bytearray(encoded)
    at = encoded.index(b"\xff\x4f\xff\x51") + 42
    assert twelve[at] == 15
    twelve[at] = 11
    assert _remarks(bytes(twelve)) == {}
    eight = (deep // 300).astype(np.uint8)
    for dark in (eight, np.stack([eight] * 3, axis=-1)):
      assert _remarks(_encode(dark, "JPEG2000", **options)) == {}


def _cmyk_of_16_bits(content, width):
  """A TIFF of one row, which Pillow does not write."""
  depths = 8 + len(content)
  tags = [  # Number, type (3: short, 4: long), count and value or offset.
      (256, 4, 1, width),
      (257, 4, 1, 1),
      (258, 3, 4, depths),
      (259, 3, 1, 1),
      (262, 3, 1, 5),
      (273, 4, 1, 8),
      (277, 3, 1, 4),
      (278, 4, 1, 1),
      (279, 4, 1, len(content)),
  ]
  parts = [b"II*\0", struct.pack("<I", depths + 8), content]
  parts += [struct.pack("<4H", *[16] * 4), struct.pack("<H", len(tags))]
  parts += [struct.pack("<HHII", *tag) for tag in tags]
  return b"".join([*parts, bytes(4)])


def test_where_0_is_white_12_bits_in_16_are_pale():
  deep = np.array([[0, 16, 4000, 4095]], np.uint16)
  for options in ({}, {"compression": "tiff_lzw"}):
    encoded = _encode(deep, "TIFF", tiffinfo={262: 0}, **options)
    assert decode(encoded)[0].min() == 240
    assert _remarks(encoded) == {"pale": 4095}
    full = _encode(deep * 16, "TIFF", tiffinfo={262: 0}, **options)
    assert _remarks(full) == {}
  ink = np.repeat(deep, 4).astype("<u2").tobytes()
  assert decode(_cmyk_of_16_bits(ink, 4))[0].min() >= 225
  assert _remarks(_cmyk_of_16_bits(ink, 4)) == {"cmyk": 0, "pale": 4095}
  assert "nearly white" in KINDS["pale"] and "nearly black" in KINDS["dark"]


def test_values_of_12_bits_that_say_so_are_scaled():
  values = [0, 16, 2048, 4095]
  packed = int("".join(f"{v:03x}" for v in values), 16).to_bytes(6)
  encoded = bytearray(_encode(np.zeros((1, 4), np.uint16), "TIFF"))
  tag = struct.pack("<HHI", 258, 3, 1)  # BitsPerSample, one short.
  at = encoded.index(tag) + len(tag)
  assert encoded[at] == 16
  encoded[at] = 12
  encoded[-8:] = packed + bytes(2)
  pixels, _ = decode(bytes(encoded), channels=1)
  assert _values(pixels) == [[0, 1, 128, 255]]
  assert _remarks(bytes(encoded)) == {}


def test_16_bits_of_which_0_is_white_are_inverted():
  deep = np.array([[0, 257, 32768, 65535]], np.uint16)
  for options in ({}, {"compression": "tiff_lzw"}):
    encoded = _encode(deep, "TIFF", tiffinfo={262: 0}, **options)
    pixels, _ = decode(encoded, channels=1)
    assert _values(pixels) == [[255, 254, 127, 0]]
  # Of 8 bits, Pillow inverts both ways.
  eight = np.array([[0, 1, 128, 255]], np.uint8)
  encoded = _encode(eight, "TIFF", tiffinfo={262: 0})
  pixels, _ = decode(encoded, channels=1)
  assert _values(pixels) == eight.tolist()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_values_without_a_known_white_are_refused(channels):
  for kind, low, high, reason in (
      (np.int32, 0, 70_000, "integers with a sign, from 0 to 70000"),
      (np.int32, -5, 200, "integers with a sign, from -5 to 200"),
      (np.float32, 0, 0.75, "floating-point numbers, from 0 to 0.75"),
      (np.float32, np.nan, 3000, "floating-point numbers, from 3000 to 3000"),
  ):
    encoded = _encode(np.array([[low, high]], kind), "TIFF")
    with pytest.raises(ValueError, match=f"{reason}.*8 or 16 bits"):
      decode(encoded, channels=channels)


def test_signs_and_unsigned_32_bits_are_refused():
  for kind in (np.uint8, np.uint16):
    encoded = bytearray(
        _encode(np.array([[1, 2]], kind), "TIFF", tiffinfo={339: (1,)})
    )
    tag = struct.pack("<HHI", 339, 3, 1)  # SampleFormat, one short.
    at = encoded.index(tag) + len(tag)
    encoded[at] = 2
    with pytest.raises(ValueError, match="with a sign.*unsigned 8 or 16 bits"):
      decode(bytes(encoded))
  encoded = bytearray(_encode(np.array([[1, 2]], np.int32), "TIFF"))
  at = encoded.index(struct.pack("<HHI", 339, 3, 1)) + 8
  encoded[at] = 1
  with pytest.raises(ValueError, match="integers of 32 bits, from 1 to 2"):
    decode(bytes(encoded))


def test_deep_pnm_is_scaled_by_its_own_maximum():
  for top in (1023, 65535):
    values = np.array([0, top // 2 + 1, top], ">u2")
    gray = b"P5 3 1 %d\n" % top + values.tobytes()
    color = b"P6 1 1 %d\n" % top + values.tobytes()
    assert _values(decode(gray, channels=1)[0]) == [[0, 128, 255]]
    assert decode(color)[0].tolist() == [[[0, 128, 255]]]
    assert _remarks(gray) == _remarks(color) == {}


def _flip(encoded, at):
  content = bytearray(encoded)
  content[at] ^= 1
  return bytes(content)


@pytest.mark.parametrize("level", [0, 6])
def test_a_png_whose_checksum_is_wrong_is_refused(level):
  whole = _encode(_pixels(40, 50), "PNG", compress_level=level)
  start, stop = whole.index(b"IDAT") + 4, len(whole) - 12
  decode(whole)
  for at in [*range(start, stop, 97), *range(stop - 8, stop)]:
    with pytest.raises(ValueError):
      decode(_flip(whole, at))
  # Stored bytes that change are found by nothing else.
  if not level:
    with pytest.raises(ValueError, match="checksum of a part IDAT is wrong"):
      decode(_flip(whole, start + 500))
  with pytest.raises(ValueError, match="truncated"):
    decode(whole[: stop - 2])


def test_a_tag_whose_checksum_is_wrong_is_refused():
  exif = Image.Exif()
  exif[_ORIENTATION] = 3
  tag = _chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
  plain = _encode(_pixels(4, 5), "PNG")
  encoded = plain[:-12] + tag + plain[-12:]
  decode(encoded)
  with pytest.raises(ValueError, match="checksum of a part eXIf is wrong"):
    decode(_flip(encoded, len(plain) - 12 + 10))
  # What only describes the picture may be wrong.
  text = _flip(_chunk(b"tEXt", b"Title\0abc"), 14)
  decode(plain[:-12] + text + plain[-12:])


def test_several_pages_are_remarked():
  frames = [Image.fromarray(_pixels(8, 9) + 20 * i) for i in range(3)]
  for file in ("TIFF", "GIF", "WEBP", "PNG"):
    more = dict(save_all=True, append_images=frames[1:])
    encoded = _encode(frames[0], file, **more)
    pages = {"pages": 0}
    assert _remarks(encoded) == _remarks(encoded, canvas=4) == pages, file
    assert _remarks(_encode(frames[0], file)) == {}, file
    pixels, _ = decode(encoded)
    difference = pixels.astype(int) - np.asarray(frames[0])
    assert np.abs(difference).mean() < 8, file  # The next is brighter by 20.
  # Phones write a preview or a map of lights behind the photograph.
  more = dict(save_all=True, append_images=frames[1:])
  assert _remarks(_encode(frames[0], "MPO", **more)) == {}


def test_more_channels_and_cmyk_are_remarked():
  five = np.arange(20, dtype=np.uint8).reshape(1, 4, 5)
  encoded = _tiff_of_channels(five)
  pixels, _ = decode(encoded)
  np.testing.assert_array_equal(pixels, five[..., :3])
  assert _remarks(encoded) == {"channels": 5}
  cmyk = Image.fromarray(_pixels(4, 5)).convert("CMYK")
  for file in ("TIFF", "JPEG"):
    assert _remarks(_encode(cmyk, file)) == {"cmyk": 0}
  for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
    picture = Image.fromarray(_pixels(4, 5)).convert(mode)
    assert _remarks(_encode(picture, "TIFF")) == {}


def _tiff_of_channels(pixels):
  """A TIFF of 8 bits with channels beyond RGB, of no known meaning."""
  height, width, channels = pixels.shape
  short = lambda *values: struct.pack(f"<{len(values)}H", *values)
  content, after = pixels.tobytes(), 8 + 2 + 11 * 12 + 4
  bits, extra = short(*[8] * channels), short(*[0] * (channels - 3))
  entries = [
      (256, 3, 1, short(width)),
      (257, 3, 1, short(height)),
      (258, 3, channels, struct.pack("<I", after)),
      (259, 3, 1, short(1)),
      (262, 3, 1, short(2)),
      (273, 4, 1, struct.pack("<I", after + len(bits) + 4)),
      (277, 3, 1, short(channels)),
      (278, 3, 1, short(height)),
      (279, 4, 1, struct.pack("<I", len(content))),
      (284, 3, 1, short(1)),
      (338, 3, channels - 3, extra),
  ]
  head = b"II*\0" + struct.pack("<IH", 8, len(entries))
  head += b"".join(
      struct.pack("<HHI", *entry) + value.ljust(4, b"\0")
      for *entry, value in entries
  )
  return head + bytes(4) + bits + bytes(4) + content


@pytest.mark.parametrize("failures", [2, 3])
def test_a_lack_of_memory_is_waited_out_and_is_not_the_picture(
    monkeypatch, failures
):
  monkeypatch.setattr(source, "_WAITS", (0.0, 0.0))  # Three tries.
  encoded = _encode(_pixels(4, 5), "PNG")
  load, tries = Image.open, itertools.count()

  def opened(*arguments, **options):
    if next(tries) < failures:
      raise MemoryError
    return load(*arguments, **options)

  monkeypatch.setattr(Image, "open", opened)
  if failures < 3:
    np.testing.assert_array_equal(decode(encoded)[0], _pixels(4, 5))
  else:
    with pytest.raises(OSError, match="Cannot allocate memory.*workers"):
      decode(encoded)
  assert next(tries) == 3


def test_a_side_of_millions_of_pixels_is_refused():
  encoded = _encode(Image.new("1", (2**20 + 1, 1)), "PNG")
  with pytest.raises(
      ValueError, match="1,048,577 pixels in width and 1 in height; exp"
  ):
    decode(encoded, 8)
  assert decode(_encode(Image.new("1", (2**20, 1)), "PNG"))[1] == (1, 2**20)
