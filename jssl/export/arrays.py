"""The backbone's arrays as one `.safetensors` file; see `jssl.weights.own`."""

import json
import os
from typing import Any

import flax.linen as nn

from jssl import weights
from jssl.config import build, ConfigDict
from jssl.encoder import backbone, Encoder
from jssl.weights import own

PyTree = Any


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
  kept = {"net": config.net.to_dict()}
  kept |= {key: config[key] for key in ("image_size", "precision")}
  own.write(
      path,
      net.variables,
      kept,
      input_shape=json.dumps(net.input_shape),
      method=config.method.name,
      step=str(encoder.step),
  )


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
  config, variables = own.decode(path, *weights.read_arrays(path))
  return build.net(ConfigDict(config)), variables
