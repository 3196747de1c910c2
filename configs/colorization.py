"""Colorization: predict the colors of a gray image.

  python -m jssl.train --config=colorization:photos --workdir=runs/colorization

photos, 20 epochs on two CPU cores: 73 s. digits has no colors.

The loss is the paper's (Zhang et al., 2016); its VGG-like net and 450,000 steps
of Adam are replaced by a ResNet and AdamW, which is not a published recipe.
"""

from jssl.config import adamw, crop_and_flip, from_table

get_config = from_table(
    {
        "default": {
            "method": {
                "name": "colorization",
                "loss": "classification",
                "stride": 4,
                "rebalance": 0.5,
                "decode_temperature": 0.38,
                "decoder_width": 64,
            },
            "augment": crop_and_flip(scale=(0.2, 1.0)),
            "optimizer": adamw(
                learning_rate=1e-3, weight_decay=1e-3, warmup_epochs=1
            ),
        },
        "imagenet2012": {"epochs": 100.0},
        "cifar10": {"method.stride": 2},
        "photos": {
            "epochs": 20.0,
            "method.decoder_width": 32,
            "augment.scale": (0.5, 1.0),
            "optimizer.learning_rate": 8e-3,
        },
    },
    default="photos",
)
