"""Optimizers and schedules, on optax.

All optimizers take:

- `learning_rate`: At least 0: a constant, or a schedule.
- `weight_decay`: Strength of the weight decay, at least 0: a constant, or a
  schedule. SGD, LARS and LARC add it times the parameter to the gradient; AdamW
  subtracts it times the learning rate and the parameter.
- `momentum`: Decay of the running mean of gradients, in [0, 1).
- `clip_norm`: Largest norm of the gradient over all parameters, before weight
  decay; 0 for no limit. With `clip_per_parameter`, of each parameter's own.

"Biases and norms" are the parameters of one dimension or none.

A schedule maps the number of earlier updates to a value: a learning rate, a
weight decay, a temperature or an EMA decay. All take the value `peak`, the
length of the training in `epochs`, and `steps_per_epoch`.
"""

from jssl.optim._lars import larc, lars
from jssl.optim._optimizers import adamw, sgd
from jssl.optim._schedules import (
    constant,
    cosine,
    linear,
    Schedule,
    SCHEDULES,
    staircase,
)
from jssl.optim._transforms import accumulate, layer_decay

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
