"""jssl's own layout: Flax's names, and the config of the net.

Arrays have the names that Flax gives them, joined by slashes:
`params/stage_1_block_1/conv_1/kernel`, `batch_stats/stem_norm/mean`. Kernels of
convolutions are `[h, w, in, out]`, those of linear layers `[in, out]`. The
metadata's "config" is JSON with the "net" section of a config, "image_size"
and "precision".
"""

from collections.abc import Mapping
import json
import os
from typing import Any

from flax import traverse_util
import jax
import numpy as np
import safetensors.numpy

from jssl import files

PyTree = Any

FORMAT = "jssl backbone 1"


def write(
    path: str | os.PathLike,
    variables: PyTree,
    config: Mapping[str, Any],
    **metadata: str,
) -> None:
  """Writes a backbone, atomically.

  Args:
    path: The file to write.
    variables: Its "params" and, if it has them, "batch_stats".
    config: Its "net", "image_size" and "precision".
    **metadata: What else is kept in the file's metadata.
  """
  flat = traverse_util.flatten_dict(jax.device_get(variables), sep="/")
  arrays = {name: np.ascontiguousarray(x) for name, x in flat.items()}
  metadata = {"format": FORMAT, "config": json.dumps(config), **metadata}
  with files.atomic(path) as temporary:
    safetensors.numpy.save_file(arrays, temporary, metadata=metadata)


def decode(
    path: str | os.PathLike,
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
) -> tuple[dict[str, Any], PyTree]:
  """Returns the config and the variables of a file's content.

  Raises:
    ValueError: If the file has another layout.
  """
  if metadata.get("format") != FORMAT:
    raise ValueError(
        f"{path} has the format {metadata.get('format')!r}; expected"
        f" {FORMAT!r}, which python -m jssl.export writes."
    )
  config = json.loads(metadata["config"])
  return config, traverse_util.unflatten_dict(dict(arrays), sep="/")
