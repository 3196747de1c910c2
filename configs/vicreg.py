"""VICReg: invariance, variance and covariance, each with a term of its own.

  python -m jssl.train --config=vicreg:digits --workdir=runs/vicreg

digits, 15 epochs on two CPU cores: 82 s, kNN 0.966; tuned for such short runs.

imagenet2012 follows the paper (Bardes et al., 2022; 1000 epochs). cifar10
follows solo-learn's recipe (for 1000 epochs), except that solo-learn limits the
trust ratio of LARS. Other data sets get the recipe of cifar10 with the paper's
augmentation.
"""

from jssl.config import byol_views, from_table, lars, sgd

get_config = from_table({
    "default": {
        "method": {
            "name": "vicreg",
            "dim": 2048,
            "projector_layers": 3,
            "invariance": 25.0,
            "variance": 25.0,
            "covariance": 1.0,
            "joint_statistics": False,
        },
        "optimizer": lars(
            learning_rate=0.3, weight_decay=1e-4, warmup_epochs=10
        ),
        **byol_views(scale=(0.08, 1.0)),
    },
    "imagenet2012": {
        "epochs": 1000.0,
        "batch_size": 2048,
        "net.zero_init_residual": True,
        "method.dim": 8192,
        "optimizer": lars(
            learning_rate=0.2, weight_decay=1e-6, warmup_epochs=10, end=1.6e-3
        ),
    },
    "cifar10": {
        "augment.scale": (0.2, 1.0),
        "augment.blur_probability": 0.0,
        "augment.solarize_probability": 0.1,
        "second_augment": None,
        "optimizer.trust_coefficient": 0.02,
    },
    "digits": {
        "method.dim": 256,
        "method.projector_layers": 2,
        "optimizer": sgd(learning_rate=0.01, weight_decay=5e-4),
        "augment": {"name": "digits"},
        "second_augment": None,
    },
})
