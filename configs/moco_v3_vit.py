"""MoCo v3 for vision transformers.

  python -m jssl.train --config=moco_v3_vit:imagenet2012 --workdir=runs/vit

imagenet2012 follows the paper's code for ViT-S/16 (Chen et al., 2021; 300
epochs at batch 4096): 12 heads, and a patch projection that is never trained.
Its ViT-B has the same recipe: net.name=vit_base. Other data sets get the
augmentation and the heads of moco_v3 with small transformers; these are neither
published recipes nor tuned.
"""

import functools

from jssl.config import adamw, from_table, of_method

get_config = from_table(
    {
        "default": {
            "net.name": "vit_small",
            "net.positions": "sincos",
            "net.heads": 12,
            "method.projector_layers": 3,
            "method.predictor_norm": True,
            "method.temperature": 0.2,
            "optimizer": adamw(
                learning_rate=1e-3, weight_decay=0.1, warmup_epochs=10
            ),
            "optimizer.exclude_vectors": False,
        },
        "imagenet2012": {
            "augment.scale": (0.08, 1.0),
            "second_augment.scale": (0.08, 1.0),
            "optimizer.learning_rate": 1.5e-4,
            "optimizer.schedule.warmup_epochs": 40.0,
        },
        "cifar10": {"net.name": "vit_tiny", "net.heads": 0},
        "digits": {
            "net.name": "vit_micro",
            "net.heads": 0,
            "optimizer.schedule.warmup_epochs": 2.0,
        },
    },
    start=functools.partial(of_method, "moco_v3"),
)
