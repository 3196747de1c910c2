"""MoCo v1: a queue of negatives and a momentum encoder.

  python -m jssl.train --config=moco_v1:digits --workdir=runs/moco_v1

digits, 15 epochs on two CPU cores: 27 s, kNN 0.969; tuned for such short runs.

imagenet2012 follows the paper (He et al., 2020; 200 epochs). cifar10 follows
MoCo's own CIFAR notebook, with the color jitter of v2 without blur. Other data
sets get the paper's recipe with a queue that suits thousands of images.
"""

from jssl.config import from_table, moco_view, sgd, staircase

get_config = from_table({
    "default": {
        # ShuffleBN needs groups: those of eight devices, on any number of them.
        "net.groups": 8,
        "method": {
            "name": "moco_v1",
            "dim": 128,
            "hidden_layers": 0,
            "hidden_dim": 0,
            "queue_size": 4096,
            "momentum": 0.99,
            "temperature": 0.07,
            "symmetric": False,
            "shuffle": True,
        },
        "augment": {
            "name": "moco_v1",
            "scale": (0.2, 1.0),
            "method": "bilinear",
        },
        "optimizer": sgd(
            learning_rate=0.03, reference_batch_size=256, weight_decay=1e-4
        ),
    },
    "imagenet2012": {
        "method.queue_size": 65536,
        "method.momentum": 0.999,
        "optimizer.schedule": staircase(drops=(120 / 200, 160 / 200)),
    },
    "cifar10": {
        "method.temperature": 0.1,
        "augment": moco_view(scale=(0.08, 1.0), blur_probability=0.0),
        "optimizer": sgd(
            learning_rate=0.06, reference_batch_size=512, weight_decay=5e-4
        ),
    },
    "digits": {
        "method.queue_size": 1024,
        "method.temperature": 0.3,
        "augment": {"name": "digits"},
        "optimizer": sgd(learning_rate=0.03, weight_decay=5e-4),
    },
})
