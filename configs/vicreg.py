"""VICReg: invariance, variance and covariance, each with its own term.

  python -m jssl.train --config=configs/vicreg.py:digits --workdir=runs/vicreg

imagenet2012 as in the paper (Bardes et al., 2022, 1000 epochs: batch 2048, LARS
at 0.2 x batch / 256, decay 1e-6). cifar10 as in solo-learn's recipe (for 1000
epochs): LARS at 0.3 x batch / 256, trust 0.02, decay 1e-4, a projector of three
layers of 2,048, crops of a fifth and more, solarized once in ten, no blur; but
that solo-learn limits the trust ratio. digits was tuned here for a short CPU
run. Other data sets get the recipe of cifar10 with the paper's augmentation.
"""

from jssl import config as configs


def get_config(dataset: str = "digits") -> configs.ConfigDict:
  """Returns the config for digits, a name of TFDS, or folder:PATH."""
  config = configs.base(dataset)
  config.method = {
      "name": "vicreg",
      "dim": 8192,
      "projector_layers": 3,
      "invariance": 25.0,
      "variance": 25.0,
      "covariance": 1.0,
      "joint_statistics": False,
  }
  config.update(configs.byol_views(scale=(0.08, 1.0)))
  name = configs.set_name(dataset)
  if name == "imagenet2012":
    config.epochs = 1000.0
    config.batch_size = 2048
    config.net.zero_init_residual = True
    config.optimizer = configs.lars(
        learning_rate=0.2, weight_decay=1e-6, warmup_epochs=10, end=1.6e-3
    )
    return config
  config.method.dim = 2048
  config.optimizer = configs.lars(
      learning_rate=0.3, weight_decay=1e-4, warmup_epochs=10
  )
  if name == "digits":
    config.method.update(dim=256, projector_layers=2)
    config.optimizer = configs.sgd(learning_rate=0.01, weight_decay=5e-4)
    config.augment = {"name": "digits"}
    del config.second_augment
  elif name in ("cifar10", "cifar100"):
    config.augment.update(scale=(0.2, 1.0), blur_probability=0.0)
    config.augment.solarize_probability = 0.1
    del config.second_augment
    config.optimizer.trust_coefficient = 0.02
  return config
