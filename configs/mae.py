"""MAE: reconstruct three quarters of the patches from the others.

  python -m jssl.train --config=mae:digits --workdir=runs/mae

digits, 50 epochs on two CPU cores: 103 s, kNN 0.953; tuned for such short runs.

imagenet2012 follows the paper for ViT-B/16 (He et al., 2022; 800 epochs).
cifar10 gets a ViT-Ti with patches of 4 pixels and a decoder of its width with
two blocks, not a published recipe. Other data sets get a ViT-S and the decoder
of cifar10.
"""

from jssl.config import adamw, crop_and_flip, from_table

get_config = from_table({
    "default": {
        "net.name": "vit_small",
        "net.positions": "sincos",
        "net.pooling": "mean",
        "net.weight_init": "mae",
        "method": {
            "name": "mae",
            "mask_ratio": 0.75,
            "normalize": True,
            "decoder_width": 192,
            "decoder_depth": 2,
            "decoder_heads": 3,
        },
        "augment": crop_and_flip(scale=(0.2, 1.0), method="bicubic"),
        "optimizer": adamw(
            learning_rate=1.5e-4, weight_decay=0.05, warmup_epochs=10
        ),
        "optimizer.b2": 0.95,
    },
    "imagenet2012": {
        "epochs": 800.0,
        "batch_size": 4096,
        "net.name": "vit_base",
        "net.pooling": "token",
        "method.decoder_width": 512,
        "method.decoder_depth": 8,
        "method.decoder_heads": 16,
        "optimizer.schedule.warmup_epochs": 40.0,
    },
    "cifar10": {"net.name": "vit_tiny"},
    "digits": {
        "batch_size": 16,
        "net.name": "vit_micro",
        "method.decoder_width": 96,
        "method.decoder_depth": 1,
        "augment": {"name": "digits"},
        "optimizer.learning_rate": 8e-3,
        "optimizer.schedule.warmup_epochs": 2.0,
    },
})
