"""Rotation: classify by how many quarter turns an image is rotated.

  python -m jssl.train --config=configs/rotation.py:digits --workdir=runs/rot

imagenet2012 as in the code of Kolesnikov et al. (2019), with ResNet-50 for its
RevNet-50: SGD at 0.1 x batch / 256, decay 1e-4, 35 epochs with a warm-up of 5,
learning rate x 0.1 at 15 and 25. cifar10 as in the paper's code (Gidaris et
al., 2018): SGD with Nesterov momentum at 0.1 for batches of 128, decay 5e-4,
learning rate x 0.2 at 60, 120 and 160 of 200 epochs, windows of 32 pixels of
the picture padded by 4, but ResNet-18 for its network in network. digits was
tuned here for a short CPU run. Other data sets get the learning rate of
imagenet2012 along a cosine.
"""

from jssl import config as configs


def get_config(dataset: str = "digits") -> configs.ConfigDict:
  """Returns the config for digits, a name of TFDS, or folder:PATH."""
  config = configs.base(dataset)
  config.method = {"name": "rotation"}
  config.augment = {
      "name": "crop_and_flip",
      "scale": (0.08, 1.0),
      "method": "bilinear",
      "flip_probability": 0.5,
  }
  config.optimizer = configs.sgd(
      learning_rate=0.1, reference_batch_size=256, weight_decay=1e-4
  )
  name = configs.set_name(dataset)
  if name == "imagenet2012":
    config.epochs = 35.0
    config.optimizer.schedule = configs.staircase(
        drops=(15 / 35, 25 / 35), warmup_epochs=5.0
    )
  elif name == "digits":
    config.batch_size = 64
    config.epochs = 12.0
    config.eval.every_epochs = 6.0
    # No slant, which would tell the two axes apart.
    config.augment = {"name": "digits", "shear": 0.0}
    config.optimizer.update(reference_batch_size=64)
  elif name in ("cifar10", "cifar100"):
    config.batch_size = 128
    config.augment = {"name": "pad_crop_and_flip", "padding": 4}
    config.optimizer.update(
        reference_batch_size=128, weight_decay=5e-4, nesterov=True
    )
    config.optimizer.schedule = configs.staircase(
        drops=(60 / 200, 120 / 200, 160 / 200), factor=0.2
    )
  return config
