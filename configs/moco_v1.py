"""MoCo v1: a queue of negatives and a momentum encoder.

  python -m jssl.train --config=configs/moco_v1.py:digits --workdir=runs/first

imagenet2012 as in the paper (He et al., 2020, 200 epochs, rate x 0.1 at 120 and
160). cifar10 as in MoCo's own CIFAR notebook: ResNet-18, linear head, batch 512
at rate 0.06, cosine, decay 5e-4, temperature 0.1, momentum 0.99, 4,096
negatives, and the color jitter of v2 without blur. digits was tuned here for a
short CPU run. Other data sets get the paper's recipe with a queue that fits
thousands of images.
"""

from jssl import config as configs


def get_config(dataset: str = "digits") -> configs.ConfigDict:
  """Returns the config for digits, a name of TFDS, or folder:PATH."""
  config = configs.base(dataset)
  # ShuffleBN needs groups: those of eight devices, on any number of them.
  config.net.groups = 8
  config.method = {
      "name": "moco_v1",
      "dim": 128,
      "hidden_layers": 0,
      "hidden_dim": 0,
      "queue_size": 65536,
      "momentum": 0.999,
      "temperature": 0.07,
      "symmetric": False,
      "shuffle": True,
  }
  config.augment = {
      "name": "moco_v1",
      "scale": (0.2, 1.0),
      "method": "bilinear",
  }
  config.optimizer = configs.sgd(
      learning_rate=0.03, reference_batch_size=256, weight_decay=1e-4
  )
  name = configs.set_name(dataset)
  if name == "imagenet2012":
    config.optimizer.schedule = configs.staircase(drops=(120 / 200, 160 / 200))
    return config
  config.method.update(momentum=0.99, queue_size=4096)
  if name == "digits":
    config.method.update(queue_size=1024, temperature=0.3)
    config.augment = {"name": "digits"}
    config.optimizer.update(reference_batch_size=128, weight_decay=5e-4)
  elif name in ("cifar10", "cifar100"):
    config.method.update(temperature=0.1)
    config.augment = {
        "name": "moco_v2",
        "scale": (0.08, 1.0),
        "blur_probability": 0.0,
        "method": "bilinear",
    }
    config.optimizer.update(
        learning_rate=0.06, reference_batch_size=512, weight_decay=5e-4
    )
  return config
