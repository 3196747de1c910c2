"""MoCo v3: the negatives are the batch, the key encoder stays.

  python -m jssl.train --config=configs/moco_v3.py:digits --workdir=runs/moco_v3

imagenet2012 as in the paper's code for ResNet-50 (Chen et al., 2021, 300
epochs: batch 4096, LARS at 0.3 x batch / 256, temperature 1); for transformers
there is configs/moco_v3_vit.py. cifar10: SGD, temperature and augmentation of
configs/moco_v2.py with this method's heads; not a published recipe. digits was
tuned here for a short CPU run. Other data sets get the recipe of cifar10 with
the paper's augmentation.
"""

from jssl import config as configs


def get_config(dataset: str = "digits") -> configs.ConfigDict:
  """Returns the config for digits, a name of TFDS, or folder:PATH."""
  config = configs.base(dataset)
  config.net.weight_init = "moco_v3"
  config.method = {
      "name": "moco_v3",
      "dim": 256,
      "hidden_dim": 4096,
      "projector_layers": 2,
      "predictor_norm": False,
      "momentum": {"name": "cosine", "value": 0.99, "end": 1.0},
      "temperature": 1.0,
      "freeze_patch": True,
      "joint_statistics": False,
  }
  config.update(configs.byol_views(scale=(0.2, 1.0), method="bilinear"))
  name = configs.set_name(dataset)
  if name == "imagenet2012":
    config.epochs = 300.0
    config.batch_size = 4096
    config.net.zero_init_residual = True
    config.optimizer = configs.lars(
        learning_rate=0.3, weight_decay=1e-6, warmup_epochs=10
    )
    return config
  config.method.update(hidden_dim=1024, temperature=0.2)
  config.optimizer = configs.sgd(learning_rate=0.06, weight_decay=5e-4)
  if name == "digits":
    config.method.update(dim=64, hidden_dim=256)
    config.augment = {"name": "digits"}
    del config.second_augment
  elif name in ("cifar10", "cifar100"):
    config.update(
        configs.byol_views(scale=(0.08, 1.0), method="bilinear", blur=False)
    )
  return config
