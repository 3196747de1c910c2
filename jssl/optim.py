"""Optimizers and schedules, on optax."""

from collections.abc import Callable, Sequence

import optax

Schedule = Callable[[int], float]


def cosine(
    peak: float,
    *,
    epochs: float,
    steps_per_epoch: int,
    warmup_epochs: float = 0,
) -> Schedule:
  """Linear warm-up from 0, then half a cosine down to 0 at the end.

  Args:
    peak: The largest learning rate.
    epochs: Length of the training, the warm-up included.
    steps_per_epoch: Steps an epoch.
    warmup_epochs: Length of the warm-up.

  Returns:
    The learning rate as a function of the step.

  Raises:
    ValueError: If the warm-up is not shorter than the training.

  Reference:
    Loshchilov and Hutter, SGDR, 2017.
  """
  if not 0 <= warmup_epochs < epochs:
    raise ValueError(
        f"A warm-up of {warmup_epochs} epochs does not fit a training of"
        f" {epochs}; lower optimizer.schedule.warmup_epochs or raise epochs."
    )
  # Rounding must not leave a part without a step.
  steps = max(round(epochs * steps_per_epoch), 1)
  warmup_steps = min(round(warmup_epochs * steps_per_epoch), steps - 1)
  if not warmup_steps:
    return optax.cosine_decay_schedule(peak, steps)
  return optax.warmup_cosine_decay_schedule(0.0, peak, warmup_steps, steps)


def staircase(
    peak: float,
    *,
    epochs: float,
    steps_per_epoch: int,
    drop_epochs: Sequence[float] = (120, 160),
    factor: float = 0.1,
) -> Schedule:
  """Multiplies the learning rate by a factor at given epochs, as MoCo v1.

  Args:
    peak: The learning rate at first.
    epochs: Length of the training; not used, drops are in absolute epochs.
    steps_per_epoch: Steps an epoch.
    drop_epochs: Epochs at which the rate drops.
    factor: Multiplied at each drop.

  Returns:
    The learning rate as a function of the step.
  """
  del epochs
  drops = {round(epoch * steps_per_epoch): factor for epoch in drop_epochs}
  return optax.piecewise_constant_schedule(peak, drops)


def sgd(
    learning_rate: float | Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
  """SGD whose weight decay enters the gradient, as in the papers' code.

  Args:
    learning_rate: A constant, or a function of the step.
    momentum: Share of the velocity that is kept at a step.
    weight_decay: Every parameter times this is added to its gradient.

  Returns:
    An optax optimizer.
  """
  return optax.chain(
      optax.add_decayed_weights(weight_decay),
      optax.sgd(learning_rate, momentum=momentum),
  )


SCHEDULES = {"cosine": cosine, "staircase": staircase}
OPTIMIZERS = {"sgd": sgd}
