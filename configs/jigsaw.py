"""Jigsaw: classify the order of the tiles of an image.

  python -m jssl.train --config=jigsaw:digits --workdir=runs/jigsaw

digits, 9 epochs on two CPU cores: 75 s; tuned for such short runs.

imagenet2012 follows the code of Kolesnikov et al. (2019) for ResNet-50 and 35
epochs: two of three images are gray, a dropout of 0.5 in the head, eight orders
of each image per step. Tiles of 64 pixels from images of 225 and 1,000 orders
are those of Noroozi and Favaro (2016); Kolesnikov et al. have images of 255 and
100 orders. cifar10 enlarges images to 48 pixels, so that tiles have 12; not a
published recipe. Other data sets get the learning rate of imagenet2012 with a
cosine schedule.
"""

from jssl.config import crop_and_flip, from_table, sgd, staircase

get_config = from_table({
    "default": {
        "method": {
            "name": "jigsaw",
            "permutations": 100,
            "puzzles": 8,
            "channel_shift": 2,
            "grayscale_probability": 0.66,
            "dim": 128,
            "hidden_dim": 1024,
            "dropout": 0.5,
        },
        "augment": crop_and_flip(scale=(0.3, 1.0)),
        "optimizer": sgd(
            learning_rate=0.1, reference_batch_size=256, weight_decay=1e-4
        ),
    },
    "imagenet2012": {
        "epochs": 35.0,
        "image_size": 225,
        "method.permutations": 1000,
        "method.dim": 512,
        "method.hidden_dim": 4096,
        "method.tile_size": 64,
        "optimizer.schedule": staircase(
            drops=(15 / 35, 25 / 35), warmup_epochs=5.0
        ),
    },
    "cifar10": {
        "image_size": 48,
        "method.tile_size": 12,
        "method.channel_shift": 1,
        "augment.scale": (0.6, 1.0),
        "optimizer.weight_decay": 5e-4,
    },
    "digits": {
        "epochs": 9.0,
        "batch_size": 64,
        "image_size": 18,
        "eval.every_epochs": 3.0,
        "method.dim": 64,
        "method.hidden_dim": 256,
        "method.tile_size": 5,
        "method.channel_shift": 0,
        "method.grayscale_probability": 0.0,
        "method.dropout": 0.0,
        "augment": {"name": "digits"},
        "optimizer.reference_batch_size": 64,
    },
})
