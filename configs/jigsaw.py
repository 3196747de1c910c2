"""Jigsaw: classify the order of the tiles of an image.

  python -m jssl.train --config=configs/jigsaw.py:digits --workdir=runs/jigsaw

imagenet2012 as in the code of Kolesnikov et al. (2019) for ResNet-50: SGD at
0.1 x batch / 256, decay 1e-4, 35 epochs with a warm-up of 5, learning rate x
0.1 at 15 and 25, two of three images gray, dropout of a half in the head, eight
orders of each image at a step. Tiles of 64 from images of 225 and 1,000 orders
are those of Noroozi and Favaro (2016); Kolesnikov et al. have images of 255 and
100 orders. cifar10: images enlarged to 48, so that tiles have 12 pixels; not a
published recipe. digits was tuned here for a short CPU run. Other data sets get
the learning rate of imagenet2012 along a cosine.
"""

from jssl import config as configs


def get_config(dataset: str = "digits") -> configs.ConfigDict:
  """Returns the config for digits, a name of TFDS, or folder:PATH."""
  config = configs.base(dataset)
  config.method = {
      "name": "jigsaw",
      "permutations": 1000,
      "puzzles": 8,
      "channel_shift": 2,
      "grayscale_probability": 0.66,
      "dim": 512,
      "hidden_dim": 4096,
      "dropout": 0.5,
  }
  config.augment = {
      "name": "crop_and_flip",
      "scale": (0.3, 1.0),
      "method": "bilinear",
      "flip_probability": 0.5,
  }
  config.optimizer = configs.sgd(
      learning_rate=0.1, reference_batch_size=256, weight_decay=1e-4
  )
  name = configs.set_name(dataset)
  if name == "imagenet2012":
    config.epochs = 35.0
    config.image_size = 225
    config.method.tile_size = 64
    config.optimizer.schedule = configs.staircase(
        drops=(15 / 35, 25 / 35), warmup_epochs=5.0
    )
    return config
  config.method.update(dim=128, hidden_dim=1024, permutations=100)
  if name == "digits":
    config.batch_size = 64
    config.epochs = 9.0
    config.eval.every_epochs = 3.0
    config.image_size = 18
    config.method.update(
        dim=64,
        hidden_dim=256,
        tile_size=5,
        channel_shift=0,
        grayscale_probability=0.0,
        dropout=0.0,
        permutations=100,
    )
    config.augment = {"name": "digits"}
    config.optimizer.reference_batch_size = 64
  elif name in ("cifar10", "cifar100"):
    config.image_size = 48
    config.method.update(tile_size=12, channel_shift=1)
    config.augment.scale = (0.6, 1.0)
    config.optimizer.weight_decay = 5e-4
  return config
