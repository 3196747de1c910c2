"""ResNets under torchvision's names, which most checkpoints of ResNets have.

    conv1.weight [64, 3, 7, 7]    stem/kernel [7, 7, 3, 64]
    bn1.running_mean [64]         stem_norm/mean [64]
    layer2.0.conv1.weight         stage_2_block_1/conv_1/kernel
    layer2.0.downsample.0.weight  stage_2_block_1/shortcut/kernel
    layer2.0.downsample.1.bias    stage_2_block_1/shortcut_norm/bias
    fc.weight                     not part of an encoder

Convolutions are padded symmetrically, strides are in the 3x3 convolution, and
the epsilon of BatchNorm is 1e-5, there as here.
"""

from collections.abc import Mapping
import re
from typing import Any

import numpy as np

from jssl import nets
from jssl.weights import _names

ANCHORS = ("layer1.0.conv1.weight", "4.0.conv1.weight")
# Arrays that show which net it is, with their number of dimensions.
REQUIRED = {"conv1.weight": 4}
IGNORED = r"fc\..*|.*\.num_batches_tracked"
# Of nn.Sequential(*resnet.children()), which some checkpoints have.
_NUMBERED = {"0": "conv1", "1": "bn1"} | {
    str(3 + i): f"layer{i}" for i in range(1, 5)
}
_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.conv1\.weight")
# From the numbers of blocks, and whether they are bottlenecks.
_NAMES = {
    (make.args[0], make.args[1:] == (True,)): name
    for name, make in nets.NETS.items()
    if make.func is nets.ResNet
}


def rename(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns arrays by torchvision's names, from layers that are numbered."""
  if ANCHORS[0] in arrays:
    return dict(arrays)
  named = {}
  for name, array in arrays.items():
    first, dot, rest = name.partition(".")
    named[_NUMBERED.get(first, first) + dot + rest] = array
  return named


def image_shape(arrays: Mapping[str, np.ndarray]) -> tuple[int, int, int]:
  """Returns height, width and channels of the images it is usual for."""
  _, channels, side, _ = arrays["conv1.weight"].shape
  size = 224 if side == 7 else 32
  return size, size, channels


def section(
    arrays: Mapping[str, np.ndarray], heads: Mapping[int, int]
) -> dict[str, Any]:
  """Returns the entries of `config.net` that describe the net of a file.

  Args:
    arrays: The arrays by torchvision's names.
    heads: Not used, since there is no attention.

  Raises:
    ValueError: If jssl has no such net.
  """
  del heads
  blocks: dict[int, int] = {}
  for match in filter(None, map(_BLOCK.fullmatch, arrays)):
    stage = int(match[1])
    blocks[stage] = max(blocks.get(stage, 0), int(match[2]) + 1)
  sizes = tuple(blocks[i] for i in sorted(blocks))
  bottleneck = "layer1.0.conv3.weight" in arrays
  if (sizes, bottleneck) not in _NAMES:
    kind = "bottleneck" if bottleneck else "basic"
    raise ValueError(
        f"The ResNet has {sizes} {kind} blocks; expected one of"
        f" {', '.join(_NAMES.values())}."
    )
  width, _, side, _ = arrays["conv1.weight"].shape
  stem = "imagenet" if side == 7 else "cifar"
  return {"name": _NAMES[sizes, bottleneck], "width": width, "stem": stem}


def finish(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns arrays that are written, as torchvision has them."""
  return arrays


def rows(net: nets.ResNet) -> list[_names.Row]:
  """Returns the table of a net's arrays."""
  table = _names.conv("conv1", "stem") + _names.batch_norm("bn1", "stem_norm")
  for stage, blocks in enumerate(net.stage_sizes, start=1):
    for block in range(blocks):
      theirs = f"layer{stage}.{block}"
      ours = f"stage_{stage}_block_{block + 1}"
      for i in range(1, 4 if net.bottleneck else 3):
        table += _names.conv(f"{theirs}.conv{i}", f"{ours}/conv_{i}")
        table += _names.batch_norm(f"{theirs}.bn{i}", f"{ours}/norm_{i}")
      if block == 0 and (stage > 1 or net.bottleneck):
        down = f"{theirs}.downsample"
        table += _names.conv(f"{down}.0", f"{ours}/shortcut")
        table += _names.batch_norm(f"{down}.1", f"{ours}/shortcut_norm")
  return table
