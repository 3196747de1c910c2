"""SimMIM: paint masked patches, seen by the net as one token.

  python -m jssl.train --config=configs/simmim.py:digits --workdir=runs/simmim

imagenet2012 as in the paper's code (Xie et al., 2022) for ViT-B/16, 800 epochs:
batch 2048, AdamW at 1e-4 x batch / 512, decay 0.05, clipped at 5, 10 epochs of
warm-up from 2e-6, a drop at 700, squares of 32 pixels masked. The net
is BEiT's: one table of relative positions, layer scale, keys without bias; the
class token is there, but the mean of the patches is pooled, as in the paper's
fine-tuning. cifar10: ViT-Ti of patches of 4, squares of 8; not a published
recipe. digits was tuned here for a short CPU run. Other data sets get ViT-S.
"""

from jssl import config as configs


def get_config(dataset: str = "digits") -> configs.ConfigDict:
  """Returns the config for digits, a name of TFDS, or folder:PATH."""
  config = configs.base(dataset)
  config.net.update(
      name="vit_small",
      positions="relative",
      pooling="patches",
      layer_scale=0.1,
      key_bias=False,
      weight_init="simmim",
  )
  config.method = {"name": "simmim", "mask_ratio": 0.6, "mask_unit": 2}
  config.augment = {
      "name": "crop_and_flip",
      "scale": (0.67, 1.0),
      "method": "bilinear",
      "flip_probability": 0.5,
  }
  config.optimizer = configs.adamw(
      learning_rate=1e-4,
      reference_batch_size=512,
      weight_decay=0.05,
      warmup_epochs=10,
      clip_norm=5.0,
  )
  name = configs.set_name(dataset)
  if name == "imagenet2012":
    config.net.update(name="vit_base", drop_path=0.1)
    config.epochs = 800.0
    config.batch_size = 2048
    config.optimizer.exclude_names = ("class_token",)
    config.optimizer.schedule = configs.staircase(
        drops=(700 / 800,), warmup_epochs=10.0
    )
    config.optimizer.schedule.start = 2e-6
    return config
  config.optimizer.update(learning_rate=1e-3)
  if name == "digits":
    config.batch_size = 16
    config.net.update(name="vit_micro", patch_size=4, positions="sincos")
    config.net.update(
        pooling="mean", layer_scale=0.0, key_bias=True, weight_init="dino"
    )
    config.method.mask_unit = 1
    config.augment = {"name": "digits"}
    config.optimizer.learning_rate = 1.6e-2
    config.optimizer.schedule.warmup_epochs = 2.0
  elif name in ("cifar10", "cifar100"):
    config.net.name = "vit_tiny"
  return config
