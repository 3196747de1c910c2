"""MoCo v2 (Chen et al., 2020).

  python -m jssl.train --config=configs/moco_v2.py:digits --workdir=runs/first
"""

from jssl import config as configs


def get_config(dataset: str = "digits"):
  """Returns the config for a data set: digits, a TFDS name, or folder:PATH."""
  config = configs.base(dataset)
  config.method = dict(
      name="moco_v2", dim=128, queue_size=65536, momentum=0.999, temperature=0.2, symmetric=False
  )
  config.augment = dict(name="moco_v2", blur_probability=0.5)
  config.optimizer = dict(
      name="sgd", learning_rate=0.03, reference_batch_size=256, momentum=0.9, weight_decay=1e-4,
      schedule=dict(name="cosine", warmup_epochs=0),
  )
  if dataset == "digits":
    config.method.update(queue_size=1024, momentum=0.99, temperature=0.1)
    config.augment = dict(name="digits")
    config.optimizer.update(learning_rate=0.06, reference_batch_size=128, weight_decay=5e-4)
  return config
