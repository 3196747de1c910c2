"""Loads encoders from files, and saves them."""

from collections.abc import Mapping
import dataclasses
import os
import re
import types
from typing import Any, NamedTuple

from flax import traverse_util
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from jssl import files, nets
from jssl.config import build, ConfigDict, lookup
from jssl.weights import _files, _resnet, _vit, own
from jssl.weights.layouts import LAYOUTS

PyTree = Any

_FAMILIES: dict[str, types.ModuleType] = {"resnet": _resnet, "vit": _vit}
_MOST_NAMES = 5  # That a message lists of each kind.


class Weights(NamedTuple):
  """An encoder from a file.

  Attributes:
    layout: A key of `LAYOUTS`.
    section: Entries of `config.net` that describe its net.
    image_size: Side of the images that its positions are for; for a ResNet 224
      with the stem for ImageNet, else 32.
    variables: Its "params" and, if it has them, "batch_stats", float32.
  """

  layout: str
  section: dict[str, Any]
  image_size: int
  variables: PyTree


def load(
    path: str | os.PathLike, *, layout: str | None = None
) -> tuple[nn.Module, PyTree]:
  """Loads an encoder from a file of weights.

  Args:
    path: A `.safetensors` file, or a PyTorch checkpoint (`.pth`, `.pt`, `.tar`,
      `.ckpt`, `.bin`), for which PyTorch has to be installed. Nothing but
      arrays is loaded from it.
    layout: A key of `LAYOUTS`; None to recognise it.

  Returns:
    `(net, variables)`: `net.apply(variables, images)` gives a dict of the
    "pooled" features `[B, D]` and those of every stage, of images
    `[B, H, W, C]` in [0, 1]; the net normalises them as its source does. With
    `train=True` and `mutable=["batch_stats"]` it can be trained further.

  Raises:
    FileNotFoundError: If there is no such file.
    ImportError: If PyTorch is needed and not installed.
    ValueError: If the file is damaged, has no layout that is known, or its
      arrays do not fit the net.
  """
  weights = read(path, layout=layout)
  net = make_net(weights.section, weights.image_size)
  return net, weights.variables


def read(path: str | os.PathLike, *, layout: str | None = None) -> Weights:
  """Reads an encoder and the config of its net; see `load`."""
  if layout is not None:
    lookup("The layout", layout, LAYOUTS)
  arrays, metadata = _files.read_arrays(path)
  if metadata.get("format") == own.FORMAT:
    config, variables = own.decode(path, arrays, metadata)
    return Weights("jssl", config["net"], config["image_size"], variables)
  family, name, prefix = _recognise(path, arrays, layout)
  kind = LAYOUTS[name]
  inner = family.rename({
      key.removeprefix(prefix): value
      for key, value in arrays.items()
      if key.startswith(prefix)
  })
  ignored = re.compile(f"{family.IGNORED}|{kind.ignored}")
  inner = {k: v for k, v in inner.items() if not ignored.fullmatch(k)}
  missing = [x for x in family.REQUIRED if x not in inner]
  misshapen = [
      f"{x} {inner[x].shape}"
      for x, dimensions in family.REQUIRED.items()
      if x in inner and inner[x].ndim != dimensions
  ]
  _check(path, name, {"missing": missing, "of another shape": misshapen})
  try:
    section = family.section(inner, kind.heads) | dict(kind.net)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
  size = family.image_shape(inner)[0]
  net = make_net(section, size)
  return Weights(name, section, size, _fill(path, name, net, family, inner))


def make_net(section: Mapping[str, Any], image_size: int) -> nn.Module:
  """Makes the net of a section of `config.net`, in float32."""
  return build.net(
      ConfigDict({
          "net": {"micro_batches": 1, **section},
          "image_size": image_size,
          "precision": "float32",
      })
  )


