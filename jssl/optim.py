"""Optimizers and schedules, on optax.

An optimizer's learning rate, and its weight decay, is a constant or a function
of the number of updates made before. A schedule makes such a function from the
value that it is about, `epochs` and `steps_per_epoch`; some of its values serve
a temperature or an EMA momentum just as well.
"""

from collections.abc import Callable, Sequence
import math
import re

import jax
import jax.numpy as jnp
import optax

from jssl.losses.checks import check_not_negative

Schedule = Callable[[int], float]
# Parameters of a transformer in front of its blocks.
_BEFORE_BLOCKS = (
    "['patch']",
    "['patch_positions']",
    "['class_token']",
    "['class_position']",
)


def constant(peak: float, *, epochs: float, steps_per_epoch: float) -> Schedule:
  """The same value at every step.

  Args:
    peak: The value, at least 0.
    epochs: Length of the training; not used.
    steps_per_epoch: Steps an epoch; not used.

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
  """Linear warm-up, then half a cosine to the end's value.

  Args:
    peak: The value after the warm-up, at least 0.
    epochs: Length of the training, the warm-up included.
    steps_per_epoch: Steps an epoch.
    warmup_epochs: Length of the warm-up.
    start: The value at the first step of a warm-up, at least 0.
    end: The value from the last step on, at least 0. It may lie above `peak`:
      BYOL raises its EMA momentum from 0.996 to 1, DINO its weight decay from
      0.04 to 0.4.

  Returns:
    The value as a function of the step.

  Raises:
    ValueError: If the warm-up is not shorter than the training, or a value is
      negative.

  Reference:
    Loshchilov and Hutter, SGDR, 2017.

  Example:
    >>> from jssl import optim
    >>> rate = optim.cosine(0.1, epochs=9, steps_per_epoch=10, warmup_epochs=1)
    >>> [round(float(rate(step)), 4) for step in (0, 5, 10, 50, 90)]
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
  fall = optax.cosine_decay_schedule(1.0, steps - warmup_steps)
  # Not optax's `alpha`, a multiple of the peak: it cannot leave a peak of 0,
  # and rounds an end of 1 to a little less.
  schedule = lambda step: end + (peak - end) * fall(step)
  if not warmup_steps:
    return schedule
  warmup = optax.linear_schedule(start, peak, warmup_steps)
  return optax.join_schedules([warmup, schedule], [warmup_steps])


def linear(
    peak: float,
    *,
    epochs: float,
    steps_per_epoch: float,
    start: float,
    warmup_epochs: float | None = None,
) -> Schedule:
  """A straight line from a value to another, then constant.

  Args:
    peak: The value at the end of the line and after it, at least 0; may lie
      below `start`.
    epochs: Length of the training.
    steps_per_epoch: Steps an epoch.
    start: The value at step 0, at least 0.
    warmup_epochs: Length of the line; 0 for `peak` at once, None for all of the
      training, however long that is.

  Returns:
    The value as a function of the step.

  Raises:
    ValueError: If the length or a value is negative.

  Reference:
    Caron et al., Emerging Properties in Self-Supervised Vision Transformers,
    2021: the teacher's temperature, from 0.04 to 0.07 in 30 epochs.

  Example:
    >>> from jssl import optim
    >>> rate = optim.linear(
    ...     0.1, epochs=10, steps_per_epoch=10, start=0.0, warmup_epochs=2
    ... )
    >>> [round(float(rate(step)), 4) for step in (0, 10, 20, 100)]
    [0.0, 0.05, 0.1, 0.1]
  """
  if warmup_epochs is None:
    warmup_epochs = epochs
  check_not_negative(peak=peak, start=start, warmup_epochs=warmup_epochs)
  steps = round(warmup_epochs * steps_per_epoch)
  if not steps:  # optax would stay at the start for ever.
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
  """Multiplies the learning rate by a factor at given times, as MoCo v1.

  Args:
    peak: The learning rate before the first drop, at least 0.
    epochs: Length of the training, the warm-up included.
    steps_per_epoch: Steps an epoch.
    drops: When the learning rate drops, in shares of the training; MoCo v1's
      drops at 120 and 160 of 200 epochs.
    factor: Multiplied at each drop, at least 0.
    warmup_epochs: Length of a linear warm-up.
    start: The learning rate at the first step of a warm-up, at least 0.

  Returns:
    The learning rate as a function of the step.

  Raises:
    ValueError: If a value is negative, or the warm-up ends after the first
      drop, or drops are no shares.

  Example:
    >>> from jssl import optim
    >>> rate = optim.staircase(0.1, epochs=200, steps_per_epoch=10)
    >>> [round(float(rate(step)), 4) for step in (0, 1200, 1600)]
    [0.1, 0.01, 0.001]
  """
  check_not_negative(
      peak=peak, factor=factor, warmup_epochs=warmup_epochs, start=start
  )
  if not all(0 < share <= 1 for share in drops):
    raise ValueError(
        f"drops is {tuple(drops)}; expected shares of the training in (0, 1],"
        " such as 0.6 for epoch 120 of 200."
    )
  first = epochs * min(drops, default=math.inf)
  if warmup_epochs > first:
    raise ValueError(
        f"A warm-up of {warmup_epochs} epochs does not end before the first"
        f" drop of drops {tuple(drops)}, at epoch {first:g}; lower"
        " warmup_epochs or drop later."
    )
  warmup_steps = round(warmup_epochs * steps_per_epoch)
  # In steps after the warm-up.
  steps = {
      round(share * epochs * steps_per_epoch) - warmup_steps: factor
      for share in drops
  }
  schedule = optax.piecewise_constant_schedule(peak, steps)
  if not warmup_steps:
    return schedule
  warmup = optax.linear_schedule(start, peak, warmup_steps)
  return optax.join_schedules([warmup, schedule], [warmup_steps])


