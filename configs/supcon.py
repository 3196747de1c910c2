"""SupCon: contrastive learning with labels, the upper reference.

  python -m jssl.train --config=configs/supcon.py:digits --workdir=runs/supcon

It learns from the labels of the training images, unlike all other methods here,
and refuses data without. cifar10 as in the paper's code (Khosla et al., 2020:
SGD at 0.5 x batch / 1024, decay 1e-4, temperature 0.1, the jitter of MoCo v2
without blur), written for the paper's loss, of which the code takes 0.1 / 0.07.
digits was tuned here for a short CPU run. Other data sets get the recipe of
cifar10 with SimCLR's augmentation.
"""

from jssl import config as configs


def get_config(dataset: str = "digits") -> configs.ConfigDict:
  """Returns the config for digits, a name of TFDS, or folder:PATH."""
  config = configs.base(dataset)
  config.method = {
      "name": "supcon",
      "dim": 128,
      "hidden_layers": 1,
      "temperature": 0.1,
      "joint_statistics": True,
  }
  config.augment = {
      "name": "simclr",
      "scale": (0.08, 1.0),
      "strength": 1.0,
      "blur_probability": 0.5,
      "method": "bilinear",
      "operations": "torchvision",
  }
  config.optimizer = configs.sgd(
      learning_rate=0.5 / 0.7,
      reference_batch_size=1024,
      weight_decay=0.7e-4,
      warmup_epochs=10,
  )
  name = configs.set_name(dataset)
  if name == "digits":
    config.augment = {"name": "digits"}
    config.optimizer = configs.sgd(learning_rate=0.03, weight_decay=5e-4)
  elif name in ("cifar10", "cifar100"):
    config.augment = {
        "name": "moco_v2",
        "scale": (0.2, 1.0),
        "blur_probability": 0.0,
        "method": "bilinear",
    }
  return config
