"""SimCLR: each image against all others of the batch.

  python -m jssl.train --config=configs/simclr.py:digits --workdir=runs/simclr

imagenet2012 as in the paper (Chen et al., 2020, 1000 epochs: batch 4096, LARS
at 0.3 x batch / 256, warm-up of 10 epochs), with the crops and the color
operations of its code (augment.operations=byol adds brightness, as the code's
version 1 does); method.hidden_layers=2 is version 2's head. Where memory is
short, net.micro_batches=8 keeps an eighth of the activations and all negatives.
cifar10 as in lightly's CIFAR-10 benchmark: SGD at 0.06 x batch / 128, decay
5e-4, temperature 0.5, jitter of half strength, no blur, BatchNorm statistics of
each view (there 84.8% kNN at batch 512 and 84.7% at 128, each of the best of
200 epochs on the test set). method.loss=dcl or dclw is decoupled contrastive
learning (there, at temperature 0.1, dcl 84.0% at batch 512 and 84.4% at 128,
dclw 82.4% and 83.3%). digits was tuned here for a short CPU run. Other data
sets get the recipe of cifar10 with the paper's augmentation.
"""

from jssl import config as configs


def get_config(dataset: str = "digits") -> configs.ConfigDict:
  """Returns the config for digits, a name of TFDS, or folder:PATH."""
  config = configs.base(dataset)
  config.method = {
      "name": "simclr",
      "dim": 128,
      "hidden_layers": 1,
      "temperature": 0.1,
      "loss": "nt_xent",
      "joint_statistics": True,
  }
  config.augment = {
      "name": "simclr",
      "scale": (0.08, 1.0),
      "strength": 1.0,
      "blur_probability": 0.5,
      "method": "bicubic",
      "operations": "torchvision",
  }
  name = configs.set_name(dataset)
  if name == "imagenet2012":
    config.augment.operations = "simclr"
    config.epochs = 1000.0
    config.batch_size = 4096
    config.net.zero_init_residual = True
    # The authors' code adds the losses of the two views, and the paper averages
    # them. LARS undoes a factor of 2, except relative to the decay (1e-6) and
    # for biases and norms.
    config.optimizer = configs.lars(
        learning_rate=0.3, weight_decay=0.5e-6, warmup_epochs=10
    )
    config.optimizer.vector_rate = 2.0
    return config
  config.method.temperature = 0.5
  config.optimizer = configs.sgd(learning_rate=0.06, weight_decay=5e-4)
  if name == "digits":
    config.augment = {"name": "digits"}
  elif name in ("cifar10", "cifar100"):
    config.method.joint_statistics = False
    config.augment.update(strength=0.5, blur_probability=0.0, method="bilinear")
  return config