def sgd(
    learning_rate: float | Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float | Schedule = 0.0,
    nesterov: bool = False,
    constant_rate: Sequence[str] = (),
    clip_norm: float = 0.0,
    clip_per_parameter: bool = False,
) -> optax.GradientTransformation:
  """SGD whose weight decay enters the gradient, as in the papers' code.

  Args:
    learning_rate: At least 0: a constant, or a function of the step.
    momentum: Share of the velocity that is kept at a step, in [0, 1).
    weight_decay: Every parameter, biases and norms too, times this is added to
      its gradient. At least 0: a constant, or a function of the step.
    nesterov: Whether the momentum is Nesterov's, as in RotNet's code.
    constant_rate: Names at the top of the tree whose parameters keep the first
      step's learning rate, as the predictor of SimSiam.
    clip_norm: Longest gradient, over all parameters and before the decay; 0 for
      no limit.
    clip_per_parameter: Whether that limit is of each parameter by itself.

  Returns:
    An optax optimizer.

  Raises:
    ValueError: If a value lies outside its range.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import optim
    >>> params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    >>> gradients = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    >>> optimizer = optim.sgd(0.1, weight_decay=0.01)
    >>> updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    >>> round(float(updates["kernel"][0, 0]), 3)
    -0.101
  """
  check_not_negative(learning_rate=learning_rate, weight_decay=weight_decay)
  _check_shares(momentum=momentum)
  return _chain_clipped(
      clip_norm,
      clip_per_parameter,
      _decay(weight_decay),
      _with_constant(
          lambda rate: optax.sgd(rate, momentum=momentum, nesterov=nesterov),
          learning_rate,
          constant_rate,
      ),
  )


def lars(
    learning_rate: float | Schedule,
    *,
    weight_decay: float | Schedule = 0.0,
    momentum: float = 0.9,
    trust_coefficient: float = 0.001,
    vector_rate: float = 1.0,
    clip_norm: float = 0.0,
    clip_per_parameter: bool = False,
) -> optax.GradientTransformation:
  """LARS, as MoCo v3's code has it.

  SGD that scales the gradient of each parameter, decay included, to the length
  `trust_coefficient * norm(parameter)`; as it is if either norm is 0.
  Parameters of one dimension or none (biases, norms) are neither scaled nor
  decayed. The learning rate is applied after the momentum, so that the velocity
  does not remember it; `optax.lars` applies it before.

  Args:
    learning_rate: At least 0: a constant, or a function of the step.
    weight_decay: A parameter times this is added to its gradient. At least 0: a
      constant, or a function of the step.
    momentum: Share of the velocity that is kept at a step, in [0, 1).
    trust_coefficient: Length of a step relative to the parameter, at a learning
      rate of 1 and without momentum; at least 0.
    vector_rate: Learning rate of the parameters of one dimension or none,
      relative to the others'; at least 0. See configs/barlow_twins.py.
    clip_norm: Longest gradient, over all parameters and before the decay; 0 for
      no limit.
    clip_per_parameter: Whether that limit is of each parameter by itself.

  Returns:
    An optax optimizer.

  Raises:
    ValueError: If a value lies outside its range.

  Reference:
    You et al., Large Batch Training of Convolutional Networks, 2017; Chen et
    al., An Empirical Study of Training Self-Supervised Vision Transformers,
    2021.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import optim
    >>> params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    >>> gradients = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    >>> optimizer = optim.lars(1.0, trust_coefficient=0.001)
    >>> updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    >>> round(float(updates["kernel"][0, 0]), 4)
    -0.001
    >>> float(updates["bias"][0])  # Of one dimension: without trust ratio.
    -1.0
  """
  check_not_negative(
      learning_rate=learning_rate,
      weight_decay=weight_decay,
      trust_coefficient=trust_coefficient,
      vector_rate=vector_rate,
  )
  _check_shares(momentum=momentum)
  trust = optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient)
  return _chain_clipped(
      clip_norm,
      clip_per_parameter,
      _decay(weight_decay, _are_matrices),
      optax.masked(trust, _are_matrices),
      optax.masked(optax.scale(vector_rate), _are_vectors),
      optax.sgd(learning_rate, momentum=momentum),
  )


