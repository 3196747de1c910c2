"""SimSiam: two views, a predictor, and a stop-gradient.

  python -m jssl.train --config=simsiam:digits --workdir=runs/simsiam

digits, 15 epochs on two CPU cores: 54 s, kNN 0.939; tuned for such short runs.

imagenet2012 follows the paper (Chen and He, 2021; 200 epochs at batch 256),
with a constant learning rate for the predictor. cifar10 follows its appendix D.
(lightly's CIFAR-10 benchmark, with recipes of its own, reports 76.4% kNN at
batch 512 and 81.9% at 128, each of the best of 200 epochs on the test set.)
Other data sets get the recipe of cifar10 with the paper's augmentation.
"""

from jssl.config import from_table, moco_view, sgd

get_config = from_table({
    "default": {
        "method": {
            "name": "simsiam",
            "dim": 2048,
            "projector_layers": 2,
            "predictor_dim": 512,
            "joint_statistics": False,
        },
        "augment": moco_view(),
        "optimizer": sgd(
            learning_rate=0.03, reference_batch_size=256, weight_decay=5e-4
        ),
    },
    "imagenet2012": {
        "net.zero_init_residual": True,
        "method.projector_layers": 3,
        "optimizer": sgd(
            learning_rate=0.05, reference_batch_size=256, weight_decay=1e-4
        ),
        "optimizer.constant_rate": ("predictor",),
    },
    "cifar10": {"augment.blur_probability": 0.0},
    "digits": {
        "batch_size": 64,
        "method.dim": 256,
        "method.predictor_dim": 64,
        "augment": {"name": "digits"},
        "optimizer.learning_rate": 0.8,
    },
})
