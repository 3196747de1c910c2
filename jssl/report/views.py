"""What a method makes of an image: its views, and its reconstruction."""

from collections.abc import Callable
import dataclasses
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from jssl import data
from jssl.data import Images
from jssl.encoder import Encoder
from jssl.method import Method
from jssl.report import thumbnails
from jssl.report.run import spaced
from jssl.report.thumbnails import Thumbnail

_IMAGES = 6
_RECONSTRUCTED = 10
_AT_LEAST = 4  # Views of an image; drawn repeatedly if a method makes fewer.
_AT_MOST = 12
_CHANNELS = (1, 3, 4)


@dataclasses.dataclass(frozen=True)
class Views:
  """An image and its views.

  Attributes:
    original: The image as it is stored.
    groups: Views by their name in the method.
  """

  original: Thumbnail
  groups: dict[str, list[Thumbnail]]


class Reconstruction(NamedTuple):
  """The input, output and original of an image, see `jssl.method.Pictures`."""

  input: Thumbnail
  output: Thumbnail
  original: Thumbnail


def make_views(method: Method, images: Images) -> list[Views]:
  """Draws views of six images.

  The method gets every image alone, at its own position in the batch: so all
  its views are of this image, in whichever dimension they are stacked.

  Args:
    method: The method.
    images: Training images.

  Returns:
    One for each image; [] if the views contain no images.
  """
  make = jax.jit(method.views)
  rows = []
  for position, i in enumerate(spaced(len(images.image), _IMAGES)):
    batch = images.batch(np.array([i]))
    batch["position"] = np.array([position], np.int32)
    draw = lambda seed: _images_in(
        jax.device_get(make(jax.random.key(seed), batch)), method
    )
    groups = draw(0)
    found = sum(map(len, groups.values()))
    if not found:
      return []
    for seed in range(1, math.ceil(_AT_LEAST / found)):
      for name, drawn in draw(seed).items():
        groups[name] += drawn
    shown = {
        name: [
            thumbnails.make(x, f"{name}, {number}")
            for number, x in enumerate(drawn[:_AT_MOST], start=1)
        ]
        for name, drawn in groups.items()
    }
    original = thumbnails.shrink_one(images, i)
    rows.append(Views(Thumbnail(original, f"training image {i}"), shown))
  return rows


def reconstruct(encoder: Encoder, images: Images) -> list[Reconstruction]:
  """Reconstructs ten images by a generative method.

  Args:
    encoder: The encoder.
    images: Held-out images.

  Returns:
    One for each image; [] if the method makes none.
  """
  if encoder.method.pictures is None:
    return []
  return make_reconstruct(encoder.method, images)(*encoder.params)


def make_reconstruct(
    method: Method, images: Images
) -> Callable[[Any, Any], list[Reconstruction]]:
  """Makes the function from parameters to reconstructions of ten images.

  Args:
    method: A method that makes images.
    images: Held-out images.

  Returns:
    `(params, carried) -> reconstructions`, of the same images with the same
    parts hidden at every call.
  """
  index = data.evenly(len(images.image), _RECONSTRUCTED)
  batch = {**images.batch(index), "position": np.arange(len(index))}

  @jax.jit
  def make(params, carried, batch):
    views = method.views(jax.random.key(0), batch)
    return method.pictures(params, carried, views)

  def reconstruct(params, carried):
    made = jax.device_get(make(params, carried, batch))
    return [
        Reconstruction(*(
            thumbnails.make(x, f"test image {i}: {name}", caption=name)
            for name, x in zip(Reconstruction._fields, row)
        ))
        for i, *row in zip(index, *made, strict=True)
    ]

  return reconstruct


def _images_in(views: Any, method: Method) -> dict[str, list[np.ndarray]]:
  """Returns all images `[H, W, C]` in the views of one image, by name."""
  if method.draw is not None:
    drawn = method.draw(views)
    return {name: list(np.asarray(x)) for name, x in drawn.items()}
  found: dict[str, list[np.ndarray]] = {}
  for path, leaf in jax.tree.leaves_with_path(views):
    if _is_image(leaf):
      # The innermost name on the path to the leaf; numbers are views.
      names = [key.name for key in path if hasattr(key, "name")] or ["views"]
      drawn = _in_range(leaf.reshape(-1, *leaf.shape[-3:]))
      found.setdefault(names[-1].replace("_", " "), []).extend(drawn)
  return found


def _is_image(leaf):
  return (
      leaf.ndim in (4, 5)
      and leaf.shape[-1] in _CHANNELS
      and min(leaf.shape[-3:-1]) > 1
      and np.issubdtype(leaf.dtype, np.floating)
  )


def _in_range(x):
  """Clips to [0, 1], or rescales images of a very different range."""
  if np.mean((x < 0) | (x > 1)) > 0.2:
    low, high = np.percentile(x, (1, 99))
    x = (x - low) / max(high - low, 1e-6)
  return np.clip(x, 0.0, 1.0)
