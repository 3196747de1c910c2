"""Folders of pictures: layouts, formats, broken files, the canvas."""

import errno
import functools
import io
import itertools
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from jssl import augment, config
from jssl.data import decode, decode_all, load, measure, open_source


def _pixels(height, width, seed=0):
  """A smooth picture: what JPEG keeps nearly as it is."""
  y, x = np.mgrid[0:height, 0:width] / max(height, width)
  waves = [np.sin(3 * x + seed), np.cos(4 * y + seed), np.sin(3 * (x + y))]
  return (127 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def _save(path, pixels, **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path, **options)


def _encode(picture, suffix, **options):
  buffer = io.BytesIO()
  picture.save(buffer, suffix, **options)
  return buffer.getvalue()


def _names(path, split):
  source = open_source(f"folder:{path}", split)
  return [record.name for record in source.read(range(source.length))]


@pytest.fixture
def animals(tmp_path):
  """Two classes of 12 PNG pictures each, all 6 x 5."""
  for label, name in enumerate(["cat", "dog"]):
    for i in range(12):
      pixels = np.full((6, 5, 3), 100 * label + i, np.uint8)
      _save(tmp_path / name / f"{i:02}.png", pixels)
  return tmp_path


def test_classes_labels_and_pixels(animals):
  train = load(f"folder:{animals}", "train")
  test = load(f"folder:{animals}", "test")
  assert train.classes == test.classes == ("cat", "dog")
  assert train.image.dtype == np.uint8 and train.image.shape[1:] == (6, 5, 3)
  assert train.label.dtype == np.int32
  assert train.extent is None and train.skipped == ()
  values = np.concatenate([train.image, test.image])[:, 0, 0, 0]
  labels = np.concatenate([train.label, test.label])
  assert sorted(values) == [*range(12), *range(100, 112)]
  np.testing.assert_array_equal(labels, values >= 100)


def test_rows_are_in_the_order_of_file_names(animals):
  names = _names(animals, "train")
  assert names == sorted(names) and names[0].startswith("cat/")


def test_the_held_out_part_stays_when_files_are_added(animals):
  train, test = _names(animals, "train"), _names(animals, "test")
  assert len(test) >= 1 and len(train) + len(test) == 24
  assert not set(train) & set(test)
  for i in range(100, 300):
    shutil.copy(animals / "cat" / "00.png", animals / "cat" / f"{i}.png")
  assert set(test) <= set(_names(animals, "test"))
  assert set(train) <= set(_names(animals, "train"))
  assert 10 <= len(_names(animals, "test")) <= 40  # About a tenth of 224.


def test_a_pair_is_split_and_a_single_picture_is_for_training(tmp_path):
  for count in (1, 2):
    _save(tmp_path / f"{count}.png", _pixels(4, 4))
    assert len(_names(tmp_path, "train")) == 1
  assert len(_names(tmp_path, "test")) == 1
  (tmp_path / "2.png").unlink()
  with pytest.raises(ValueError, match=r"'test'.*no pictures.*train \(1 im"):
    load(f"folder:{tmp_path}", "test")


def test_slices_nest_and_mix_the_classes(animals):
  half = _names(animals, "train[:50%]")
  quarter = _names(animals, "train[:25%]")
  rest = _names(animals, "train[50%:]")
  assert set(quarter) < set(half) and half == sorted(half)
  assert sorted(half + rest) == _names(animals, "train")
  assert {name[:3] for name in quarter} == {"cat", "dog"}
  both = _names(animals, "train+test")
  assert len(both) == 24 and both == sorted(both)


def test_an_unknown_split_lists_the_splits(animals):
  with pytest.raises(ValueError, match=r"'valid'.*train \(\d+ im.*test \("):
    load(f"folder:{animals}", "valid")


@pytest.mark.parametrize("held_out", ["test", "validation", "val"])
def test_train_and_test_folders_are_the_splits(tmp_path, held_out):
  _save(tmp_path / "train" / "b" / "1.png", _pixels(4, 4))
  _save(tmp_path / "train" / "a" / "2.png", _pixels(4, 4))
  _save(tmp_path / held_out / "b" / "3.png", _pixels(4, 4))
  train = load(f"folder:{tmp_path}", "train")
  test = load(f"folder:{tmp_path}", "test")
  assert train.classes == test.classes == ("a", "b")
  assert train.label.tolist() == [0, 1] and test.label.tolist() == [1]
  assert _names(tmp_path, "test") == [f"{held_out}/b/3.png"]
  assert _names(tmp_path, "test[:1]") == [f"{held_out}/b/3.png"]


def test_a_class_may_be_called_train(tmp_path):
  _save(tmp_path / "train" / "1.png", _pixels(4, 4))
  _save(tmp_path / "bus" / "2.png", _pixels(4, 4))
  assert load(f"folder:{tmp_path}", "train+test").classes == ("bus", "train")


def test_a_flat_folder_is_unlabelled(tmp_path):
  for i in range(5):
    _save(tmp_path / f"{i}.png", _pixels(4, 4, i))
  images = load(f"folder:{tmp_path}", "train+test")
  assert images.label is None and images.classes == ()
  assert images.image.shape == (5, 4, 4, 3)
  np.testing.assert_array_equal(images.image[3], _pixels(4, 4, 3))


def test_nested_hidden_and_foreign_files(tmp_path):
  _save(tmp_path / "cat" / "home" / "old" / "1.PNG", _pixels(4, 4))
  _save(tmp_path / "dog" / "2.Jpg", _pixels(4, 4), format="JPEG")
  _save(tmp_path / "dog" / ".3.png", _pixels(4, 4))
  _save(tmp_path / ".cache" / "4.png", _pixels(4, 4))
  (tmp_path / "dog" / "notes.txt").write_text("not a picture")
  (tmp_path / "empty").mkdir()
  images = load(f"folder:{tmp_path}", "train+test")
  assert images.classes == ("cat", "dog") and images.label.tolist() == [0, 1]
  assert images.skipped == ()


def test_a_picture_next_to_the_class_folders_is_named(animals):
  _save(animals / "cover.png", _pixels(6, 5))
  images = load(f"folder:{animals}", "train+test")
  assert images.classes == ("cat", "dog")
  assert images.label.tolist() == [0] * 12 + [1] * 12
  assert images.skipped == (
      "cover.png: it is next to the class folders, so it has no label",
  )


def test_broken_files_are_skipped_and_named(animals):
  whole = _encode(Image.fromarray(_pixels(6, 5)), "JPEG")
  folder = animals / "cat"
  (folder / "cut.jpg").write_bytes(whole[: len(whole) - 20])
  (folder / "empty.png").write_bytes(b"")
  (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
  (folder / "noise.png").write_bytes(bytes(range(256)) * 8)
  (folder / "text.jpg").write_text("not a picture at all")
  png = bytearray((folder / "00.png").read_bytes())
  png[40:50] = bytes(10)
  (folder / "flipped.png").write_bytes(png)
  images = load(f"folder:{animals}", "train+test")
  values = images.image[:, 0, 0, 0].tolist()
  assert values == [*range(12), *range(100, 112)]
  assert images.label.tolist() == [0] * 12 + [1] * 12
  reasons = dict(line.split(": ", 1) for line in images.skipped)
  assert sorted(reasons) == [
      "cat/cut.jpg",
      "cat/empty.png",
      "cat/flipped.png",
      "cat/gone.jpg",
      "cat/noise.png",
      "cat/text.jpg",
  ]
  assert "truncated" in reasons["cat/cut.jpg"].lower()
  assert reasons["cat/text.jpg"].startswith("not a picture")
  assert "the file is empty" in reasons["cat/empty.png"]


def test_extent_and_label_stay_with_their_pictures(tmp_path):
  for i in range(8):
    _save(tmp_path / "ab"[i % 2] / f"{i}.png", _pixels(10 + i, 20))
  (tmp_path / "a" / "3.png").write_text("broken")
  images = load(f"folder:{tmp_path}", "train+test", canvas=8)
  assert images.extent[:, 0].tolist() == [10, 12, 14, 16, 11, 13, 15, 17]
  assert images.label.tolist() == [0] * 4 + [1] * 4
  for row, height in enumerate([10, 12, 14, 16, 11, 13, 15, 17]):
    expected, _ = decode(
        _encode(Image.fromarray(_pixels(height, 20)), "PNG"), 8
    )
    np.testing.assert_array_equal(images.image[row], expected)


def test_nothing_to_decode_is_an_error(tmp_path):
  with pytest.raises(ValueError, match="holds no pictures.*jpg"):
    load(f"folder:{tmp_path}", "train")
  for name in ("1.jpg", "2.jpg", "3.jpg"):
    (tmp_path / name).write_text("not a picture")
  for canvas in (None, 16):
    with pytest.raises(ValueError, match=r"None of the .*\d\.jpg: not a pic"):
      load(f"folder:{tmp_path}", "train", canvas=canvas)


def test_a_missing_folder_names_the_nearest(tmp_path):
  for name in ("photos", "music"):
    (tmp_path / name).mkdir()
  with pytest.raises(FileNotFoundError, match="holds photos, but no 'phtos'"):
    load(f"folder:{tmp_path}/phtos", "train")
  with pytest.raises(FileNotFoundError, match="holds photos, but no 'phtos'"):
    load(f"folder:{tmp_path}/phtos/cats", "train")
  (tmp_path / "one.jpg").write_text("")
  with pytest.raises(FileNotFoundError, match="is a file"):
    load(f"folder:{tmp_path}/one.jpg", "train")
  with pytest.raises(FileNotFoundError, match="folder:photos"):
    load("folder:", "train")


def test_pictures_of_many_sizes_need_a_canvas(tmp_path):
  _save(tmp_path / "1.png", _pixels(30, 40))
  _save(tmp_path / "2.png", _pixels(20, 50))
  _save(tmp_path / "3.png", _pixels(25, 50))
  with pytest.raises(ValueError, match="20x50 and 30x40.*canvas=25"):
    load(f"folder:{tmp_path}", "train+test")
  with pytest.raises(ValueError, match="canvas is 0"):
    load(f"folder:{tmp_path}", "train", canvas=0)


def test_no_more_than_the_default_canvas_is_suggested(tmp_path):
  for i in range(3):
    _save(tmp_path / f"{i}.png", _pixels(700 + i, 900))
  expected = config.base("imagenet2012").data.canvas
  assert config.base(f"folder:{tmp_path}").data.canvas == expected
  with pytest.raises(ValueError, match=f"--config.data.canvas={expected},"):
    load(f"folder:{tmp_path}", "all")


def test_a_set_that_does_not_fit_is_refused(animals):
  needed = 24 * 1024 * 1024 * 3
  with pytest.raises(ValueError, match=r"0.0703 GiB at 1024x1024.*canvas"):
    load(f"folder:{animals}", "all", canvas=1024, max_bytes=needed - 1)
  images = load(f"folder:{animals}", "all", canvas=16, max_bytes=24 * 16**2 * 3)
  assert images.image.shape == (24, 16, 16, 3)


@pytest.mark.parametrize(
    "height,width", [(90, 160), (300, 200), (10, 7), (20, 90), (32, 32)]
)
@pytest.mark.parametrize("suffix", ["PNG", "JPEG"])
def test_the_canvas_holds_the_whole_picture(height, width, suffix):
  encoded = _encode(Image.fromarray(_pixels(height, width)), suffix)
  picture = Image.fromarray(decode(encoded)[0])
  pixels, extent = decode(encoded, 32)
  assert extent == (height, width) and pixels.shape == (32, 32, 3)
  # In its corner; longer sides are shrunk to the canvas, shorter ones kept.
  shown = min(height, 32), min(width, 32)
  expected = picture.resize(shown[::-1], Image.Resampling.BICUBIC)
  difference = pixels[: shown[0], : shown[1]].astype(int) - np.asarray(expected)
  assert np.abs(difference).max() <= (4 if shown != (height, width) else 0)
  assert not pixels[shown[0] :].any() and not pixels[:, shown[1] :].any()


def test_crops_of_a_canvas_are_those_of_the_picture():
  """Of a picture that fits, every pixel is kept."""
  encoded = _encode(Image.fromarray(_pixels(30, 40)), "PNG")
  whole, _ = decode(encoded)
  canvas, extent = decode(encoded, 48)
  keys = jax.random.split(jax.random.key(0), 20)
  recipe = functools.partial(augment.crop_and_flip, size=12, scale=(0.08, 1.0))
  crop = lambda key, image, extent: recipe(
      key, augment.to_float(image), extent=extent
  )
  views = jax.jit(jax.vmap(crop, in_axes=(0, None, None)))
  of_canvas = views(keys, canvas, jnp.array(extent))
  of_picture = views(keys, whole, jnp.array(extent))
  np.testing.assert_allclose(of_canvas, of_picture, atol=1e-5)
  evaluate = jax.jit(augment.evaluation, static_argnames="size")
  np.testing.assert_allclose(
      evaluate(augment.to_float(canvas), size=12, extent=jnp.array(extent)),
      evaluate(augment.to_float(whole), size=12),
      atol=1e-5,
  )


def test_exif_orientation_is_honoured():
  upright = _pixels(16, 32)
  exif = Image.Exif()
  exif[0x0112] = 6  # Turn by 90 degrees clockwise to view.
  stored = Image.fromarray(np.rot90(upright))
  for suffix, tolerance in (("PNG", 0), ("JPEG", 8)):
    encoded = _encode(stored, suffix, exif=exif, quality=95)
    pixels, extent = decode(encoded)
    assert extent == (16, 32) and pixels.shape == (16, 32, 3)
    assert np.abs(pixels.astype(int) - upright).max() <= tolerance
    pixels, extent = decode(encoded, 8)
    expected, _ = decode(_encode(Image.fromarray(upright), "PNG"), 8)
    assert extent == (16, 32)
    assert np.abs(pixels.astype(int) - expected).max() <= tolerance + 1


def test_every_mode_becomes_rgb():
  color = np.zeros((4, 6, 3), np.uint8) + np.uint8([200, 100, 50])
  picture = Image.fromarray(color)
  for mode, suffix in [("P", "GIF"), ("RGB", "BMP"), ("RGB", "TIFF")]:
    pixels, _ = decode(_encode(picture.convert(mode), suffix))
    assert np.abs(pixels.astype(int) - color).max() <= 6, mode
  pixels, _ = decode(_encode(picture.convert("CMYK"), "JPEG", quality=95))
  assert np.abs(pixels.astype(int) - color).max() <= 6
  grey, _ = decode(_encode(picture.convert("L"), "PNG"))
  assert (grey == 124).all() and grey.shape == (4, 6, 3)
  bits, _ = decode(_encode(Image.new("1", (6, 4), 1), "PNG"))
  assert (bits == 255).all() and bits.shape == (4, 6, 3)


def test_transparency_is_laid_over_white():
  rgba = np.zeros((2, 2, 4), np.uint8)
  rgba[0, 0] = 255, 0, 0, 255
  rgba[0, 1] = 0, 0, 0, 128
  encoded = _encode(Image.fromarray(rgba), "PNG")
  pixels, _ = decode(encoded)
  assert pixels[0, 0].tolist() == [255, 0, 0]
  assert pixels[0, 1].tolist() == [127, 127, 127]
  assert pixels[1, 1].tolist() == [255, 255, 255]
  np.testing.assert_array_equal(decode(encoded, channels=4)[0], rgba)


def test_sixteen_bits_are_scaled():
  deep = np.array([[0, 257, 32768, 65535]], np.uint16)
  for suffix in ("PNG", "TIFF"):
    pixels, _ = decode(_encode(Image.fromarray(deep), suffix), channels=1)
    assert pixels[0, :, 0].tolist() == [0, 1, 128, 255]


def test_a_folder_of_turned_tiffs_has_one_size(tmp_path):
  """Forty good files of a scanner that was held upright."""
  exif = Image.Exif()
  for i in range(40):
    exif[0x0112] = 5 + i % 4
    _save(tmp_path / f"{i}.tif", _pixels(30, 40, i), exif=exif)
  images = load(f"folder:{tmp_path}", "all")
  assert images.image.shape == (40, 40, 30, 3) and images.skipped == ()
  images = load(f"folder:{tmp_path}", "all", canvas=16)
  assert set(map(tuple, images.extent)) == {(40, 30)}


def test_files_that_are_not_read_are_counted_by_their_ending(animals):
  for i in range(60):
    (animals / "cat" / f"{i}.HEIC").write_bytes(b"")
  (animals / "dog" / "notes").write_text("")
  (animals / "labels.csv").write_text("")
  (animals / ".DS_Store").write_bytes(b"")
  for i in range(2):
    (animals / "cat" / f"{i}.CR2").write_bytes(b"")
  for split in ("train", "test"):
    pictures, others = load(f"folder:{animals}", split).notes
    assert "60 ending in .heic, 2 ending in .cr2;" in pictures
    assert "convert them to JPEG or PNG" in pictures
    assert others.endswith("endings: 1 without ending, 1 ending in .csv")
    assert "are not pictures" in others and "convert" not in others
  folder = animals / "many"
  for i in range(20):
    _save(folder / "a.png", _pixels(4, 4))
    (folder / f"1.x{i}").write_text("")
  (note,) = load(f"folder:{folder}", "all").notes
  assert "1 ending in .x0," in note and "12 with other endings" in note


@pytest.mark.parametrize(
    "endings,converted",
    [
        (".heic .heif .dcm .svg .raw .cr2 .nef .dng .psd .jxl .eps", True),
        (".txt .csv .json .md .xml .mp4 .zip .py .npy .pdf", False),
    ],
)
def test_only_pictures_are_to_be_converted(tmp_path, endings, converted):
  _save(tmp_path / "a.png", _pixels(4, 4))
  for ending in endings.split():
    (tmp_path / f"b{ending}").write_bytes(b"")
    (note,) = load(f"folder:{tmp_path}", "all").notes
    assert f"1 ending in {ending}" in note
    assert ("convert" in note) == converted
    assert ("not pictures" in note) != converted
    (tmp_path / f"b{ending}").unlink()


def test_a_folder_of_other_files_alone_lists_them(tmp_path):
  for i in range(3):
    (tmp_path / f"{i}.heic").write_bytes(b"")
  with pytest.raises(ValueError, match="no pictures.*3 ending in .heic"):
    load(f"folder:{tmp_path}", "train")


def test_pictures_outside_of_the_splits_are_counted(tmp_path):
  for name in ("train/a/1", "train/2", "test/a/3", "4", "extra/5", "extra/b/6"):
    _save(tmp_path / f"{name}.png", _pixels(4, 4))
  images = load(f"folder:{tmp_path}", "train")
  assert len(images.image) == 1
  assert images.skipped == (
      "train/2.png: it is next to the class folders, so it has no label",
  )
  (note,) = images.notes
  assert note.startswith("3 pictures of ") and "train, test" in note


def test_pages_depth_and_channels_are_counted(animals):
  frames = [Image.fromarray(_pixels(6, 5, i)) for i in range(3)]
  for i in range(5):
    frames[0].save(
        animals / "cat" / f"pages{i}.tif", save_all=True, append_images=frames
    )
  for i, top in enumerate((1000, 4095, 60_000)):
    deep = np.full((6, 5), top, np.uint16)
    _save(animals / "dog" / f"deep{i}.png", deep)
  frames[0].convert("CMYK").save(animals / "dog" / "print.jpg")
  images = load(f"folder:{animals}", "all")
  assert len(images.image) == 24 + 9 and images.skipped == ()
  notes = sorted(images.notes)
  assert len(notes) == 3
  assert notes[0].startswith("1 of 33 pictures of ") and "CMYK" in notes[0]
  assert notes[1].startswith("2 of 33 pictures of ")
  assert "no value above 4,095" in notes[1] and "dog/deep0.png" in notes[1]
  assert notes[2].startswith("5 of 33 pictures of ")
  assert "several pages" in notes[2] and "cat/pages0.tif" in notes[2]


@pytest.fixture
def impatient(monkeypatch):
  """No time passes between the three tries."""
  monkeypatch.setattr("jssl.data.source._WAITS", (0.0, 0.0))


def _failing(function, number, failures, match):
  """Fails so many times for what matches."""
  tries = itertools.count()

  def call(path, *arguments, **options):
    if match in str(path) and next(tries) < failures:
      raise OSError(number, os.strerror(number), str(path))
    return function(path, *arguments, **options)

  return call


_TEMPORARY = ("EMFILE", "ENFILE", "EIO", "ESTALE", "ENOMEM", "ETIMEDOUT")


@pytest.mark.parametrize("name", _TEMPORARY)
def test_an_error_of_the_system_is_no_broken_picture(
    animals, monkeypatch, impatient, name
):
  number = getattr(errno, name)
  source = open_source(f"folder:{animals}", "all")
  whole = decode_all(source, measure(source))
  monkeypatch.setattr(os, "open", _failing(os.open, number, 2, "cat/03.png"))
  images = decode_all(source, measure(source))
  assert images.skipped == ()
  np.testing.assert_array_equal(images.image, whole.image)
  monkeypatch.undo()
  monkeypatch.setattr("jssl.data.source._WAITS", (0.0, 0.0))
  monkeypatch.setattr(os, "open", _failing(os.open, number, 9, "cat/03.png"))
  with pytest.raises(OSError, match="cat/03.png could not be read.*") as error:
    decode_all(source, measure(source))
  assert os.strerror(number) in str(error.value)
  assert ("ulimit" in str(error.value)) == (name in ("EMFILE", "ENFILE"))


@pytest.mark.parametrize("name", ["ENOENT", "EACCES", "ELOOP"])
def test_an_error_of_the_file_is_a_broken_picture(animals, monkeypatch, name):
  number = getattr(errno, name)
  monkeypatch.setattr(os, "open", _failing(os.open, number, 9, "cat/03.png"))
  (line,) = load(f"folder:{animals}", "all").skipped
  assert line.startswith("cat/03.png: ")


def test_a_folder_that_cannot_be_listed_is_not_left_out(
    animals, monkeypatch, impatient
):
  whole = _names(animals, "all")
  failing = lambda number, times: monkeypatch.setattr(
      os, "scandir", _failing(scandir, number, times, "cat")
  )
  scandir = os.scandir
  failing(errno.EMFILE, 2)
  assert _names(animals, "all") == whole
  failing(errno.EMFILE, 9)
  with pytest.raises(OSError, match="could not be listed.*Too many open"):
    open_source(f"folder:{animals}", "all")
  failing(errno.EACCES, 9)
  images = load(f"folder:{animals}", "all")
  assert images.classes == ("dog",)
  (line,) = images.skipped
  assert line.startswith("cat: the folder cannot be listed (Permission")


def test_a_source_knows_files_by_names_sizes_and_times(tmp_path):
  for i in range(3):
    _save(tmp_path / f"{i}.bmp", _pixels(6, 5))
  known = lambda: open_source(f"folder:{tmp_path}", "all").fingerprint()
  before = known()
  assert known() == before
  about = os.stat(tmp_path / "1.bmp")
  os.utime(tmp_path / "1.bmp", ns=(0, about.st_mtime_ns + 1))
  assert known() != before
