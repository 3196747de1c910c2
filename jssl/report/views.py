"""What a method sees of a picture: its views, whatever tree they are."""

from collections.abc import Callable, Iterator
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from jssl import data
from jssl.evals.features import evenly
from jssl.method import Method
from jssl.report import material as materials
from jssl.report import thumbnails
from jssl.report.material import Material
from jssl.report.thumbnails import Thumbnail

_PICTURES = 6
_RECONSTRUCTED = 10
_AT_LEAST = 4  # Views of a picture; a method that makes fewer draws again.
_AT_MOST = 12
_CHANNELS = (1, 3, 4)


class Group(NamedTuple):
  """Views of one kind.

  Attributes:
    name: What they are, as the method calls them.
    pictures: The views.
  """

  name: str
  pictures: list[Thumbnail]


class Row(NamedTuple):
  """A picture and what is made of it.

  Attributes:
    picture: The picture as it is stored.
    groups: Its views.
  """

  picture: Thumbnail
  groups: list[Group]


class Reconstruction(NamedTuple):
  """What a generative method makes of an image, see `jssl.method.Pictures`."""

  input: Thumbnail
  output: Thumbnail
  original: Thumbnail


def make_views(material: Material) -> list[Row]:
  """Draws views of six training pictures.

  Every picture is given to the method alone, at a place of its own in the
  batch: so whatever its views hold is of this picture, in whichever dimension
  they are stacked.

  Args:
    material: A run with images.

  Returns:
    A row for each picture; [] if the views hold no pictures.
  """
  images = materials.images_of(material, train=True)
  make = jax.jit(material.method.views)
  rows = []
  for place, index in enumerate(_spread(len(images.image), _PICTURES)):
    batch = {
        **_batch(images, np.array([index])),
        "position": np.array([place], np.int32),
    }
    see = lambda seed: _pictures_of(
        jax.device_get(make(jax.random.key(seed), batch)), material.method
    )
    groups = see(0)
    found = sum(len(pictures) for pictures in groups.values())
    if not found:
      return []
    for seed in range(1, math.ceil(_AT_LEAST / found)):
      for name, pictures in see(seed).items():
        groups[name] += pictures
    rows.append(Row(_original(images, index, "train"), _shown(groups)))
  return rows


def reconstruct(material: Material) -> list[Reconstruction]:
  """Reconstructs held-out images by a generative method.

  Args:
    material: A run with images.

  Returns:
    A `Reconstruction` of each of ten images; [] if the method makes none.
  """
  if material.method.pictures is None:
    return []
  images = materials.images_of(material, train=False)
  return make_reconstruct(material.method, images)(*material.params)


def make_reconstruct(
    method: Method, images: data.Images
) -> Callable[[Any, Any], list[Reconstruction]]:
  """Makes the function from parameters to reconstructions of ten images.

  Args:
    method: A method that makes images.
    images: Held-out images.

  Returns:
    `(params, carried) -> reconstructions`, of the same images with the same
    parts hidden at every call.
  """
  index = evenly(len(images.image), _RECONSTRUCTED)
  batch = {**_batch(images, index), "position": np.arange(len(index))}

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


def _batch(images: data.Images, index: np.ndarray) -> dict[str, Any]:
  arrays = {
      "image": images.image,
      "label": images.label,
      "extent": images.extent,
  }
  return {k: x[index] for k, x in arrays.items() if x is not None}


def _spread(length, count):
  """Indices of some pictures: apart, since folders are sorted by class."""
  count = min(count, length)
  return [int((i + 0.5) * length / count) for i in range(count)]


def _original(images, index, split):
  extent = None if images.extent is None else images.extent[index]
  return thumbnails.make(
      images.image[index], f"{split} picture {index}", extent=extent
  )


def _pictures_of(views: Any, method: Method) -> dict[str, list[np.ndarray]]:
  """Returns all pictures `[H, W, C]` in the views of one image, by name."""
  if method.draw is not None:
    drawn = method.draw(views)
    return {name: list(np.asarray(x)) for name, x in drawn.items()}
  found: dict[str, list[np.ndarray]] = {}
  for path, leaf in jax.tree.leaves_with_path(views):
    for name, pictures in _plain(path, leaf):
      found.setdefault(name, []).extend(pictures)
  return found


def _plain(path, leaf) -> Iterator[tuple[str, list[np.ndarray]]]:
  """A leaf: pictures if it looks like some."""
  shape = leaf.shape
  if (
      len(shape) in (4, 5)
      and shape[-1] in _CHANNELS
      and min(shape[-3:-1]) > 1
      and np.issubdtype(leaf.dtype, np.floating)
  ):
    yield _name(path), list(_in_range(leaf.reshape(-1, *shape[-3:])))


def _name(path):
  """The innermost name on the way to a leaf; numbers are views."""
  names = [key.name for key in path if hasattr(key, "name")]
  return names[-1].replace("_", " ") if names else "views"


def _in_range(x):
  """Clips to [0, 1]; stretches what has quite another range."""
  outside = np.mean((x < 0) | (x > 1))
  if outside > 0.2:
    low, high = np.percentile(x, (1, 99))
    x = (x - low) / max(high - low, 1e-6)
  return np.clip(x, 0.0, 1.0)


def _shown(groups):
  return [
      Group(
          name,
          [
              thumbnails.make(x, f"{name}, {i}")
              for i, x in enumerate(pictures[:_AT_MOST], start=1)
          ],
      )
      for name, pictures in groups.items()
  ]
