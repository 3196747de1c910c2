"""DINO: self-distillation without labels, with multi-crop.

  python -m jssl.train --config=dino:digits --workdir=runs/dino

imagenet2012 follows the paper for ViT-S/16 (Caron et al., 2021; 100 epochs),
with two global views of 224 pixels and eight local ones of 96. For 300 epochs
its code adds method.norm_last_layer=False.

cifar10 follows lightly's CIFAR-10 benchmark: ResNet-18, two views, a projector
with BatchNorm, whose statistics are those of each view (there 81.3% kNN at
batch 512 and 84.0% at 128, each of the best of 200 epochs on the test set).

digits was tuned for a short run on a CPU: within a few hundred steps the
teacher has to be quick, so the center is that of the last batch, and the
teacher is sharp from the start; with the usual center either one prototype wins
or all scores become equal. Other data sets get the recipe of cifar10 with the
paper's augmentation.
"""

from jssl.config import adamw, byol_views, from_table, sgd

get_config = from_table({
    "default": {
        "method": {
            "name": "dino",
            "local_views": 8,
            "dim": 256,
            "hidden_dim": 2048,
            "projector_layers": 2,
            "projector_norm": True,
            "prototypes": 2048,
            "norm_last_layer": True,
            "student_temperature": 0.1,
            "teacher_temperature": {
                "name": "linear",
                "start": 0.04,
                "value": 0.07,
                "warmup_epochs": 30.0,
            },
            "momentum": {"name": "cosine", "value": 0.996, "end": 1.0},
            "center_momentum": 0.9,
            "frozen_epochs": 1.0,
            "joint_statistics": True,
        },
        **byol_views(scale=(0.4, 1.0)),
        "local_augment": {
            "name": "byol",
            "size": 64,
            "scale": (0.05, 0.4),
            "method": "bicubic",
            "operations": "torchvision",
            "blur_probability": 0.5,
            "solarize_probability": 0.0,
        },
        "optimizer": sgd(learning_rate=0.06, weight_decay=5e-4),
    },
    "imagenet2012": {
        "epochs": 100.0,
        "batch_size": 1024,
        "net.name": "vit_small",
        "net.drop_path": 0.1,
        "method.projector_layers": 3,
        "method.projector_norm": False,
        "method.prototypes": 65536,
        "local_augment.size": 96,
        "optimizer": adamw(
            learning_rate=5e-4,
            weight_decay={"name": "cosine", "value": 0.04, "end": 0.4},
            warmup_epochs=10,
            end=1e-6,
            clip_norm=3.0,
        ),
        "optimizer.clip_per_parameter": True,
    },
    "cifar10": {
        "method.local_views": 0,
        "method.teacher_temperature.value": 0.04,
        "method.teacher_temperature.warmup_epochs": 0.0,
        "method.momentum.name": "constant",
        "method.momentum.value": 0.99,
        "method.frozen_epochs": 0.0,
        "method.joint_statistics": False,
        **byol_views(scale=(0.4, 1.0), method="bilinear", blur=False),
        "local_augment": None,
    },
    "digits": {
        "batch_size": 64,
        "method.local_views": 0,
        "method.dim": 64,
        "method.hidden_dim": 256,
        "method.prototypes": 256,
        "method.teacher_temperature.value": 0.03,
        "method.teacher_temperature.warmup_epochs": 0.0,
        "method.momentum.value": 0.97,
        "method.center_momentum": 0.0,
        "method.frozen_epochs": 0.0,
        "augment": {"name": "digits"},
        "second_augment": None,
        "local_augment": None,  # A part of a digit is often another digit.
    },
})