def larc(
    learning_rate: float | Schedule,
    *,
    weight_decay: float | Schedule = 0.0,
    momentum: float = 0.9,
    trust_coefficient: float = 0.001,
    clip_norm: float = 0.0,
    clip_per_parameter: bool = False,
) -> optax.GradientTransformation:
  """LARC in its scaling mode, which trained SwAV.

  LARS of all parameters, biases and norms too, whose ratio is
  `norm(parameter) / (norm(gradient) + weight_decay * norm(parameter))`. Where
  either norm is 0 a parameter is neither scaled nor decayed.

  Args:
    learning_rate: At least 0: a constant, or a function of the step.
    weight_decay: A parameter times this is added to its gradient. At least 0: a
      constant, or a function of the step.
    momentum: Share of the velocity that is kept at a step, in [0, 1).
    trust_coefficient: Multiplied with the ratio; at least 0.
    clip_norm: Longest gradient, over all parameters and before the decay; 0 for
      no limit.
    clip_per_parameter: Whether that limit is of each parameter by itself.

  Returns:
    An optax optimizer.

  Raises:
    ValueError: If a value lies outside its range.

  Reference:
    You et al., Large Batch Training of Convolutional Networks, 2017, equation
    6; the class LARC of NVIDIA's apex with `clip=False`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import optim
    >>> params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    >>> gradients = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    >>> optimizer = optim.larc(1.0, trust_coefficient=0.001)
    >>> updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    >>> round(float(updates["kernel"][0, 0]), 4)
    -0.001
    >>> round(float(updates["bias"][0]), 4)
    -0.001
  """
  check_not_negative(
      learning_rate=learning_rate,
      weight_decay=weight_decay,
      trust_coefficient=trust_coefficient,
  )
  _check_shares(momentum=momentum)
  scale = _scale_by_larc
  if callable(weight_decay):
    scale = optax.inject_hyperparams(scale, static_args="trust_coefficient")
  return _chain_clipped(
      clip_norm,
      clip_per_parameter,
      scale(weight_decay, trust_coefficient),
      optax.sgd(learning_rate, momentum=momentum),
  )


