"""MAE: paint three quarters of the patches from the rest.

  python -m jssl.train --config=configs/mae.py:digits --workdir=runs/mae

imagenet2012 as in the paper (He et al., 2022) for ViT-B/16, 800 epochs: batch
4096, AdamW at 1.5e-4 x batch / 256, b2 0.95, decay 0.05, 40 epochs of warm-up.
cifar10: ViT-Ti of patches of 4 with a decoder of its width and two blocks, not
a published recipe. digits was tuned here for a short CPU run. Other data sets
get ViT-S and the decoder of cifar10.
"""

from jssl import config as configs


def get_config(dataset: str = "digits") -> configs.ConfigDict:
  """Returns the config for digits, a name of TFDS, or folder:PATH."""
  config = configs.base(dataset)
  config.net.update(name="vit_small", positions="sincos", weight_init="mae")
  config.method = {
      "name": "mae",
      "mask_ratio": 0.75,
      "normalize": True,
      "decoder_width": 512,
      "decoder_depth": 8,
      "decoder_heads": 16,
  }
  config.augment = {
      "name": "crop_and_flip",
      "scale": (0.2, 1.0),
      "method": "bicubic",
      "flip_probability": 0.5,
  }
  config.optimizer = configs.adamw(
      learning_rate=1.5e-4, weight_decay=0.05, warmup_epochs=40
  )
  config.optimizer.b2 = 0.95
  name = configs.set_name(dataset)
  if name == "imagenet2012":
    config.net.name = "vit_base"
    config.epochs = 800.0
    config.batch_size = 4096
    return config
  config.net.pooling = "mean"
  config.method.update(decoder_width=192, decoder_depth=2, decoder_heads=3)
  config.optimizer.schedule.warmup_epochs = 10.0
  if name == "digits":
    config.batch_size = 16
    config.net.name = "vit_micro"
    config.method.update(decoder_width=96, decoder_depth=1)
    config.augment = {"name": "digits"}
    config.optimizer.learning_rate = 8e-3
    config.optimizer.schedule.warmup_epochs = 2.0
  elif name in ("cifar10", "cifar100"):
    config.net.name = "vit_tiny"
  return config
