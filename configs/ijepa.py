"""I-JEPA: predict the features of blocks of patches from others.

  python -m jssl.train --config=configs/ijepa.py:digits --workdir=runs/ijepa

imagenet2012 as in the paper (Assran et al., 2023) for ViT-B/16, 600 epochs:
batch 2048, AdamW at 1e-3, decay 0.04 to 0.4, 40 epochs of warm-up from 2e-4,
crops without flips. cifar10: ViT-Ti of patches of 4 with a predictor of three
blocks, not a published recipe. digits was tuned here for a short CPU run; its
features gain little in the first 15 of the 50 epochs. Other data sets get
ViT-S.
"""

from jssl import config as configs


def get_config(dataset: str = "digits") -> configs.ConfigDict:
  """Returns the config for digits, a name of TFDS, or folder:PATH."""
  config = configs.base(dataset)
  config.net.update(
      name="vit_small", positions="sincos", pooling="mean", weight_init="ijepa"
  )
  config.method = {
      "name": "ijepa",
      "targets": 4,
      "target_scale": (0.15, 0.2),
      "target_aspect": (0.75, 1.5),
      "context_scale": (0.85, 1.0),
      "context_limit": 0.26,
      "min_keep": 10,
      "to_edges": True,
      "predictor_width": 384,
      "predictor_depth": 6,
      "predictor_heads": 12,
      "momentum": {"name": "linear", "start": 0.996, "value": 1.0},
  }
  config.augment = {
      "name": "crop_and_flip",
      "scale": (0.3, 1.0),
      "method": "bilinear",
      "flip_probability": 0.0,
  }
  config.optimizer = configs.adamw(
      learning_rate=1e-3,
      reference_batch_size=2048,
      weight_decay={"name": "cosine", "value": 0.04, "end": 0.4},
      warmup_epochs=40,
      end=1e-6,
  )
  name = configs.set_name(dataset)
  if name == "imagenet2012":
    config.net.name = "vit_base"
    config.epochs = 600.0
    config.batch_size = 2048
    config.optimizer.schedule.start = 2e-4
    config.method.to_edges = False
    return config
  config.method.update(predictor_width=96, predictor_depth=3, predictor_heads=3)
  config.method.min_keep = 4
  config.method.momentum = {"name": "cosine", "value": 0.99, "end": 1.0}
  config.optimizer.update(learning_rate=1e-3, reference_batch_size=512)
  config.optimizer.schedule.warmup_epochs = 10.0
  if name == "digits":
    config.batch_size = 16
    config.net.update(name="vit_micro", patch_size=4)
    config.method.update(predictor_depth=1, min_keep=1, context_limit=0.57)
    config.augment = {"name": "digits"}
    config.optimizer.learning_rate = 4e-3
    config.optimizer.schedule.warmup_epochs = 2.0
  elif name in ("cifar10", "cifar100"):
    config.net.name = "vit_tiny"
  return config
