"""Damaged and malicious pictures and folders."""

import io
import json
import os
import pathlib
import struct
import subprocess
import sys
import threading
import zlib

from PIL import Image
import pytest

from jssl import data
from jssl.data import listing

_CASE = pathlib.Path(__file__).parent / "fuzz_case.py"


@pytest.mark.slow
def test_damaged_pictures_are_decoded_or_refused():
  done = subprocess.run(
      [sys.executable, _CASE, "3000", "0"],
      text=True,
      capture_output=True,
      timeout=300,
  )
  assert done.returncode == 0, done.stderr
  result = json.loads(done.stdout.splitlines()[-1])
  assert result["decoded"] > 500 and result["refused"] > 500
  assert result["reasons"] > 50  # Not all for one cause.
  assert result["slowest"] < 30
  assert result["memory"] < 3 * 2**30


def _bytes(mode="RGB", size=(30, 20), name="PNG", **options):
  file = io.BytesIO()
  Image.new(mode, size).save(file, name, **options)
  return file.getvalue()


def _blank():
  return Image.new("RGB", (30, 20))


def _turned():
  exif = Image.Exif()
  exif[0x0112] = 6
  return exif


def _damaged():
  """A PNG in which one byte of pixels has changed."""
  content = bytearray(_bytes(compress_level=0))
  content[content.index(b"IDAT") + 100] ^= 1
  return bytes(content)


def _bomb(side):
  """A PNG of a few bytes whose header claims a huge size."""
  header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
  chunk = lambda kind, content: (
      struct.pack(">I", len(content))
      + kind
      + content
      + struct.pack(">I", zlib.crc32(kind + content))
  )
  pixels = zlib.compress(bytes(1000))
  return b"\x89PNG\r\n\x1a\n" + b"".join(
      chunk(*x) for x in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
  )


WHOLE = {
    "tiny.png": _bytes(size=(1, 1)),
    "wide.png": _bytes(size=(20_000, 3)),
    "large.jpg": _bytes(size=(9000, 6000), name="JPEG"),
    "cmyk.jpg": _bytes("CMYK", name="JPEG"),
    "deep.png": _bytes("I;16"),
    "palette.gif": _bytes("P", name="GIF"),
    "alpha.webp": _bytes("RGBA", name="WEBP"),
    "a_png.jpg": _bytes(),
    "a_jpeg.bmp": _bytes(name="JPEG"),
    "UPPER.PNG": _bytes(),
    "two\nlines.png": _bytes(),
    "turned.tif": _bytes(name="TIFF", exif=_turned()),
    "pages.tif": _bytes(name="TIFF", save_all=True, append_images=[_blank()]),
    "moving.gif": _bytes(
        name="GIF", save_all=True, append_images=[Image.new("RGB", (30, 20), 1)]
    ),
    "print.tif": _bytes("CMYK", name="TIFF"),
    "gray_alpha.png": _bytes("LA"),
    "hidden.png": _bytes("L", transparency=0),
}
BROKEN = {
    "empty.png": b"",
    "text.jpg": b"not a picture",
    "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "vector.png": b"<svg xmlns='http://www.w3.org/2000/svg'></svg>",
    "bomb.png": _bomb(2**31 - 1),
    "bomb2.png": _bomb(15_000),
    "half.jpg": _bytes(size=(400, 300), name="JPEG")[:500],
    "checksum.png": _damaged(),
    "float.tif": _bytes("F", name="TIFF"),
    "signed.tif": _bytes("I", name="TIFF"),
    "long.png": _bytes("1", size=(3_000_000, 1)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder of all that can go wrong."""
  folder = tmp_path_factory.mktemp("odd") / "photos"
  folder.mkdir()
  for name, content in (WHOLE | BROKEN).items():
    (folder / name).write_bytes(content)
  latin = os.fsencode(folder) + b"/caf\xe9.png"
  with open(latin, "wb") as file:
    file.write(_bytes())
  os.mkfifo(folder / "pipe.png")
  (folder / "endless.png").symlink_to("/dev/zero")
  (folder / "itself.png").symlink_to("itself.png")
  (folder / "gone.png").symlink_to("nowhere.png")
  (folder / "link.png").symlink_to("tiny.png")
  (folder / "a_folder.png").mkdir()
  (folder / "a_folder.png" / "around").symlink_to("..")
  return folder


_LINKED = {"pipe.png", "endless.png", "itself.png", "gone.png"}


def test_an_odd_folder_is_loaded_except_for_named_files(folder):
  source = data.open_source(f"folder:{folder}", "all")
  names = {record.name for record in source.read(range(source.length))}
  whole = set(WHOLE) - {"two\nlines.png"}
  whole |= {r"two\nlines.png", r"caf\udce9.png", "link.png"}
  assert names == whole | set(BROKEN) | _LINKED
  images = data.decode_all(source, data.measure(source, 16))
  skipped = {line.partition(":")[0] for line in images.skipped}
  assert skipped == set(BROKEN) | _LINKED
  assert len(images.skipped) == len(skipped)
  assert len(images.image) + len(skipped) == source.length
  for line in images.skipped:
    assert line.isprintable() and len(line.partition(": ")[2]) > 5
    line.encode()  # It can be written down.
  assert images.label is None
  assert [20_000 in extent for extent in images.extent].count(True) == 1


def test_a_pipe_does_not_hold_up_the_reader(folder):
  source = data.open_source(f"folder:{folder}", "all")
  read = threading.Thread(
      target=lambda: source.read(range(source.length)), daemon=True
  )
  read.start()
  read.join(timeout=30)
  assert not read.is_alive()


def test_no_other_program_is_started(folder, monkeypatch):
  """Pillow would have Ghostscript draw a picture in PostScript."""
  started = []
  monkeypatch.setattr(subprocess, "check_call", started.append)
  monkeypatch.setattr(subprocess, "Popen", started.append)
  with pytest.raises(ValueError, match="not a picture in a format"):
    data.decode(BROKEN["script.jpg"])
  assert not started


def test_a_broken_tag_spoils_no_picture():
  content = _bytes(name="JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff")
  pixels, extent = data.decode(content)
  assert pixels.shape == (20, 30, 3) and extent == (20, 30)


def test_links_in_a_ring_are_followed_once(tmp_path):
  for name in "ab":
    (tmp_path / name).mkdir()
    (tmp_path / name / f"{name}.png").write_bytes(_bytes())
  (tmp_path / "a" / "to_b").symlink_to("../b")
  (tmp_path / "b" / "to_a").symlink_to("../a")
  (tmp_path / "a" / "up").symlink_to(tmp_path.parent)
  names = listing.list_files(tmp_path, {".png"}).names
  assert sorted(names) == ["a/a.png", "a/to_b/b.png", "b/b.png", "b/to_a/a.png"]


def test_a_cached_listing_cannot_lead_out(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setattr(listing, "_CACHED", 1)
  monkeypatch.setattr(listing, "_SETTLED_NS", 0)
  photos = tmp_path / "photos"
  photos.mkdir()
  (photos / "a.png").write_bytes(_bytes())
  os.utime(photos, (0, 0))
  assert listing.list_files(photos, {".png"}).names == ["a.png"]
  (cached,) = (tmp_path / "cache" / "jssl" / "listings").iterdir()
  content = json.loads(cached.read_text())
  for name in ("../../secret.png", "/etc/secret.png"):
    cached.write_text(json.dumps(content | {"names": [name]}))
    assert listing.list_files(photos, {".png"}).names == ["a.png"]
