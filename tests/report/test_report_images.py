"""Views, thumbnails, map, neighbours, feature maps and figures."""

import base64
import dataclasses
import io
import itertools

import jax
import jax.numpy as jnp
import matplotlib.colors
import numpy as np
from PIL import Image
import pytest

from jssl import config as configs, data, nets, report
from jssl.encoder import Encoder
from jssl.method import Method, Pictures
from jssl.methods import METHODS
from jssl.report import (
    embedding_map,
    feature_maps,
    figures,
    neighbours,
    thumbnails,
    views,
)
import tiny


def _decode(uri):
  head, _, text = uri.partition(",")
  assert head in ("data:image/png;base64", "data:image/jpeg;base64")
  image = Image.open(io.BytesIO(base64.b64decode(text)))
  image.load()
  return image


def _images(count, *, channels=3, classes=("cat", "dog"), extent=None):
  label = np.arange(count, dtype=np.int32) % max(len(classes), 1)
  return data.Images(
      image=np.asarray(tiny.images(count))[..., :channels],
      label=label if classes else None,
      extent=extent,
      classes=classes,
      skipped=(),
  )


def _run(method, images):
  config = configs.base("folder:x")
  config.update(batch_size=8, image_size=8, method={"name": "m"})
  encoder = Encoder(config, method, 0, ((), ()), None)
  return report.Run(
      "runs/x", config, 0, [], None, encoder, train=images, test=images
  )


def _views_only(make):
  return Method(make, None, None, None, None)


def _groups(rows):
  return [[(k, len(x)) for k, x in row.groups.items()] for row in rows]


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("moco_v2", {"queue_size": 8}, [("views", 4)]),
        ("simclr", {}, [("inputs", 4)]),
        (
            "swav",
            {"local_augment": tiny.small_recipe, "local_views": 3},
            [("global crops", 2), ("local crops", 3)],
        ),
        ("rotation", {}, [("inputs", 4)]),
        ("denoising", {}, [("inputs", 2), ("target", 2)]),
        ("inpainting", {}, [("inputs", 2), ("images", 2)]),
        (
            "jigsaw",
            {"augment": tiny.large_recipe, "tile_size": 8},
            [("tiles in place", 2), ("puzzles", 4)],
        ),
        (
            "relative_position",
            {"augment": tiny.large_recipe, "tile_size": 8},
            [("tiles in place", 2), ("puzzles", 4)],
        ),
        ("supcon", {}, [("inputs", 4)]),
    ],
)
def test_views_of_every_kind_of_tree_are_found(name, arguments, expected):
  arguments = {"augment": tiny.recipe, **arguments}
  method = METHODS[name](tiny.Net(), **arguments)
  rows = views.make_views(method, _images(9))
  assert _groups(rows) == [expected] * 6
  for row in rows:
    for picture in (row.original, *itertools.chain(*row.groups.values())):
      _decode(picture.uri)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("mae", {}, [("images", 4)]),
        ("simmim", {}, [("images", 4)]),
        ("ijepa", {"min_keep": 1}, [("context", 1), ("targets", 4)]),
    ],
)
def test_views_of_patches_are_found(name, arguments, expected):
  net = nets.ViT(
      16, depth=1, heads=1, patch_size=2, image_size=8, pooling="mean"
  )
  method = METHODS[name](net, augment=tiny.recipe, **arguments)
  assert _groups(views.make_views(method, _images(2))) == [expected] * 2


def test_views_without_images_are_skipped():
  make = lambda key, batch: {
      "mask": batch["image"][..., 0] > 9,
      "numbers": jnp.ones((1, 16)),
      "colors": jnp.ones((1, 4, 4, 2)),
  }
  assert views.make_views(_views_only(make), _images(3)) == []


def test_thumbnails_have_true_proportions():
  make = lambda key, batch: (batch["image"].astype(jnp.float32) / 255,)
  extent = np.array([[8, 4], [8, 8]], np.int32)
  images = _images(2, extent=extent)
  rows = views.make_views(_views_only(make), images)
  assert _decode(rows[0].original.uri).size == (4, 8)
  for row, pixels in zip(rows, images.image, strict=True):
    shown = np.asarray(_decode(row.groups["views"][0].uri))
    np.testing.assert_array_equal(shown, pixels)


