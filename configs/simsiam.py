"""SimSiam: two views, a predictor, and a stopped gradient.

  python -m jssl.train --config=configs/simsiam.py:digits --workdir=runs/simsiam

imagenet2012 as in the paper (Chen and He, 2021, 200 epochs: batch 256, SGD at
0.05 x batch / 256, decay 1e-4, the predictor's rate constant). cifar10 as in
its appendix D: SGD at 0.03 x batch / 256, decay 5e-4, a projector of two
layers, no blur. (lightly's CIFAR-10 benchmark, with recipes of its own, has
76.4% kNN at batch 512 and 81.9% at 128, each of the best of 200 epochs on the
test set.) digits was tuned here for a short CPU run. Other data sets get the
recipe of cifar10 with the paper's augmentation.
"""

from jssl import config as configs


def get_config(dataset: str = "digits") -> configs.ConfigDict:
  """Returns the config for digits, a name of TFDS, or folder:PATH."""
  config = configs.base(dataset)
  config.method = {
      "name": "simsiam",
      "dim": 2048,
      "projector_layers": 3,
      "predictor_dim": 512,
      "joint_statistics": False,
  }
  config.augment = {
      "name": "moco_v2",
      "scale": (0.2, 1.0),
      "blur_probability": 0.5,
      "method": "bilinear",
  }
  name = configs.set_name(dataset)
  if name == "imagenet2012":
    config.net.zero_init_residual = True
    config.optimizer = configs.sgd(
        learning_rate=0.05, reference_batch_size=256, weight_decay=1e-4
    )
    config.optimizer.constant_rate = ("predictor",)
    return config
  config.method.projector_layers = 2
  config.optimizer = configs.sgd(
      learning_rate=0.03, reference_batch_size=256, weight_decay=5e-4
  )
  if name == "digits":
    config.batch_size = 64
    config.method.update(dim=256, predictor_dim=64)
    config.optimizer.learning_rate = 0.8
    config.augment = {"name": "digits"}
  elif name in ("cifar10", "cifar100"):
    config.augment.blur_probability = 0.0
  return config
