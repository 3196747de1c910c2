"""I-JEPA: predict the features of blocks of patches from other patches.

  python -m jssl.train --config=ijepa:digits --workdir=runs/ijepa

imagenet2012 follows the paper for ViT-B/16 (Assran et al., 2023; 600 epochs).
cifar10 gets a ViT-Ti with patches of 4 pixels, not a published recipe. digits
was tuned for a short run on a CPU; its features gain little in the first 15 of
the 50 epochs. Other data sets get a ViT-S.
"""

from jssl.config import adamw, crop_and_flip, from_table

get_config = from_table({
    "default": {
        "net.name": "vit_small",
        "net.positions": "sincos",
        "net.pooling": "mean",
        "net.weight_init": "ijepa",
        "method": {
            "name": "ijepa",
            "targets": 4,
            "target_scale": (0.15, 0.2),
            "target_aspect": (0.75, 1.5),
            "context_scale": (0.85, 1.0),
            "context_limit": 0.26,
            "min_keep": 4,
            "to_edges": True,
            "predictor_width": 96,
            "predictor_depth": 3,
            "predictor_heads": 3,
            "momentum": {"name": "cosine", "value": 0.99, "end": 1.0},
        },
        "augment": crop_and_flip(scale=(0.3, 1.0), flip_probability=0.0),
        "optimizer": adamw(
            learning_rate=1e-3,
            reference_batch_size=512,
            weight_decay={"name": "cosine", "value": 0.04, "end": 0.4},
            warmup_epochs=10,
            end=1e-6,
        ),
    },
    "imagenet2012": {
        "epochs": 600.0,
        "batch_size": 2048,
        "net.name": "vit_base",
        "method.min_keep": 10,
        "method.to_edges": False,
        "method.predictor_width": 384,
        "method.predictor_depth": 6,
        "method.predictor_heads": 12,
        "method.momentum": {"name": "linear", "start": 0.996, "value": 1.0},
        "optimizer.reference_batch_size": 2048,
        "optimizer.schedule.warmup_epochs": 40.0,
        "optimizer.schedule.start": 2e-4,
    },
    "cifar10": {"net.name": "vit_tiny"},
    "digits": {
        "batch_size": 16,
        "net.name": "vit_micro",
        "net.patch_size": 4,
        "method.context_limit": 0.57,
        "method.min_keep": 1,
        "method.predictor_depth": 1,
        "augment": {"name": "digits"},
        "optimizer.learning_rate": 4e-3,
        "optimizer.schedule.warmup_epochs": 2.0,
    },
})