def test_an_image_is_shown_without_the_rest_of_its_canvas():
  make = lambda key, batch: (batch["image"].astype(jnp.float32) / 255,)
  images = _images(2, extent=np.array([[5, 3], [4, 20]], np.int32))
  rows = views.make_views(_views_only(make), images)
  shown = np.asarray(_decode(rows[0].original.uri))
  np.testing.assert_array_equal(shown, images.image[0][:5, :3])
  # Shrunk to the 8 pixels of the canvas along its width alone.
  assert _decode(rows[1].original.uri).size == (8, 2)


def test_each_image_has_its_own_position_in_the_batch():
  def make(key, batch):
    noise = jax.random.uniform(
        jax.random.fold_in(key, batch["position"][0]), (8, 8, 3)
    )
    return (noise[None],)

  rows = views.make_views(_views_only(make), _images(6))
  drawn = [p.uri for row in rows for g in row.groups.values() for p in g]
  assert len(drawn) == len(set(drawn)) == 24


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ([-0.1, 0.5, 0.5, 0.5, 1.0, 1.0], [0.0, 0.5, 1.0]),  # Clipped.
        ([-2.0, -1.0, 0.0, 0.0, 1.0, 2.0], [0, 0.25, 0.5, 0.75, 1]),
    ],
)
def test_values_out_of_range_are_clipped_or_rescaled(x, expected):
  many = np.repeat(np.array(x), 24).reshape(1, 12, 12, 1)
  shown = np.unique(views._in_range(many))
  np.testing.assert_allclose(shown, expected, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("side", [8, 200])
def test_a_thumbnail_shows_its_pixels(channels, side):
  pixels = np.zeros((side, side // 2, channels), np.uint8)
  pixels[: side // 2] = 255
  pixels[..., 3:] = 255
  image = _decode(thumbnails.make(pixels, "half white", size=100).uri)
  assert image.size == ((4, 8) if side == 8 else (50, 100))
  assert len(image.getbands()) == channels
  shown = np.asarray(image.convert("L"), int)
  assert shown[0].min() > 240 and shown[-1].max() < 15


def test_floats_out_of_range_and_not_finite_become_pixels():
  pixels = np.array([[[-1.0], [0.5]], [[2.0], [np.nan]]], np.float32)
  shown = thumbnails.shrink(pixels, size=2)[..., 0]
  np.testing.assert_array_equal(shown, [[0, 128], [255, 0]])


def test_a_sprite_has_every_image_in_its_cell():
  colors = [10, 90, 200]
  images = [np.full((4, 2, 1), color, np.uint8) for color in colors]
  tiled = thumbnails.tile(images, cell=4, columns=2)
  sheet = np.asarray(_decode(thumbnails.data_uri(tiled, lossless=True)))
  assert sheet.shape == (8, 8)
  assert [sheet[2, 2], sheet[2, 6], sheet[6, 2]] == colors
  assert sheet[0, 0] == 0  # Next to an image narrower than its cell.


def _split(features, images=None):
  features = np.asarray(features, np.float32)
  images = images or _images(len(features))
  count = len(features)
  return report.Split(images, np.arange(count), features, count)


@pytest.mark.parametrize(
    ("count", "method"),
    [(3, "principal components"), (11, "principal components"), (12, "t-SNE")],
)
def test_a_map_of_few_images_is_drawn(count, method):
  features = np.random.default_rng(0).normal(size=(count, 5))
  drawn = embedding_map.make_map(_split(features))
  assert drawn.method == method
  points = [point for group in drawn.classes for point in group.points]
  assert sorted(point[0] for point in points) == list(range(count))
  xy = np.array(points)[:, 1:]
  assert 0 < xy.min() and xy.max() < embedding_map.SIDE
  assert np.ptp(xy, axis=0).max() == pytest.approx(
      embedding_map.SIDE - 60, abs=1
  )


def test_different_classes_are_separate_on_the_map():
  random = np.random.default_rng(0)
  features = np.repeat(np.eye(4)[:2], 20, axis=0)
  features = features + 0.1 * random.normal(size=features.shape)
  images = dataclasses.replace(_images(40), label=np.repeat([0, 1], 20))
  drawn = embedding_map.make_map(_split(features, images))
  assert [group.name for group in drawn.classes] == ["cat", "dog"]
  assert len({group.color for group in drawn.classes}) == 2
  a, b = (np.array(group.points)[:, 1:] for group in drawn.classes)
  between = np.linalg.norm(a.mean(axis=0) - b.mean(axis=0))
  assert between > max(a.std(axis=0).max(), b.std(axis=0).max()) * 2
  for number, (x, y, label, index) in enumerate(drawn.data["points"]):
    group = drawn.classes[label]
    assert (number, x, y) in group.points and index == number


@pytest.mark.parametrize(
    "features", [np.ones((20, 4)), np.full((20, 4), np.nan), np.eye(2)]
)
def test_no_map_is_drawn_of_features_without_variance(features):
  assert embedding_map.make_map(_split(features)) is None


def test_unlabelled_and_unknown_points_are_on_the_map():
  features = np.random.default_rng(0).normal(size=(6, 5))
  (group,) = embedding_map.make_map(
      _split(features, _images(6, classes=()))
  ).classes
  assert group.name == "" and len(group.points) == 6
  images = dataclasses.replace(_images(6), label=np.array([0, 0, 1, 1, -1, -1]))
  names = [
      c.name for c in embedding_map.make_map(_split(features, images)).classes
  ]
  assert names == ["cat", "dog", "unknown class"]


def test_a_hundred_classes_have_different_colors():
  colors = [embedding_map._color(i, 100) for i in range(100)]
  assert len(set(colors)) == 100
  assert all(matplotlib.colors.is_color_like(color) for color in colors)


def test_nearest_neighbours_are_in_order_and_wrong_ones_marked():
  train = _split(
      [[1, 0], [0.9, 0.1], [0, 1], [-1, 0], [5, 1]],
      dataclasses.replace(_images(5), label=np.array([0, 1, 1, 0, -1])),
  )
  test = _split([[1, 0]], dataclasses.replace(_images(1), label=np.array([0])))
  ((_, *nearest),) = neighbours.find_nearest(train, test)
  captions = [p.caption for p in nearest]
  assert captions == ["cat", "dog", "0.98", "dog", "cat"]
  assert [p.wrong for p in nearest] == [False, True, False, True, False]
  assert "cosine 1.00" in nearest[0].alt
  assert "another class" in nearest[1].alt
  expected = np.asarray(_decode(nearest[3].uri))
  np.testing.assert_array_equal(expected, train.images.image[2])


def test_fewer_images_than_neighbours_are_enough():
  train, test = _split(np.eye(2)), _split(np.eye(2)[:1])
  ((_, *nearest),) = neighbours.find_nearest(train, test)
  assert len(nearest) == 2


def test_queries_are_spread_over_a_sorted_set():
  test = _split(np.eye(60), _images(60))
  rows = neighbours.find_nearest(_split(np.eye(60), _images(60)), test)
  numbers = [int(row[0].alt.split()[2].strip(",")) for row in rows]
  assert numbers == [2, 7, 12, 17, 22, 27, 32, 37, 42, 47, 52, 57]


def test_confusion_counts_true_and_predicted_classes():
  train = _split(
      np.eye(3),
      dataclasses.replace(
          _images(3, classes=("a", "b", "c")), label=np.array([0, 1, 2])
      ),
  )
  test = _split(
      np.eye(3)[[0, 0, 1, 2, 2]],
      dataclasses.replace(
          _images(5, classes=("a", "b", "c")), label=np.array([0, 1, 1, 0, -1])
      ),
  )
  found = neighbours.confuse(train, test, k=50, temperature=0.01)
  assert found.matrix == [[1, 0, 1], [1, 1, 0], [0, 0, 0]]
  assert found.accuracy == 0.5 and found.largest == 0.5
  assert (found.k, found.images, found.bank) == (3, 4, 3)
  assert found.pairs == [("a", "c", 1), ("b", "a", 1)]
  assert neighbours.confuse(train, test, k=0, temperature=0.01).k == 1


def test_many_classes_have_a_list_of_mistakes_instead_of_a_matrix():
  names = tuple(f"class {i}" for i in range(30))
  images = _images(30, classes=names)
  test = _split(np.roll(np.eye(30), 1, axis=0), images)
  found = neighbours.confuse(
      _split(np.eye(30), images), test, k=1, temperature=0.1
  )
  assert found.matrix is None and len(found.pairs) == 20
  assert found.pairs[1] == ("class 1", "class 0", 1)


@pytest.mark.parametrize("classes", [(), ("only",)])
def test_there_is_no_confusion_without_classes(classes):
  encoded = _split(np.eye(4), _images(4, classes=classes))
  assert neighbours.confuse(encoded, encoded, k=1, temperature=0.1) is None


def test_colors_of_features_follow_the_features():
  features = np.zeros((2, 4, 4, 8), np.float32)
  features[0, :2], features[0, 2:], features[1] = 1.0, -1.0, -1.0
  colors, share = feature_maps.to_colors(features)
  assert colors.shape == (2, 4, 4, 3) and share == pytest.approx(1.0)
  same = np.abs(colors[0, 2:].reshape(-1, 3) - colors[1, 0, 0]).max()
  assert same < 1e-5  # Equal features have the same color in every image.
  assert np.abs(colors[0, 0, 0] - colors[0, 3, 3]).max() > 0.9


def test_every_color_channel_has_its_whole_range():
  x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)) * (100.0, 10.0, 1.0)
  colors, share = feature_maps.to_colors(x)
  np.testing.assert_allclose(colors.min(axis=(0, 1, 2)), 0.0, atol=1e-6)
  np.testing.assert_allclose(colors.max(axis=(0, 1, 2)), 1.0, atol=1e-6)
  assert share == pytest.approx(1.0)


@pytest.mark.parametrize("value", [1.0, np.nan])
def test_features_without_variance_have_no_colors(value):
  assert feature_maps.to_colors(np.full((2, 4, 4, 3), value)) is None


def test_the_last_stage_with_a_large_enough_map_is_shown():
  shapes = {"stage_1": 16, "stage_2": 8, "stage_10": 4, "stage_11": 2}
  stages = {k: np.ones((1, n, n, 3)) for k, n in shapes.items()}
  stages["pooled"] = np.ones((1, 3))
  assert feature_maps._last_map(stages) == "stage_10"
  assert feature_maps._last_map({"stage_1": np.ones((1, 2, 2, 3))}) is None


def test_evenly_spaced_indices_include_both_ends():
  assert data.evenly(3, 5).tolist() == [0, 1, 2]
  assert data.evenly(101, 3).tolist() == [0, 50, 100]
  assert data.evenly(1, 5).tolist() == [0]


def _colored(path, color):
  """Share of the pixels of a file that have about this color."""
  with Image.open(path) as image:
    pixels = np.asarray(image.convert("RGB"), int)
  return np.mean(np.abs(pixels - color).max(axis=-1) < 8)


def _flat(colors):
  """An image of each color."""
  colors = np.asarray(colors, np.uint8)[:, None, None]
  return dataclasses.replace(
      _images(len(colors)), image=np.tile(colors, (1, 8, 8, 1))
  )


_RED_FRAME, _GREEN, _BLUE = (214, 39, 40), (0, 255, 0), (0, 0, 255)


@pytest.mark.parametrize("label", [0, 1])
def test_a_figure_of_neighbours_shows_them_and_frames_wrong_ones(
    tmp_path, label
):
  path = tmp_path / "neighbours.png"
  same = np.array([0])
  train = _split(np.eye(2)[:1], dataclasses.replace(_flat([_BLUE]), label=same))
  test = _split(
      np.eye(2)[:1],
      dataclasses.replace(_flat([_GREEN]), label=np.array([label])),
  )
  figures.neighbours(train, test, path)
  assert _colored(path, _GREEN) > 0.1 and _colored(path, _BLUE) > 0.1
  assert (_colored(path, _RED_FRAME) > 0) == (label == 1)


def test_neighbours_of_no_images_are_refused(tmp_path):
  none = _split(np.zeros((0, 2), np.float32), _flat([]))
  with pytest.raises(ValueError, match="no held-out images"):
    figures.neighbours(none, none, tmp_path / "neighbours.png")


def test_a_figure_of_a_map_shows_every_image(tmp_path):
  path = tmp_path / "map.png"
  colors = [(255, 0, 0), _GREEN, _BLUE, (255, 0, 255), (255, 255, 0)]
  figures.embedding_map(_split(np.eye(5), _flat(colors)), path)
  for color in colors:
    assert _colored(path, color) > 0.01, color


def test_a_figure_of_a_map_has_the_proportions_of_the_map(
    tmp_path, monkeypatch
):
  place = lambda x: (np.array([[0, 0], [1, 4], [0, 9]]), "t-SNE")
  monkeypatch.setattr(embedding_map, "project", place)
  colors = [_GREEN, _BLUE, _GREEN]
  figures.embedding_map(_split(np.eye(3), _flat(colors)), tmp_path / "map.png")
  with Image.open(tmp_path / "map.png") as image:
    assert image.height > 1.3 * image.width
    edge = np.asarray(image.convert("RGB"))[-2]
  assert not np.all(edge == _GREEN, axis=-1).any()  # No image is cut off.


def test_no_figure_of_a_map_is_drawn_of_collapsed_features(tmp_path):
  with pytest.raises(ValueError, match="3 embeddings are equal"):
    figures.embedding_map(_split(np.ones((3, 2))), tmp_path / "map.png")


def test_a_figure_of_views_has_a_row_for_each_image(tmp_path):
  views_of = lambda key, batch: [batch["image"].astype(jnp.float32) / 255] * 2
  run = _run(_views_only(views_of), _flat([_GREEN, _BLUE] * 4))
  areas = []
  for rows in (2, 4):
    figures.views(run, tmp_path / "views.png", rows=rows)
    with Image.open(tmp_path / "views.png") as image:
      areas.append(image.height)
    assert _colored(tmp_path / "views.png", _GREEN) > 0.1
  assert areas[1] > 1.5 * areas[0]
  run = _run(_views_only(lambda key, batch: ()), _flat([_GREEN] * 8))
  with pytest.raises(ValueError, match="views of m contain no images"):
    figures.views(run, tmp_path / "views.png")


def test_a_figure_of_reconstructions_needs_a_generative_method(tmp_path):
  run = _run(_views_only(None), _flat([_GREEN] * 8))
  with pytest.raises(ValueError, match="m reconstructs no images"):
    figures.reconstructions(run, tmp_path / "made.png")
  make = lambda params, carried, views: Pictures(views, 0 * views, views)
  method = _views_only(lambda key, batch: batch["image"] / 255)._replace(
      pictures=make
  )
  run = _run(method, run.test)
  figures.reconstructions(run, tmp_path / "made.png")
  green = _colored(tmp_path / "made.png", _GREEN)
  assert green == pytest.approx(2 * _colored(tmp_path / "made.png", 0), rel=0.2)


def test_gray_levels_of_a_figure_are_exact(tmp_path):
  images = _images(3, channels=1)
  images = dataclasses.replace(images, image=np.full_like(images.image, 100))
  features = np.eye(3)
  figures.embedding_map(_split(features, images), tmp_path / "map.png")
  assert _colored(tmp_path / "map.png", 100) > 0.05
  test = _split(features, images)
  figures.neighbours(test, test, tmp_path / "neighbours.png")
  assert _colored(tmp_path / "neighbours.png", 100) > 0.3
