"""Colorization: paint the colors of a gray image.

  python -m jssl.train --config=configs/colorization.py:photos --workdir=runs/ab

The loss of all sets is that of the paper (Zhang et al., 2016); its VGG-like net
and 450,000 steps of Adam are replaced by a ResNet and AdamW at 1e-3 x batch /
256, not a published recipe. photos, two photographs cut into patches, is for a
short CPU run. digits has no colors.
"""

from jssl import config as configs


def get_config(dataset: str = "photos") -> configs.ConfigDict:
  """Returns the config for photos, a name of TFDS, or folder:PATH."""
  config = configs.base(dataset)
  config.method = {
      "name": "colorization",
      "loss": "classification",
      "stride": 4,
      "rebalance": 0.5,
      "decode_temperature": 0.38,
      "decoder_width": 64,
  }
  config.augment = {
      "name": "crop_and_flip",
      "scale": (0.2, 1.0),
      "method": "bilinear",
      "flip_probability": 0.5,
  }
  config.optimizer = configs.adamw(
      learning_rate=1e-3, weight_decay=1e-3, warmup_epochs=1
  )
  name = configs.set_name(dataset)
  if name == "imagenet2012":
    config.epochs = 100.0
  elif name in ("cifar10", "cifar100"):
    config.method.stride = 2
  elif name == "photos":
    config.method.decoder_width = 32
    config.epochs = 20.0
    config.augment.scale = (0.5, 1.0)
    config.optimizer.learning_rate = 8e-3
  return config
