"""SimCLR: contrasts each image with all others of the batch.

  python -m jssl.train --config=simclr:digits --workdir=runs/simclr

digits, 15 epochs on two CPU cores: 249 s, kNN 0.966; tuned for such short runs.

imagenet2012 follows the paper (Chen et al., 2020; 1000 epochs), with the crops
and the color operations of its code (augment.operations=byol adds brightness,
as the code's version 1 does); method.hidden_layers=2 is version 2's head. Where
memory is short, net.micro_batches=8 keeps an eighth of the activations and all
negatives.

cifar10 follows lightly's CIFAR-10 benchmark, with BatchNorm statistics of each
view (there 84.8% kNN at batch 512 and 84.7% at 128, each of the best of 200
epochs on the test set). method.loss=dcl or dclw is decoupled contrastive
learning (there, at temperature 0.1, dcl 84.0% at batch 512 and 84.4% at 128,
dclw 82.4% and 83.3%). Other data sets get the recipe of cifar10 with the
paper's augmentation.
"""

from jssl.config import from_table, lars, sgd, simclr_view

get_config = from_table({
    "default": {
        "method": {
            "name": "simclr",
            "dim": 128,
            "hidden_layers": 1,
            "temperature": 0.5,
            "loss": "nt_xent",
            "joint_statistics": True,
        },
        "augment": simclr_view(method="bicubic"),
        "optimizer": sgd(learning_rate=0.06, weight_decay=5e-4),
    },
    "imagenet2012": {
        "epochs": 1000.0,
        "batch_size": 4096,
        "net.zero_init_residual": True,
        "method.temperature": 0.1,
        "augment.operations": "simclr",
        # The authors' code adds the losses of the two views, the paper averages
        # them. LARS undoes a factor of 2, except relative to the weight decay
        # (1e-6) and for biases and norms.
        "optimizer": lars(
            learning_rate=0.3, weight_decay=0.5e-6, warmup_epochs=10
        ),
        "optimizer.vector_scale": 2.0,
    },
    "cifar10": {
        "method.joint_statistics": False,
        "augment": simclr_view(strength=0.5, blur_probability=0.0),
    },
    "digits": {"augment": {"name": "digits"}},
})
