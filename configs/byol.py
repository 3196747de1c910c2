"""BYOL: predict the projection of a slowly following target network.

  python -m jssl.train --config=byol:digits --workdir=runs/byol

digits, 15 epochs on two CPU cores: 109 s, kNN 0.933; tuned for such short runs.

imagenet2012 follows the paper (Grill et al., 2020; 300 epochs), with the crops
and the color operations of its code. cifar10 follows lightly's CIFAR-10
benchmark (there 86.8% kNN at batch 512 and 86.9% at 128, each of the best of
200 epochs on the test set); its learning rate and weight decay are for the
paper's loss, which is four times lightly's. Other data sets get the recipe of
cifar10 with the paper's augmentation.
"""

from jssl.config import byol_views, from_table, lars, sgd

get_config = from_table({
    "default": {
        "method": {
            "name": "byol",
            "dim": 256,
            "hidden_dim": 1024,
            "momentum": {"name": "cosine", "value": 0.99, "end": 1.0},
            "joint_statistics": False,
        },
        "optimizer": sgd(learning_rate=0.015, weight_decay=2e-3),
        **byol_views(scale=(0.08, 1.0)),
    },
    "imagenet2012": {
        "epochs": 300.0,
        "batch_size": 4096,
        "net.zero_init_residual": True,
        "method.hidden_dim": 4096,
        "optimizer": lars(
            learning_rate=0.3, weight_decay=1e-6, warmup_epochs=10
        ),
        **byol_views(scale=(0.08, 1.0), operations="byol"),
    },
    "cifar10": {
        "method.momentum.name": "constant",
        **byol_views(scale=(0.08, 1.0), method="bilinear", blur=False),
    },
    "digits": {
        "batch_size": 64,
        "method.momentum.value": 0.8,
        "optimizer": sgd(learning_rate=0.1, weight_decay=1e-4),
        "augment": {"name": "digits"},
        "second_augment": None,
    },
})
