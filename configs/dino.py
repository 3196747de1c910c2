"""DINO: self-distillation without labels, with multi-crop.

  python -m jssl.train --config=configs/dino.py:digits --workdir=runs/dino

imagenet2012 as in the paper for ViT-S/16 (Caron et al., 2021, 100 epochs: batch
1024, AdamW at 5e-4 x batch / 256, decay 0.04 to 0.4, two views of 224 and eight
of 96, the gradient of each parameter clipped at 3). For 300 epochs its code
adds method.norm_last_layer=False. cifar10 as in lightly's CIFAR-10 benchmark:
ResNet-18, SGD at 0.06 x batch / 128, decay 5e-4, momentum 0.99, 2,048
prototypes, a projector of two layers with BatchNorm, two views, no blur,
BatchNorm statistics of each view (there 81.3% kNN at batch 512 and 84.0% at
128, each of the best of 200 epochs on the test set). digits was tuned here for
a short CPU run: in some hundred steps the teacher has to be quick, so the
centre is that of the last batch, and the teacher sharp from the start; with the
usual centre either one prototype wins or all scores become equal. Other data
sets get the recipe of cifar10 with the paper's augmentation.
"""

from jssl import config as configs


def get_config(dataset: str = "digits") -> configs.ConfigDict:
  """Returns the config for digits, a name of TFDS, or folder:PATH."""
  config = configs.base(dataset)
  config.method = {
      "name": "dino",
      "local_views": 8,
      "dim": 256,
      "hidden_dim": 2048,
      "projector_layers": 3,
      "projector_norm": False,
      "prototypes": 65536,
      "norm_last_layer": True,
      "student_temperature": 0.1,
      "teacher_temperature": {
          "name": "linear",
          "start": 0.04,
          "value": 0.07,
          "warmup_epochs": 30.0,
      },
      "momentum": {"name": "cosine", "value": 0.996, "end": 1.0},
      "center_momentum": 0.9,
      "frozen_epochs": 1.0,
      "joint_statistics": True,
  }
  config.update(configs.byol_views(scale=(0.4, 1.0)))
  config.local_augment = {
      "name": "byol",
      "size": 96,
      "scale": (0.05, 0.4),
      "method": "bicubic",
      "operations": "torchvision",
      "blur_probability": 0.5,
      "solarize_probability": 0.0,
  }
  name = configs.set_name(dataset)
  if name == "imagenet2012":
    config.epochs = 100.0
    config.batch_size = 1024
    config.net.update(name="vit_small", drop_path=0.1)
    config.optimizer = configs.adamw(
        learning_rate=5e-4,
        reference_batch_size=256,
        weight_decay={"name": "cosine", "value": 0.04, "end": 0.4},
        warmup_epochs=10,
        end=1e-6,
        clip_norm=3.0,
    )
    config.optimizer.clip_per_parameter = True
    return config
  config.method.update(projector_layers=2, projector_norm=True, prototypes=2048)
  config.local_augment.size = 64
  config.optimizer = configs.sgd(learning_rate=0.06, weight_decay=5e-4)
  if name == "digits":
    config.batch_size = 64
    config.method.update(
        local_views=0,
        dim=64,
        hidden_dim=256,
        prototypes=256,
        center_momentum=0.0,
        frozen_epochs=0.0,
    )
    config.method.momentum.value = 0.97
    config.method.teacher_temperature.update(value=0.03, warmup_epochs=0.0)
    config.augment = {"name": "digits"}
    del config.second_augment
    del config.local_augment  # A part of a digit is often another digit.
  elif name in ("cifar10", "cifar100"):
    config.method.update(
        local_views=0, frozen_epochs=0.0, joint_statistics=False
    )
    config.method.teacher_temperature.update(value=0.04, warmup_epochs=0.0)
    config.method.momentum.update(name="constant", value=0.99)
    config.update(
        configs.byol_views(scale=(0.4, 1.0), method="bilinear", blur=False)
    )
    del config.local_augment
  return config
