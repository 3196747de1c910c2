"""Schedules: values as functions of the step."""

from collections.abc import Callable, Sequence
import math

import optax

from jssl.losses.checks import check_not_negative

Schedule = Callable[[int], float]


def constant(peak: float, *, epochs: float, steps_per_epoch: float) -> Schedule:
  """A constant schedule: the same value at every step.

  Args:
    peak, epochs, steps_per_epoch: See `jssl.optim`; only `peak` is used.

  Returns:
    The value as a function of the step.

  Raises:
    ValueError: If the value is negative.

  Example:
    >>> from jssl import optim
    >>> float(optim.constant(0.1, epochs=10, steps_per_epoch=100)(500))
    0.1
  """
  del epochs, steps_per_epoch
  check_not_negative(peak=peak)
  return optax.constant_schedule(peak)


def cosine(
    peak: float,
    *,
    epochs: float,
    steps_per_epoch: float,
    warmup_epochs: float = 0,
    start: float = 0.0,
    end: float = 0.0,
) -> Schedule:
  """Linear warm-up, then half a cosine.

  Args:
    warmup_epochs: Length of the warm-up.
    start: The value at the first step of a warm-up, at least 0.
    end: The value from the last step on, at least 0. It may be above `peak`:
      BYOL raises its EMA decay from 0.996 to 1, DINO its weight decay from 0.04
      to 0.4.
    peak, epochs, steps_per_epoch: See `jssl.optim`; `peak` is the value after
      the warm-up.

  Returns:
    The value as a function of the step.

  Raises:
    ValueError: If the warm-up is not shorter than the training, or a value is
      negative.

  Reference:
    Loshchilov and Hutter, SGDR, 2017.

  Example:
    >>> from jssl import optim
    >>> value = optim.cosine(0.1, epochs=9, steps_per_epoch=10, warmup_epochs=1)
    >>> [round(float(value(step)), 4) for step in (0, 5, 10, 50, 90)]
    [0.0, 0.05, 0.1, 0.05, 0.0]
  """
  check_not_negative(peak=peak, start=start, end=end)
  if not 0 <= warmup_epochs < epochs:
    raise ValueError(
        f"A warm-up of {warmup_epochs} epochs does not fit a training of"
        f" {epochs}; lower the cosine's warmup_epochs or raise epochs."
    )
  # Rounding must not leave a part without a step.
  steps = max(round(epochs * steps_per_epoch), 1)
  warmup_steps = min(round(warmup_epochs * steps_per_epoch), steps - 1)
  decay = optax.cosine_decay_schedule(1.0, steps - warmup_steps)
  # Not optax's `alpha`, a multiple of the peak: with it a peak of 0 stays 0,
  # and an end of 1 is rounded to a little less.
  schedule = lambda step: end + (peak - end) * decay(step)
  return _after_warmup(schedule, start, peak, warmup_steps)


def linear(
    peak: float,
    *,
    epochs: float,
    steps_per_epoch: float,
    start: float,
    warmup_epochs: float | None = None,
) -> Schedule:
  """A straight line from one value to another, then constant.

  Args:
    start: The value at step 0, at least 0.
    warmup_epochs: Length of the line; 0 for `peak` at once, None for the whole
      training.
    peak, epochs, steps_per_epoch: See `jssl.optim`; `peak` is the value at the
      end of the line and after it, and may be below `start`.

  Returns:
    The value as a function of the step.

  Raises:
    ValueError: If the length or a value is negative.

  Reference:
    Caron et al., Emerging Properties in Self-Supervised Vision Transformers,
    2021: the teacher's temperature, from 0.04 to 0.07 in 30 epochs.

  Example:
    >>> from jssl import optim
    >>> value = optim.linear(
    ...     0.1, epochs=10, steps_per_epoch=10, start=0.0, warmup_epochs=2
    ... )
    >>> [round(float(value(step)), 4) for step in (0, 10, 20, 100)]
    [0.0, 0.05, 0.1, 0.1]
  """
  if warmup_epochs is None:
    warmup_epochs = epochs
  check_not_negative(peak=peak, start=start, warmup_epochs=warmup_epochs)
  steps = round(warmup_epochs * steps_per_epoch)
  if not steps:  # optax would stay at the start forever.
    return optax.constant_schedule(peak)
  return optax.linear_schedule(start, peak, steps)


def staircase(
    peak: float,
    *,
    epochs: float,
    steps_per_epoch: float,
    drops: Sequence[float] = (0.6, 0.8),
    factor: float = 0.1,
    warmup_epochs: float = 0,
    start: float = 0.0,
) -> Schedule:
  """Multiplies the learning rate by a factor at given times, as in MoCo v1.

  Args:
    drops: When the learning rate drops, as fractions of the training; MoCo v1
      drops at 120 and 160 of 200 epochs.
    factor: Multiplies the learning rate at each drop, at least 0.
    warmup_epochs: Length of a linear warm-up.
    start: The learning rate at the first step of a warm-up, at least 0.
    peak, epochs, steps_per_epoch: See `jssl.optim`; `peak` is the learning rate
      before the first drop.

  Returns:
    The learning rate as a function of the step.

  Raises:
    ValueError: If a value is negative, the warm-up ends after the first drop,
      or drops are not fractions.

  Example:
    >>> from jssl import optim
    >>> learning_rate = optim.staircase(0.1, epochs=200, steps_per_epoch=10)
    >>> [round(float(learning_rate(step)), 4) for step in (0, 1200, 1600)]
    [0.1, 0.01, 0.001]
  """
  check_not_negative(
      peak=peak, factor=factor, warmup_epochs=warmup_epochs, start=start
  )
  if not all(0 < fraction <= 1 for fraction in drops):
    raise ValueError(
        f"drops is {tuple(drops)}; expected fractions of the training in"
        " (0, 1], such as 0.6 for epoch 120 of 200."
    )
  first = epochs * min(drops, default=math.inf)
  if warmup_epochs > first:
    raise ValueError(
        f"A warm-up of {warmup_epochs} epochs does not end before the first"
        f" drop of drops {tuple(drops)}, at epoch {first:g}; lower"
        " warmup_epochs or drop later."
    )
  warmup_steps = round(warmup_epochs * steps_per_epoch)
  # Counted from the end of the warm-up.
  steps = {
      round(fraction * epochs * steps_per_epoch) - warmup_steps: factor
      for fraction in drops
  }
  schedule = optax.piecewise_constant_schedule(peak, steps)
  return _after_warmup(schedule, start, peak, warmup_steps)


def _after_warmup(schedule, start, peak, steps):
  """Puts a linear warm-up of some steps, or none, before a schedule."""
  if not steps:
    return schedule
  warmup = optax.linear_schedule(start, peak, steps)
  return optax.join_schedules([warmup, schedule], [steps])


SCHEDULES = {
    "constant": constant,
    "cosine": cosine,
    "linear": linear,
    "staircase": staircase,
}
