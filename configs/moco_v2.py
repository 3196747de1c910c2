"""MoCo v2: an MLP head, stronger augmentation and a cosine schedule.

  python -m jssl.train --config=configs/moco_v2.py:digits --workdir=runs/first

imagenet2012 as in the paper (Chen et al., 2020, 200 epochs). cifar10 as in
lightly's CIFAR-10 benchmark: rate 0.06 x batch / 128, decay 5e-4, temperature
0.1, momentum 0.99, 8,192 negatives at batch 512, symmetric loss, no blur (there
84.7% kNN, and 83.8% at batch 128 with 4,096 negatives, each of the best of 200
epochs on the test set). digits was tuned here for a short CPU run. Other data
sets get the paper's recipe with a queue that fits thousands of images.
"""

from jssl import config as configs


def get_config(dataset: str = "digits") -> configs.ConfigDict:
  """Returns the config for digits, a name of TFDS, or folder:PATH."""
  config = configs.base(dataset)
  # ShuffleBN needs groups: those of eight devices, on any number of them.
  config.net.groups = 8
  config.method = {
      "name": "moco_v2",
      "dim": 128,
      "hidden_layers": 1,
      "hidden_dim": 0,
      "queue_size": 65536,
      "momentum": 0.999,
      "temperature": 0.2,
      "symmetric": False,
      "shuffle": True,
  }
  config.augment = {
      "name": "moco_v2",
      "scale": (0.2, 1.0),
      "blur_probability": 0.5,
      "method": "bilinear",
  }
  config.optimizer = configs.sgd(
      learning_rate=0.03, reference_batch_size=256, weight_decay=1e-4
  )
  name = configs.set_name(dataset)
  if name == "imagenet2012":
    return config
  config.method.update(momentum=0.99, queue_size=4096)
  if name == "digits":
    config.method.update(queue_size=1024, temperature=0.3)
    config.augment = {"name": "digits"}
    config.optimizer.update(reference_batch_size=128, weight_decay=5e-4)
  elif name in ("cifar10", "cifar100"):
    config.method.update(queue_size=8192, temperature=0.1, symmetric=True)
    config.augment.update(scale=(0.08, 1.0), blur_probability=0.0)
    config.optimizer.update(
        learning_rate=0.06, reference_batch_size=128, weight_decay=5e-4
    )
  return config
