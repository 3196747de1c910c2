r"""MoCo v3 for vision transformers.

  python -m jssl.train --config=configs/moco_v3_vit.py:imagenet2012 \
    --workdir=runs/moco_v3_vit

imagenet2012 as in the paper's code for ViT-S/16 (Chen et al., 2021, 300 epochs:
batch 4096, AdamW at 1.5e-4 x batch / 256, decay 0.1 of all parameters, 40
epochs of warm-up, temperature 0.2, crops from 0.08, 12 heads, a patch
projection that stays as it was drawn). Its ViT-B has the same recipe:
net.name=vit_base. Other data sets get the augmentation and the heads of
configs/moco_v3.py with small transformers; not published recipes, nor tuned.
"""

from jssl import config as configs


def get_config(dataset: str = "digits") -> configs.ConfigDict:
  """Returns the config for digits, a name of TFDS, or folder:PATH."""
  config = configs.of_method("moco_v3", dataset)
  config.net.update(name="vit_small", positions="sincos", heads=12)
  config.method.update(projector_layers=3, predictor_norm=True, temperature=0.2)
  config.optimizer = configs.adamw(
      learning_rate=1.5e-4, weight_decay=0.1, warmup_epochs=40
  )
  config.optimizer.exclude_vectors = False
  name = configs.set_name(dataset)
  if name == "imagenet2012":
    config.augment.scale = (0.08, 1.0)
    config.second_augment.scale = (0.08, 1.0)
    return config
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule.warmup_epochs = 10.0
  if name == "digits":
    config.net.update(name="vit_micro", heads=0)
    config.optimizer.schedule.warmup_epochs = 2.0
  elif name in ("cifar10", "cifar100"):
    config.net.update(name="vit_tiny", heads=0)
  return config
