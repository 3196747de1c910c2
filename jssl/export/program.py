"""The encoder as one program, with its parameters, in StableHLO."""

import os

import jax
import jax.export
import jax.numpy as jnp

from jssl import augment, files
from jssl.config import lookup
from jssl.encoder import Encoder, pool_stages, stage_names

PLATFORMS = ("cpu", "cuda", "tpu")
_DTYPES = {"uint8": jnp.uint8, "float32": jnp.float32}


def save_stablehlo(
    encoder: Encoder,
    path: str | os.PathLike,
    *,
    images: str = "uint8",
    stage: str = "pooled",
) -> None:
  """Writes a program that needs JAX to run, but not this library.

  `jax.export.deserialize(open(path, "rb").read()).call(images)` maps images
  `[B, S, S, C]`, of any number B, to features float32 `[B, D]`, on CPU, NVIDIA
  GPU and TPU. S is the run's image size: images are cropped and resized by the
  caller, so `config.eval.crop_fraction` does not apply. JAX promises that
  versions up to six months newer can read it.

  Args:
    encoder: The encoder, see `jssl.encoder.load`.
    path: The file to write.
    images: "uint8", or "float32" for images in [0, 1]. A program does not
      check its values: floats from 0 to 255 give meaningless features.
    stage: "pooled", or a stage of the net, whose map is averaged.

  Raises:
    ValueError: If `images` or `stage` has another value.
  """
  dtype = _DTYPES[lookup("The type of images", images, _DTYPES)]
  lookup("The stage", stage, stage_names(encoder))

  @jax.jit
  def encode(images):
    features = encoder.method.encode(*params, augment.to_float(images))
    return pool_stages({stage: features[stage]})[stage]

  # On the host, since the program must not name devices of this machine.
  params = jax.device_get(encoder.params)
  size, channels = encoder.config.image_size, encoder.config.resolved.channels
  (batch,) = jax.export.symbolic_shape("batch")
  exported = jax.export.export(encode, platforms=PLATFORMS)(
      jax.ShapeDtypeStruct((batch, size, size, channels), dtype)
  )
  with files.atomic(path) as temporary:
    temporary.write_bytes(exported.serialize())