def save(
    path: str | os.PathLike, net: nn.Module, variables: PyTree, *, layout: str
) -> None:
  """Saves an encoder to a `.safetensors` file, atomically.

  Args:
    path: The file to write.
    net: A `ResNet` or `ViT` of `jssl.nets`.
    variables: Its "params" and, if it has them, "batch_stats".
    layout: "torchvision" (ResNets), "timm" (both) or "jssl".

  Raises:
    ValueError: If the layout has no names for the net.
  """
  if isinstance(net, nets.MicroBatched):
    net = net.net
  if layout == "jssl":
    size = getattr(net, "image_size", 224)
    config = {"net": _section_of(net), "image_size": size}
    own.write(path, variables, config | {"precision": "float32"})
    return
  if layout not in ("torchvision", "timm"):
    raise ValueError(
        f"The layout is {layout!r}; expected 'jssl', 'torchvision' or 'timm'."
    )
  architecture = {nets.ResNet: "resnet", nets.ViT: "vit"}.get(type(net))
  if not architecture or (architecture == "vit" and layout == "torchvision"):
    raise ValueError(
        f"{layout} has no names for a {type(net).__name__}; expected a ResNet,"
        " or a ViT with layout='timm'."
    )
  family = _FAMILIES[architecture]
  flat = traverse_util.flatten_dict(jax.device_get(variables), sep="/")
  arrays = {
      row.theirs: row.write(*(flat[x] for x in row.ours))
      for row in family.rows(net)
  }
  arrays = {
      k: np.ascontiguousarray(x) for k, x in family.finish(arrays).items()
  }
  with files.atomic(path) as temporary:
    safetensors.numpy.save_file(arrays, temporary)


def _section_of(net):
  """Returns the section of `config.net` that makes a net."""
  fields = {
      field.name: getattr(net, field.name)
      for field in dataclasses.fields(net)
      if field.name not in ("parent", "name", "dtype", "axis_name")
  }
  fields.pop("image_size", None)
  for name, make in nets.NETS.items():
    bound = list(fields)[: len(make.args)]
    values = tuple(fields[x] for x in bound)
    if make.func is type(net) and values == make.args:
      rest = {key: value for key, value in fields.items() if key not in bound}
      return {"name": name, **rest}
  raise ValueError(
      f"The layout 'jssl' needs a net that has a name: {', '.join(nets.NETS)}."
  )


def _recognise(path, arrays, layout):
  """Returns the family, the layout's name and the prefix of the encoder."""
  found = [
      (architecture, name.removesuffix(anchor))
      for architecture, family in _FAMILIES.items()
      for anchor in family.ANCHORS
      for name in arrays
      if name == anchor or name.endswith(f".{anchor}")
  ]
  for name, kind in LAYOUTS.items():
    if layout not in (None, name):
      continue
    marker = re.compile(kind.marker)
    marked = layout == name or any(marker.match(x) for x in arrays)
    for architecture, prefix in found:
      fits = kind.architecture in ("", architecture)
      if marked and fits and re.fullmatch(kind.prefix, prefix):
        return _FAMILIES[architecture], name, prefix
  what = f"the layout {layout}" if layout else "any layout that jssl knows"
  some = _some(sorted(arrays))
  raise ValueError(
      f"{path} does not have {what} ({', '.join(LAYOUTS)}); it holds {some}."
  )


def _fill(path, layout, net, family, arrays):
  """Returns the variables of a net with the arrays of a file."""
  images = jax.ShapeDtypeStruct((1, *family.image_shape(arrays)), jnp.float32)
  shapes = traverse_util.flatten_dict(
      jax.eval_shape(net.init, jax.random.key(0), images), sep="/"
  )
  flat, missing, misshapen = {}, [], []
  table = family.rows(net)
  for row in table:
    if row.theirs not in arrays:
      missing.append(row.theirs)
      continue
    array = arrays[row.theirs]
    try:
      parts = row.read(array)
    except (ValueError, IndexError):  # It has another number of dimensions.
      parts = ()
    read = dict(zip(row.ours, parts))
    if [shapes[x].shape for x in row.ours] != [x.shape for x in parts]:
      misshapen.append(f"{row.theirs} {array.shape}")
    flat |= {k: np.ascontiguousarray(x, np.float32) for k, x in read.items()}
  left = sorted(arrays.keys() - {row.theirs for row in table})
  problems = {
      "missing": missing,
      "left over": left,
      "of another shape": misshapen,
  }
  _check(path, layout, problems)
  return traverse_util.unflatten_dict(flat, sep="/")


def _check(path, layout, problems):
  """Raises ValueError if any of the lists of names has one."""
  listed = "; ".join(
      f"{what}: {_some(names)}" for what, names in problems.items() if names
  )
  if listed:
    raise ValueError(
        f"{path} has the layout {layout}, but its arrays are not those of an"
        f" encoder that jssl knows; {listed}."
    )


def _some(names):
  """Lists the first of some names."""
  more = f" and {len(names) - _MOST_NAMES} more" * (len(names) > _MOST_NAMES)
  return ", ".join(names[:_MOST_NAMES]) + more
