"""Rotation: classify by how many quarter turns an image is rotated.

  python -m jssl.train --config=rotation:digits --workdir=runs/rotation

digits, 12 epochs on two CPU cores: 113 s, kNN 0.955; tuned for such short runs.

imagenet2012 follows the code of Kolesnikov et al. (2019), with ResNet-50 for
its RevNet-50 and 35 epochs. cifar10 follows the paper's code (Gidaris et al.,
2018), with ResNet-18 for its network in network: windows of 32 pixels of the
picture padded by 4, Nesterov momentum, and a learning rate that drops by 0.2 at
60, 120 and 160 of 200 epochs. Other data sets get the learning rate of
imagenet2012 with a cosine schedule.
"""

from jssl.config import crop_and_flip, from_table, sgd, staircase

get_config = from_table({
    "default": {
        "method": {"name": "rotation"},
        "augment": crop_and_flip(scale=(0.08, 1.0)),
        "optimizer": sgd(
            learning_rate=0.1, reference_batch_size=256, weight_decay=1e-4
        ),
    },
    "imagenet2012": {
        "epochs": 35.0,
        "optimizer.schedule": staircase(
            drops=(15 / 35, 25 / 35), warmup_epochs=5.0
        ),
    },
    "cifar10": {
        "batch_size": 128,
        "augment": {"name": "pad_crop_and_flip", "padding": 4},
        "optimizer": sgd(learning_rate=0.1, weight_decay=5e-4, nesterov=True),
        "optimizer.schedule": staircase(
            drops=(60 / 200, 120 / 200, 160 / 200), factor=0.2
        ),
    },
    "digits": {
        "epochs": 12.0,
        "batch_size": 64,
        "eval.every_epochs": 6.0,
        # No slant, which would tell the two axes apart.
        "augment": {"name": "digits", "shear": 0.0},
        "optimizer.reference_batch_size": 64,
    },
})
