"""Relative position: classify on which side of the center a tile lies.

  python -m jssl.train --config=configs/relative_position.py:digits \
    --workdir=runs/position

imagenet2012 as in the code of Kolesnikov et al. (2019) for ResNet-50: SGD at
0.1 x batch / 256, decay 1e-4, 35 epochs with a warm-up of 5, learning rate x
0.1 at 15 and 25, two of three images gray, dropout of a half in the head; but
tiles of 64 come from images of 225, there of 255 (Doersch et al., 2015, take
tiles of 96 with gaps of 48). cifar10: images enlarged to 48, so that tiles have
12 pixels; not a published recipe. digits was tuned here for a short CPU run.
Other data sets get the learning rate of imagenet2012 along a cosine.
"""

from jssl import config as configs


def get_config(dataset: str = "digits") -> configs.ConfigDict:
  """Returns the config for digits, a name of TFDS, or folder:PATH."""
  config = configs.base(dataset)
  config.method = {
      "name": "relative_position",
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
  config.method.update(dim=128, hidden_dim=1024)
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
    )
    config.augment = {"name": "digits"}
    config.optimizer.reference_batch_size = 64
  elif name in ("cifar10", "cifar100"):
    config.image_size = 48
    config.method.update(tile_size=12, channel_shift=1)
    config.augment.scale = (0.6, 1.0)
    config.optimizer.weight_decay = 5e-4
  return config