def adamw(
    learning_rate: float | Schedule,
    *,
    weight_decay: float | Schedule = 0.05,
    b1: float = 0.9,
    b2: float = 0.999,
    exclude_vectors: bool = True,
    exclude_names: Sequence[str] = (),
    clip_norm: float = 0.0,
    clip_per_parameter: bool = False,
) -> optax.GradientTransformation:
  """Adam with decoupled weight decay, for vision transformers.

  Parameters of one dimension or none (biases, norms) are not decayed. A class
  token and learned positions, of more dimensions, are: so does DINO's code.

  Args:
    learning_rate: At least 0: a constant, or a function of the step.
    weight_decay: Share of a parameter that a step takes away, times the
      learning rate. At least 0: a constant, or a function of the step; DINO
      raises it from 0.04 to 0.4.
    b1: Share of the mean gradient that is kept at a step, in [0, 1).
    b2: Share of the mean squared gradient that is kept at a step, in [0, 1);
      0.95 in MAE.
    exclude_vectors: Whether parameters of one dimension or none are not
      decayed; MoCo v3's code decays them too.
    exclude_names: Names of more parameters that are not decayed, such as
      SimMIM's class token.
    clip_norm: Longest gradient, over all parameters; 0 for no limit.
    clip_per_parameter: Whether that limit is of each parameter by itself, as in
      DINO's code.

  Returns:
    An optax optimizer.

  Raises:
    ValueError: If a value lies outside its range.

  Reference:
    Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import optim
    >>> params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    >>> gradients = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    >>> optimizer = optim.adamw(0.1, weight_decay=0.5)
    >>> updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    >>> round(float(updates["kernel"][0, 0]), 3)
    -0.15
    >>> round(float(updates["bias"][0]), 3)  # Biases do not decay.
    -0.1
  """
  check_not_negative(learning_rate=learning_rate, weight_decay=weight_decay)
  _check_shares(b1=b1, b2=b2)
  return _chain_clipped(
      clip_norm,
      clip_per_parameter,
      _scale_by_adam(b1, b2),
      _decay(weight_decay, _decayed(exclude_vectors, exclude_names)),
      optax.scale_by_learning_rate(learning_rate),
  )


def layer_decay(decay: float) -> optax.GradientTransformation:
  """Scales the updates of early blocks of a transformer down.

  The i-th of N blocks gets `decay ** (N + 1 - i)`, what comes before the blocks
  `decay ** (N + 1)`, all else (the last norm, a new head) 1. Put it last.

  Args:
    decay: In (0, 1]; 1 scales nothing. MAE takes 0.75 for fine-tuning ViT-L.

  Returns:
    The transformation. Blocks are found by their names, `block_1`, `block_2`,
    ...; a net without any is left as it is.

  Raises:
    ValueError: If the decay is out of its range.

  Reference:
    Clark et al., ELECTRA, 2020; Bao et al., BEiT, 2022, for images.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import optim
    >>> names = ("block_1", "block_2", "head")
    >>> updates = {name: jnp.ones(()) for name in names}
    >>> decay = optim.layer_decay(0.5)
    >>> scaled, _ = decay.update(updates, decay.init(updates))
    >>> {name: float(x) for name, x in scaled.items()}
    {'block_1': 0.25, 'block_2': 0.5, 'head': 1.0}
  """
  if not 0 < decay <= 1:
    raise ValueError(f"decay is {decay}; expected more than 0, at most 1.")

  def update(updates, params=None):
    del params
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(updates)]
    last = max((_block(path) or 0 for path in paths), default=0)

    def scale(path, x):
      return x * decay ** (last + 1 - _layer(path, last)) if last else x

    return jax.tree_util.tree_map_with_path(scale, updates)

  return optax.stateless(update)


def _block(path):
  """The number of the block that a parameter belongs to, or None."""
  match = re.search(r"\bblock_(\d+)\b", jax.tree_util.keystr(path))
  return int(match[1]) if match else None


def _layer(path, last):
  """From 0, before the blocks, to `last + 1`, behind them."""
  if (block := _block(path)) is not None:
    return block
  name = jax.tree_util.keystr(path)
  before = any(part in name for part in _BEFORE_BLOCKS)
  return 0 if before else last + 1


def accumulate(
    optimizer: optax.GradientTransformation, steps: int
) -> optax.GradientTransformation:
  """Makes one update of several steps' gradients, averaged.

  Where an image's loss depends on that image alone, this is the update of a
  batch that many times as large. It is not for a loss that looks across the
  batch (InfoNCE without a queue, Barlow Twins, VICReg, SwAV) nor under
  BatchNorm: these still see one step's images. What a method carries (its EMA,
  queue, running statistics) still changes at every step, and so do a method's
  own schedules. The optimizer's schedules count updates.

  Args:
    optimizer: An optax optimizer.
    steps: Steps an update, at least 1.

  Returns:
    An optax optimizer whose updates are 0 except at every last of the steps;
    the one given if `steps` is 1.

  Raises:
    ValueError: If `steps` is less than 1 or not whole.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import optim
    >>> params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    >>> gradients = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    >>> optimizer = optim.accumulate(optim.sgd(0.1), 2)
    >>> state = optimizer.init(params)
    >>> for _ in range(2):
    ...   updates, state = optimizer.update(gradients, state, params)
    ...   print(round(float(updates["bias"][0]), 3))
    0.0
    -0.1
  """
  if steps < 1 or steps != int(steps):
    raise ValueError(
        f"accumulate_steps is {steps}; expected a whole number of at least 1,"
        " where 1 updates at every step."
    )
  if steps == 1:
    return optimizer
  return optax.MultiSteps(optimizer, int(steps)).gradient_transformation()


