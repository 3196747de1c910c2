"""Optimizers and schedules, on optax.

Optimizers take:

- `learning_rate`: At least 0: a constant, or a schedule.
- `weight_decay`: Strength of the weight decay, at least 0: a constant, or a
  schedule. SGD, LARS and LARC add it times the parameter to the gradient; AdamW
  subtracts it times the learning rate and the parameter.
- `momentum`: Decay of the running mean of gradients, in [0, 1).
- `clip_norm`: Largest norm of the gradient over all parameters, before weight
  decay; 0 for no limit.
- `clip_per_parameter`: Whether that limits the gradient of each parameter
  instead, as in DINO's code.

"Biases and norms" are the parameters of one dimension or none.

A schedule maps the number of earlier updates to a value: a learning rate, a
weight decay, a temperature or an EMA decay. Schedules take:

- `peak`: The main value, at least 0.
- `epochs`: Length of the training, including a warm-up.
- `steps_per_epoch`: Steps per epoch.
"""

from jssl.optim._optimizers import (
    accumulate,
    adamw,
    larc,
    lars,
    layer_decay,
    sgd,
)
from jssl.optim._schedules import (
    constant,
    cosine,
    linear,
    Schedule,
    SCHEDULES,
    staircase,
)

OPTIMIZERS = {"sgd": sgd, "lars": lars, "larc": larc, "adamw": adamw}

__all__ = (
    "OPTIMIZERS",
    "SCHEDULES",
    "Schedule",
    "accumulate",
    "adamw",
    "constant",
    "cosine",
    "larc",
    "lars",
    "layer_decay",
    "linear",
    "sgd",
    "staircase",
)
