"""Vision transformers under timm's names, which most checkpoints of ViTs have.

    cls_token                 [1, 1, D]         class_token [1, D]
    reg_token                 [1, R, D]         register_tokens [R, D]
    pos_embed                 [1, 1 + h w, D]   class_position [1, D],
                                                patch_positions [h, w, D]
    patch_embed.proj.weight   [D, 3, P, P]      patch/kernel [P, P, 3, D]
    blocks.0.norm1.weight     [D]               block_1/norm_1/scale
    blocks.0.attn.qkv.weight  [3 D, D]          block_1/qkv/kernel [D, 3 D]
    blocks.0.attn.proj.weight                   block_1/out/kernel
    blocks.0.ls1.gamma                          block_1/scale_1
    blocks.0.mlp.fc1.weight                     block_1/mlp_1/kernel
    norm.weight                                 norm/scale
    head.weight                                 not part of an encoder

DINOv2 calls registers `register_tokens` and gated layers `mlp.w12` and
`mlp.w3`; its training code numbers blocks by chunks, `blocks.0.3`. GELU is
exact, and the epsilon of LayerNorm is 1e-6, there as here.
"""

from collections.abc import Mapping
import math
import re
from typing import Any

import numpy as np

from jssl import nets
from jssl.nets.vit import sincos_2d
from jssl.weights import _names

ANCHORS = ("patch_embed.proj.weight",)
# Arrays that show which net it is, with their number of dimensions.
REQUIRED = {
    "patch_embed.proj.weight": 4,
    "pos_embed": 3,
    "blocks.0.mlp.fc1.weight": 2,
    "blocks.0.mlp.fc2.weight": 2,
}
IGNORED = r"(head|head_dist|fc_norm|pre_logits)\..*|mask_token|masked_embed"
# From the width and the number of blocks to the name of a net.
_NETS = {
    (make.args[0], make.keywords["depth"]): name
    for name, make in nets.NETS.items()
    if make.func is nets.ViT
}
_CHUNK = re.compile(r"^blocks\.\d+\.(?=\d)")
_BLOCK = re.compile(r"blocks\.(\d+)\.")
_RENAMED = {
    "register_tokens": "reg_token",
    "mlp.w12.": "mlp.fc1.",
    "mlp.w3.": "mlp.fc2.",
}


def rename(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns arrays by timm's names, from those of DINOv2."""
  renamed = {}
  for name, array in arrays.items():
    for old, new in _RENAMED.items():
      name = name.replace(old, new)
    renamed[_CHUNK.sub("blocks.", name)] = array
  return renamed


def section(
    arrays: Mapping[str, np.ndarray], heads: Mapping[int, int]
) -> dict[str, Any]:
  """Returns the entries of `config.net` that describe the net of a file.

  Args:
    arrays: The arrays by timm's names.
    heads: Number of heads by the width, where it is not that of the net.

  Raises:
    ValueError: If jssl has no such net.
  """
  width, _, patch_size, _ = arrays[ANCHORS[0]].shape
  depth = len({x[1] for name in arrays if (x := _BLOCK.match(name))})
  if (width, depth) not in _NETS:
    raise ValueError(
        f"The ViT has {depth} blocks of width {width}; expected one of"
        f" {', '.join(f'{d} of {w}' for w, d in _NETS)}."
    )
  made: dict[str, Any] = {
      "name": _NETS[width, depth],
      "patch_size": patch_size,
      "pooling": "token" if "cls_token" in arrays else "mean",
      "positions": "sincos" if _is_sincos(arrays) else "learned",
  }
  if width in heads:
    made["heads"] = heads[width]
  if "reg_token" in arrays:
    made["registers"] = arrays["reg_token"].shape[1]
  if "blocks.0.ls1.gamma" in arrays:
    made["layer_scale"] = 1.0  # Where it starts; the file has what it became.
  hidden = arrays["blocks.0.mlp.fc1.weight"].shape[0]
  if hidden == 2 * arrays["blocks.0.mlp.fc2.weight"].shape[1]:
    made["activation"] = "swiglu"
  return made


def image_shape(arrays: Mapping[str, np.ndarray]) -> tuple[int, int, int]:
  """Returns height, width and channels of the images it was made for."""
  _, channels, patch_size, _ = arrays[ANCHORS[0]].shape
  size = _side(arrays) * patch_size
  return size, size, channels


def rows(net: nets.ViT) -> list[_names.Row]:
  """Returns the table of a net's arrays."""
  table = _names.conv("patch_embed.proj", "patch", bias=True)
  if net.has_class_token:
    table.append(_names.token("cls_token", "class_token"))
  if net.registers:
    table.append(_names.token("reg_token", "register_tokens"))
  table.append(_positions(net))
  for i in range(net.depth):
    theirs, ours = f"blocks.{i}", f"block_{i + 1}"
    table += _names.layer_norm(f"{theirs}.norm1", f"{ours}/norm_1")
    table += _names.linear(f"{theirs}.attn.qkv", f"{ours}/qkv")
    table += _names.linear(f"{theirs}.attn.proj", f"{ours}/out")
    table += _names.layer_norm(f"{theirs}.norm2", f"{ours}/norm_2")
    table += _names.linear(f"{theirs}.mlp.fc1", f"{ours}/mlp_1")
    table += _names.linear(f"{theirs}.mlp.fc2", f"{ours}/mlp_2")
    if net.layer_scale:
      table.append(_names.vector(f"{theirs}.ls1.gamma", f"{ours}/scale_1"))
      table.append(_names.vector(f"{theirs}.ls2.gamma", f"{ours}/scale_2"))
  return table + _names.layer_norm("norm", "norm")


def finish(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns arrays that are written, as timm has them.

  With registers, timm adds the position of the class token to the token.
  """
  if "reg_token" in arrays:
    position, patches = np.split(arrays["pos_embed"], [1], axis=1)
    token = arrays["cls_token"] + position
    arrays = {**arrays, "cls_token": token, "pos_embed": patches}
  return arrays


def _positions(net):
  """The row of the positions, that of the class token first.

  Some files have none for the class token, which is then 0 (see `finish`).
  """
  first = int(net.has_class_token)
  side = net.image_size // net.patch_size
  if net.positions == "sincos":
    fixed = np.asarray(sincos_2d(net.width, (side, side)))
    fixed = np.concatenate([np.zeros((first, net.width), np.float32), fixed])
    return _names.Row("pos_embed", (), lambda x: (), lambda: fixed[None])
  ours = ("params/class_position",) * first + ("params/patch_positions",)

  def read(x):
    patches = x[0, -(side**2) :].reshape(side, side, -1)
    if not first:
      return (patches,)
    has_own = x.shape[1] > side**2
    return x[0, :1] if has_own else np.zeros_like(x[0, :1]), patches

  def write(*parts):
    parts = [part.reshape(-1, net.width) for part in parts]
    return np.concatenate(parts)[None]

  return _names.Row("pos_embed", ours, read, write)


def _side(arrays):
  return math.isqrt(arrays["pos_embed"].shape[1])


def _is_sincos(arrays):
  """Whether the positions are the fixed ones of MAE."""
  table, side = arrays["pos_embed"][0], _side(arrays)
  if table.shape[1] % 4:
    return False
  fixed = np.asarray(sincos_2d(table.shape[1], (side, side)))
  first = len(table) - len(fixed)
  return not np.any(table[:first]) and np.allclose(
      table[first:], fixed, atol=1e-5
  )
