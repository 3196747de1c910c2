"""BYOL: predict the projection of a slowly following target network.

  python -m jssl.train --config=configs/byol.py:digits --workdir=runs/byol

imagenet2012 as in the paper (Grill et al., 2020, 300 epochs: batch 4096, LARS
at 0.3 x batch / 256, momentum 0.99 to 1), with the crops and the color
operations of its code. cifar10 as in lightly's CIFAR-10 benchmark, written for
the paper's loss, which is four times theirs: SGD at 0.015 x batch / 128, decay
2e-3, momentum 0.99, no blur (there 86.8% kNN at batch 512 and 86.9% at 128,
each of the best of 200 epochs on the test set). digits was tuned here for a
short CPU run. Other data sets get the recipe of cifar10 with the paper's
augmentation.
"""

from jssl import config as configs


def get_config(dataset: str = "digits") -> configs.ConfigDict:
  """Returns the config for digits, a name of TFDS, or folder:PATH."""
  config = configs.base(dataset)
  config.method = {
      "name": "byol",
      "dim": 256,
      "hidden_dim": 4096,
      "momentum": {"name": "cosine", "value": 0.99, "end": 1.0},
      "joint_statistics": False,
  }
  config.update(configs.byol_views(scale=(0.08, 1.0)))
  name = configs.set_name(dataset)
  if name == "imagenet2012":
    config.update(configs.byol_views(scale=(0.08, 1.0), operations="byol"))
    config.epochs = 300.0
    config.batch_size = 4096
    config.net.zero_init_residual = True
    config.optimizer = configs.lars(
        learning_rate=0.3, weight_decay=1e-6, warmup_epochs=10
    )
    return config
  config.method.hidden_dim = 1024
  config.optimizer = configs.sgd(learning_rate=0.015, weight_decay=2e-3)
  if name == "digits":
    config.batch_size = 64
    config.method.momentum.value = 0.8
    config.optimizer = configs.sgd(learning_rate=0.1, weight_decay=1e-4)
    config.augment = {"name": "digits"}
    del config.second_augment
  elif name in ("cifar10", "cifar100"):
    config.method.momentum.update(name="constant", value=0.99)
    config.update(
        configs.byol_views(scale=(0.08, 1.0), method="bilinear", blur=False)
    )
  return config
