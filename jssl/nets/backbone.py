"""The interface of a backbone, which methods, evaluation and reports rely on.

A backbone is a Flax module with batch statistics, if any, in "batch_stats":

    features = net(images, train=False)  # Images [B, H, W, C] in [0, 1].
    features["pooled"]                   # [B, D], float32.
    features["stage_1"]                  # [B, h, w, c], the earliest maps.
    features["stage_4"]                  # The last maps; any number of stages.

Its call may also take `views=V` for a batch of V views, `[V * B, H, W, C]`,
that are normalised separately. `net.dtype` is the computation type, and
`net.mean` and `net.std` normalise the images.

A transformer (`ViT`) names its parameters so that optimizers and methods find
them: the patch projection is `patch`, the blocks are `block_1`, `block_2`, ...;
`class_token`, `class_position` and `patch_positions` come before the blocks.
"""

from collections.abc import Iterable
import re

import jax

PATCH_PROJECTION = "patch"
_STAGE = "stage_"
_BLOCK = re.compile(r"block_(\d+)")
_BEFORE_BLOCKS = {
    PATCH_PROJECTION,
    "patch_positions",
    "class_token",
    "class_position",
}


def stage_name(number: int) -> str:
  """Returns the name of a stage's features, numbered from 1."""
  return f"{_STAGE}{number}"


def stage_names(features: Iterable[str]) -> list[str]:
  """Returns the names of the stages, the earliest first.

  Args:
    features: The features of a backbone, or their names.

  Example:
    >>> from jssl import nets
    >>> nets.stage_names({"pooled": 0, "stage_10": 0, "stage_2": 0})
    ['stage_2', 'stage_10']
  """
  names = (name for name in features if name.startswith(_STAGE))
  return sorted(names, key=lambda name: int(name.removeprefix(_STAGE)))


def layer_of(path: jax.tree_util.KeyPath) -> int | None:
  """Returns the depth of a transformer's parameter, for a decay by layers.

  Args:
    path: Path of the parameter, as from `jax.tree_util.tree_map_with_path`.

  Returns:
    0 before the blocks, i in the i-th block, and None for all others: what
    comes after the blocks, and nets without blocks.

  Example:
    >>> import jax
    >>> from jssl.nets import backbone
    >>> params = {"patch": 0, "block_2": {"out": 0}, "norm": 0}
    >>> paths = [path for path, _ in jax.tree.leaves_with_path(params)]
    >>> {jax.tree_util.keystr(x): backbone.layer_of(x) for x in paths}
    {"['block_2']['out']": 2, "['norm']": None, "['patch']": 0}
  """
  names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
  if set(names) & _BEFORE_BLOCKS:
    return 0
  blocks = [match for name in names if (match := _BLOCK.fullmatch(name))]
  return int(blocks[0][1]) if blocks else None
