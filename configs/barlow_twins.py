"""Barlow Twins: two views correlate, dimensions do not.

  python -m jssl.train --config=configs/barlow_twins.py:digits --workdir=runs/bt

imagenet2012 as in the paper's code (Zbontar et al., 2021, 1000 epochs: batch
2048, LARS at 0.2 x batch / 256, 0.0048 x batch / 256 for biases and norms,
decay 1e-6). There each of the 16 GPUs of the published run has the gradient of
its share of the batch, and the mean is taken where the sum is right: the
gradient is the true one / 16. LARS scales that away for matrices, except that
their decay counts 16 times as much; biases and norms learn 16 times as slowly.
Ours is the true gradient, so optimizer.vector_rate is 0.0048 / 0.2 / 16 and
optimizer.weight_decay 16e-6. cifar10 as in lightly's CIFAR-10 benchmark: SGD at
0.06 x batch / 128, decay 5e-4, a projector of two layers of 2,048, no blur
(there 81.9% kNN at batch 512 and 84.2% at 128, each of the best of 200 epochs
on the test set). digits was tuned here for a short CPU run. Other data sets get
the recipe of cifar10 with the paper's augmentation.
"""

from jssl import config as configs


def get_config(dataset: str = "digits") -> configs.ConfigDict:
  """Returns the config for digits, a name of TFDS, or folder:PATH."""
  config = configs.base(dataset)
  config.method = {
      "name": "barlow_twins",
      "dim": 8192,
      "projector_layers": 3,
      "off_diagonal_weight": 0.005,
      "joint_statistics": False,
  }
  config.update(configs.byol_views(scale=(0.08, 1.0)))
  name = configs.set_name(dataset)
  if name == "imagenet2012":
    config.epochs = 1000.0
    config.batch_size = 2048
    config.net.zero_init_residual = True
    config.method.off_diagonal_weight = 0.0051
    config.optimizer = configs.lars(
        learning_rate=0.2, weight_decay=16e-6, warmup_epochs=10, end=1.6e-3
    )
    config.optimizer.vector_rate = 0.0048 / 0.2 / 16
    return config
  config.method.update(dim=2048, projector_layers=2)
  config.optimizer = configs.sgd(learning_rate=0.06, weight_decay=5e-4)
  if name == "digits":
    config.batch_size = 64
    config.method.dim = 128
    config.optimizer.learning_rate = 5e-4
    config.augment = {"name": "digits"}
    del config.second_augment
  elif name in ("cifar10", "cifar100"):
    config.update(
        configs.byol_views(scale=(0.08, 1.0), method="bilinear", blur=False)
    )
  return config
