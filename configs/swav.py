"""SwAV: swapped prediction of cluster assignments, with multi-crop.

  python -m jssl.train --config=swav:digits --workdir=runs/swav

imagenet2012 follows the paper (Caron et al., 2020; 200 epochs): LARS for biases
and norms too, two global views of 224 pixels and six local ones of 96. For
batches of 256 the paper adds method.queue_size=3840 from epoch 15 on, at a
learning rate of 0.6 without warm-up: optimizer.learning_rate=0.6,
optimizer.schedule.warmup_epochs=0 and optimizer.schedule.end=6e-4.

cifar10 follows lightly's CIFAR-10 benchmark, with BatchNorm statistics of each
view (there 84.2% kNN at batch 512 and 81.2% at 128, each of the best of 200
epochs on the test set). digits was tuned for a short run on a CPU. Other data
sets get the recipe of cifar10 with the paper's augmentation.
"""

from jssl.config import adamw, from_table, lars, simclr_view

get_config = from_table({
    "default": {
        "method": {
            "name": "swav",
            "local_views": 6,
            "dim": 128,
            "hidden_dim": 512,
            "prototypes": 512,
            "temperature": 0.1,
            "epsilon": 0.05,
            "iterations": 3,
            "queue_size": 0,
            "queue_start_epochs": 15.0,
            "frozen_epochs": 1.0,
            "joint_statistics": True,
        },
        "augment": simclr_view(scale=(0.14, 1.0)),
        "local_augment": {**simclr_view(scale=(0.05, 0.14)), "size": 64},
        "optimizer": adamw(
            learning_rate=1e-3, reference_batch_size=128, weight_decay=1e-6
        ),
    },
    "imagenet2012": {
        "batch_size": 4096,
        "method.hidden_dim": 2048,
        "method.prototypes": 3000,
        "local_augment.size": 96,
        "optimizer": lars(
            learning_rate=0.3, weight_decay=1e-6, warmup_epochs=10, end=4.8e-3
        ),
        "optimizer.name": "larc",
        "optimizer.schedule.start": 0.3,
    },
    "cifar10": {
        "method.local_views": 0,
        "method.frozen_epochs": 0.0,
        "method.joint_statistics": False,
        "augment.strength": 0.5,
        "augment.blur_probability": 0.0,
        "local_augment": None,
    },
    "digits": {
        "batch_size": 64,
        "method.local_views": 0,
        "method.dim": 64,
        "method.hidden_dim": 256,
        "method.prototypes": 64,
        "method.frozen_epochs": 0.0,
        "augment": {"name": "digits"},
        "local_augment": None,
        "optimizer.learning_rate": 4e-3,
    },
})
