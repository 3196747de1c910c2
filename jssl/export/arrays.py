"""The backbone's arrays as one `.safetensors` file.

Arrays have the names that Flax gives them, joined by slashes:
`params/stage_1_block_1/conv_1/kernel`, `batch_stats/stem_norm/mean`. Kernels of
convolutions are `[h, w, in, out]`, those of linear layers `[in, out]`.
"""

import json
import os
from typing import Any

from flax import traverse_util
import flax.linen as nn
import jax
import numpy as np
import safetensors
import safetensors.numpy

from jssl import files
from jssl.config import build, ConfigDict
from jssl.encoder import backbone, Encoder

PyTree = Any

_CONFIG = "config"
_FORMAT = "jssl backbone 1"


def save_safetensors(encoder: Encoder, path: str | os.PathLike) -> None:
  """Writes the backbone, without heads and optimizer, atomically.

  The file's metadata, all strings: "format"; "config", JSON with the run's
  "net", "image_size" and "precision"; "input_shape", JSON of the (height,
  width, channels) of the net's input in evaluations, in [0, 1] (tiles or gray
  images for some methods); "method"; "step".

  Args:
    encoder: The encoder, see `jssl.encoder.load`.
    path: The file to write.
  """
  config, net = encoder.config, backbone(encoder)
  arrays = {
      name: np.ascontiguousarray(x)
      for name, x in traverse_util.flatten_dict(
          jax.device_get(net.variables), sep="/"
      ).items()
  }
  kept = {"net": config.net.to_dict()}
  kept |= {key: config[key] for key in ("image_size", "precision")}
  metadata = {
      "format": _FORMAT,
      "config": json.dumps(kept),
      "input_shape": json.dumps(net.input_shape),
      "method": config.method.name,
      "step": str(encoder.step),
  }
  with files.atomic(path) as temporary:
    safetensors.numpy.save_file(arrays, temporary, metadata=metadata)


def load_safetensors(path: str | os.PathLike) -> tuple[nn.Module, PyTree]:
  """Loads a backbone that `save_safetensors` wrote.

  Args:
    path: The file.

  Returns:
    `(net, variables)`: `net.apply(variables, images)` gives a dict of the
    "pooled" features `[B, D]` and those of every stage, of images
    `[B, H, W, C]` in [0, 1] and of the run's image size; with `train=True` and
    `mutable=["batch_stats"]` it can be trained further.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If it is not such a file.
  """
  try:
    with safetensors.safe_open(os.fspath(path), framework="numpy") as file:
      metadata = file.metadata() or {}
      arrays = {name: file.get_tensor(name) for name in file.keys()}
  except safetensors.SafetensorError as error:
    raise ValueError(
        f"{path} is not a .safetensors file ({error}); make one with python -m"
        " jssl.export."
    ) from error
  if metadata.get("format") != _FORMAT:
    raise ValueError(
        f"{path} has the format {metadata.get('format')!r}; expected"
        f" {_FORMAT!r}, which python -m jssl.export writes."
    )
  net = build.net(ConfigDict(json.loads(metadata[_CONFIG])))
  return net, traverse_util.unflatten_dict(arrays, sep="/")
