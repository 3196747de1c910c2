"""SupCon: contrastive learning with labels, an upper reference.

  python -m jssl.train --config=supcon:digits --workdir=runs/supcon

Unlike all other methods here it learns from the labels of the training images,
and refuses data without labels. cifar10 follows the paper's code (Khosla et
al., 2020), with the jitter of MoCo v2 without blur; its learning rate and
weight decay are for the paper's loss, which the code multiplies by 0.1 / 0.07.
digits was tuned for a short run on a CPU. Other data sets get the recipe of
cifar10 with SimCLR's augmentation.
"""

from jssl.config import from_table, moco_view, sgd, simclr_view

get_config = from_table({
    "default": {
        "method": {
            "name": "supcon",
            "dim": 128,
            "hidden_layers": 1,
            "temperature": 0.1,
            "joint_statistics": True,
        },
        "augment": simclr_view(),
        "optimizer": sgd(
            learning_rate=0.5 / 0.7,
            reference_batch_size=1024,
            weight_decay=0.7e-4,
            warmup_epochs=10,
        ),
    },
    "cifar10": {"augment": moco_view(blur_probability=0.0)},
    "digits": {
        "augment": {"name": "digits"},
        "optimizer": sgd(learning_rate=0.03, weight_decay=5e-4),
    },
})
