"""Inpainting: paint what was in a hole.

  python -m jssl.train --config=configs/inpainting.py:digits --workdir=runs/hole

The loss, the holes and the rim of imagenet2012 are those of the paper (Pathak
et al., 2016), scaled to images of 224; its AlexNet and Adam are replaced by a
ResNet and AdamW at 1e-3 x batch / 256, not a published recipe. digits was tuned
here for a short CPU run.
"""

from jssl import config as configs


def get_config(dataset: str = "digits") -> configs.ConfigDict:
  """Returns the config for digits, a name of TFDS, or folder:PATH."""
  config = configs.base(dataset)
  config.method = {
      "name": "inpainting",
      "hole": "region",
      "share": 0.25,
      "overlap": 7,
      "overlap_weight": 10.0,
      "decoder_width": 64,
  }
  config.augment = {
      "name": "crop_and_flip",
      "scale": (0.2, 1.0),
      "method": "bilinear",
      "flip_probability": 0.5,
  }
  config.optimizer = configs.adamw(
      learning_rate=1e-3, weight_decay=1e-4, warmup_epochs=1
  )
  name = configs.set_name(dataset)
  if name == "imagenet2012":
    config.epochs = 100.0
    return config
  config.method.update(overlap=1, overlap_weight=1.0, decoder_width=32)
  if name == "digits":
    config.batch_size = 64
    config.epochs = 15.0
    config.eval.every_epochs = 3.0
    config.method.overlap = 0
    config.augment = {"name": "digits"}
    config.optimizer.learning_rate = 8e-3
  return config
