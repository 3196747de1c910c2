"""SimMIM: reconstruct masked patches, which the net sees as one token.

  python -m jssl.train --config=simmim:digits --workdir=runs/simmim

digits, 50 epochs on two CPU cores: 65 s, kNN 0.861; tuned for such short runs.

imagenet2012 follows the paper's code for ViT-B/16 (Xie et al., 2022; 800
epochs). The net is BEiT's: one table of relative positions, layer scale, keys
without bias; the class token is there, but the mean of the patches is pooled,
as in the paper's fine-tuning. cifar10 gets a ViT-Ti with patches of 4 pixels
and masked squares of 8, not a published recipe. Other data sets get a ViT-S.
"""

from jssl.config import adamw, crop_and_flip, from_table, staircase

get_config = from_table({
    "default": {
        "net.name": "vit_small",
        "net.positions": "relative",
        "net.pooling": "patches",
        "net.layer_scale": 0.1,
        "net.key_bias": False,
        "net.weight_init": "simmim",
        "method": {"name": "simmim", "mask_ratio": 0.6, "mask_unit": 2},
        "augment": crop_and_flip(scale=(0.67, 1.0)),
        "optimizer": adamw(
            learning_rate=1e-3,
            reference_batch_size=512,
            weight_decay=0.05,
            warmup_epochs=10,
            clip_norm=5.0,
        ),
    },
    "imagenet2012": {
        "epochs": 800.0,
        "batch_size": 2048,
        "net.name": "vit_base",
        "net.drop_path": 0.1,
        "optimizer.learning_rate": 1e-4,
        "optimizer.exclude_names": ("class_token",),
        "optimizer.schedule": staircase(drops=(700 / 800,), warmup_epochs=10.0),
        "optimizer.schedule.start": 2e-6,
    },
    "cifar10": {"net.name": "vit_tiny"},
    "digits": {
        "batch_size": 16,
        "net.name": "vit_micro",
        "net.patch_size": 4,
        "net.positions": "sincos",
        "net.pooling": "mean",
        "net.layer_scale": 0.0,
        "net.key_bias": True,
        "net.weight_init": "dino",
        "method.mask_unit": 1,
        "augment": {"name": "digits"},
        "optimizer.learning_rate": 1.6e-2,
        "optimizer.schedule.warmup_epochs": 2.0,
    },
})