def _scale_by_adam(b1, b2):
  """`optax.scale_by_adam` that counts the steps of each parameter by itself.

  The bias correction of a parameter that was frozen for a while starts with it.
  """
  adam = optax.scale_by_adam(b1=b1, b2=b2)

  def init(params):
    state = adam.init(params)
    counts = jax.tree.map(lambda _: jnp.zeros_like(state.count), params)
    return state._replace(count=counts)

  def update(updates, state, params=None):
    del params
    make = type(state)
    each = jax.tree.map(
        lambda x, *own: adam.update(x, make(*own)), updates, *state
    )
    # From a tree of (update, state) to a tree of each of their parts.
    take = lambda f: jax.tree.map(lambda _, pair: f(*pair), updates, each)
    fields = [take(lambda _, own, i=i: own[i]) for i in range(len(state))]
    return take(lambda update, _: update), make(*fields)

  return optax.GradientTransformation(init, update)


def _scale_by_larc(weight_decay, trust_coefficient):
  """Adds the decay and scales each gradient; see `larc`."""

  def scale(gradient, param):
    length, size = optax.tree.norm(gradient), optax.tree.norm(param)
    ratio = size / (length + weight_decay * size + 1e-8)  # As in apex.
    scaled = trust_coefficient * ratio * (gradient + weight_decay * param)
    return jnp.where((length > 0) & (size > 0), scaled, gradient)

  return optax.stateless(lambda *trees: jax.tree.map(scale, *trees))


def _with_constant(make, learning_rate, names):
  """Makes an optimizer, and for some names one whose rate stays."""
  if not names or not callable(learning_rate):
    return make(learning_rate)
  return optax.multi_transform(
      {True: make(learning_rate(0)), False: make(learning_rate)},
      lambda params: jax.tree_util.tree_map_with_path(
          lambda path, _: path[0].key in names, params
      ),
  )


def _decayed(exclude_vectors, exclude_names):
  """Makes a mask of the parameters that decay; None for all."""
  if not exclude_names:
    return _are_matrices if exclude_vectors else None

  def is_decayed(path, x):
    named = any(getattr(key, "key", None) in exclude_names for key in path)
    return not named and (x.ndim > 1 or not exclude_vectors)

  return lambda tree: jax.tree_util.tree_map_with_path(is_decayed, tree)


def _are_matrices(tree):
  """Whether each parameter has two dimensions or more."""
  return jax.tree.map(lambda x: x.ndim > 1, tree)


def _are_vectors(tree):
  return jax.tree.map(lambda x: x.ndim <= 1, tree)


def _decay(weight_decay, mask=None):
  """Adds the decay to all updates, or to those that the mask tells."""
  if not callable(weight_decay):
    return optax.add_decayed_weights(weight_decay, mask)
  # optax 0.2.5 takes only a constant here.
  make = optax.inject_hyperparams(optax.add_decayed_weights, static_args="mask")
  return make(weight_decay=weight_decay, mask=mask)


def _chain_clipped(clip_norm, per_parameter, *parts):
  """Chains the parts behind a limit of the gradient's length."""
  check_not_negative(clip_norm=clip_norm)
  if clip_norm:
    make = _clip_each if per_parameter else optax.clip_by_global_norm
    parts = (make(clip_norm), *parts)
  return optax.chain(*parts)


def _clip_each(limit):
  """Limits the length of each parameter's gradient by itself."""

  def clip(x):
    # The 1e-6 of DINO's code keeps a gradient of zeros from 0 / 0.
    return x * jnp.minimum(1.0, limit / (optax.tree.norm(x) + 1e-6))

  return optax.stateless(lambda updates, _: jax.tree.map(clip, updates))


def _check_shares(**values):
  for name, value in values.items():
    if not 0 <= value < 1:
      raise ValueError(
          f"{name} is {value}; expected a value in [0, 1), for example 0.9."
      )


SCHEDULES = {
    "constant": constant,
    "cosine": cosine,
    "linear": linear,
    "staircase": staircase,
}
OPTIMIZERS = {"sgd": sgd, "lars": lars, "larc": larc, "adamw": adamw}
