"""SwAV: swapped prediction of cluster assignments, with multi-crop.

  python -m jssl.train --config=configs/swav.py:digits --workdir=runs/swav

imagenet2012 as in the paper (Caron et al., 2020, 200 epochs: batch 4096, LARS
at 0.3 x batch / 256, of biases and norms too, two views of 224 and six of 96,
prototypes frozen for an epoch). For batches of 256 the paper adds
method.queue_size=3840 from epoch 15 on, at a learning rate of 0.6 without
warm-up: optimizer.learning_rate=0.6, optimizer.schedule.warmup_epochs=0 and
optimizer.schedule.end=6e-4. cifar10 as in lightly's CIFAR-10 benchmark: Adam at
1e-3 x batch / 128, 512 prototypes, two views, no blur, BatchNorm statistics of
each view (there 84.2% kNN at batch 512 and 81.2% at 128, each of the best of
200 epochs on the test set). digits was tuned here for a short CPU run. Other
data sets get the recipe of cifar10 with the paper's augmentation.
"""

from jssl import config as configs


def get_config(dataset: str = "digits") -> configs.ConfigDict:
  """Returns the config for digits, a name of TFDS, or folder:PATH."""
  config = configs.base(dataset)
  config.method = {
      "name": "swav",
      "local_views": 6,
      "dim": 128,
      "hidden_dim": 2048,
      "prototypes": 3000,
      "temperature": 0.1,
      "epsilon": 0.05,
      "iterations": 3,
      "queue_size": 0,
      "queue_start_epochs": 15.0,
      "frozen_epochs": 1.0,
      "joint_statistics": True,
  }
  config.augment = {
      "name": "simclr",
      "scale": (0.14, 1.0),
      "strength": 1.0,
      "blur_probability": 0.5,
      "method": "bilinear",
      "operations": "torchvision",
  }
  config.local_augment = {
      "name": "simclr",
      "size": 96,
      "scale": (0.05, 0.14),
      "strength": 1.0,
      "blur_probability": 0.5,
      "method": "bilinear",
      "operations": "torchvision",
  }
  name = configs.set_name(dataset)
  if name == "imagenet2012":
    config.batch_size = 4096
    config.optimizer = configs.lars(
        learning_rate=0.3, weight_decay=1e-6, warmup_epochs=10, end=4.8e-3
    )
    config.optimizer.name = "larc"
    config.optimizer.schedule.start = 0.3
    return config
  config.method.update(prototypes=512, hidden_dim=512)
  config.local_augment.size = 64
  config.optimizer = configs.adamw(
      learning_rate=1e-3, reference_batch_size=128, weight_decay=1e-6
  )
  if name == "digits":
    config.batch_size = 64
    config.method.update(
        local_views=0,
        dim=64,
        hidden_dim=256,
        prototypes=64,
        frozen_epochs=0.0,
    )
    config.augment = {"name": "digits"}
    del config.local_augment
    config.optimizer.learning_rate = 4e-3
  elif name in ("cifar10", "cifar100"):
    config.method.update(
        local_views=0, frozen_epochs=0.0, joint_statistics=False
    )
    config.augment.update(strength=0.5, blur_probability=0.0)
    del config.local_augment
  return config
