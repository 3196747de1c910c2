"""SGD, LARS, LARC and AdamW, and what changes any optimizer's updates."""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
import optax

from jssl.losses.checks import check_not_negative
from jssl.nets import backbone
from jssl.optim._schedules import Schedule


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
  """SGD with weight decay, also of biases and norms, within the gradient.

  Args:
    nesterov: Whether to use Nesterov momentum, as RotNet's code.
    constant_rate: Names at the top of the tree whose parameters keep the first
      step's learning rate, such as SimSiam's predictor.
    learning_rate, momentum, weight_decay, clip_norm, clip_per_parameter: See
      `jssl.optim`.

  Returns:
    An optax optimizer.

  Raises:
    ValueError: If a value is out of its range.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import optim
    >>> params = gradients = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    >>> optimizer = optim.sgd(0.1, weight_decay=0.01)
    >>> updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    >>> round(float(updates["kernel"][0, 0]), 3)
    -0.101
  """
  check_not_negative(learning_rate=learning_rate, weight_decay=weight_decay)
  _check_below_one(momentum=momentum)
  make = functools.partial(optax.sgd, momentum=momentum, nesterov=nesterov)
  descent = make(learning_rate)
  if constant_rate and callable(learning_rate):
    descent = optax.multi_transform(
        {True: make(learning_rate(0)), False: descent},
        lambda params: jax.tree_util.tree_map_with_path(
            lambda path, _: path[0].key in constant_rate, params
        ),
    )
  decay = _add_weight_decay(weight_decay)
  return _chain_clipped(clip_norm, clip_per_parameter, decay, descent)


def lars(
    learning_rate: float | Schedule,
    *,
    weight_decay: float | Schedule = 0.0,
    momentum: float = 0.9,
    trust_coefficient: float = 0.001,
    vector_scale: float = 1.0,
    clip_norm: float = 0.0,
    clip_per_parameter: bool = False,
) -> optax.GradientTransformation:
  """LARS, as in MoCo v3's code.

  SGD that scales the gradient of each parameter, weight decay included, to the
  norm `trust_coefficient * norm(parameter)`; unscaled if either norm is 0.
  Biases and norms are neither scaled nor decayed. The learning rate is applied
  after the momentum, so a change affects the whole velocity; `optax.lars`
  applies it before.

  Args:
    trust_coefficient: Norm of a step relative to the parameter's, at a learning
      rate of 1 and without momentum; at least 0.
    vector_scale: Learning-rate scale for biases and norms; at least 0. See
      configs/barlow_twins.py.
    learning_rate, weight_decay, momentum, clip_norm, clip_per_parameter: See
      `jssl.optim`.

  Returns:
    An optax optimizer.

  Raises:
    ValueError: If a value is out of its range.

  Reference:
    You et al., Large Batch Training of Convolutional Networks, 2017; Chen et
    al., An Empirical Study of Training Self-Supervised Vision Transformers,
    2021.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import optim
    >>> params = gradients = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    >>> optimizer = optim.lars(1.0, trust_coefficient=0.001)
    >>> updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    >>> round(float(updates["kernel"][0, 0]), 4)
    -0.001
    >>> float(updates["bias"][0])  # A bias: without trust ratio.
    -1.0
  """
  check_not_negative(
      learning_rate=learning_rate,
      weight_decay=weight_decay,
      trust_coefficient=trust_coefficient,
      vector_scale=vector_scale,
  )
  _check_below_one(momentum=momentum)
  trust = optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient)
  return _chain_clipped(
      clip_norm,
      clip_per_parameter,
      _add_weight_decay(weight_decay, _are_matrices),
      optax.masked(trust, _are_matrices),
      optax.masked(optax.scale(vector_scale), _are_biases_or_norms),
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

  LARS of all parameters, biases and norms too, with the trust ratio
  `norm(parameter) / (norm(gradient) + weight_decay * norm(parameter))`. Where
  either norm is 0 a parameter is neither scaled nor decayed.

  Args:
    trust_coefficient: Multiplies the trust ratio; at least 0.
    learning_rate, weight_decay, momentum, clip_norm, clip_per_parameter: See
      `jssl.optim`.

  Returns:
    An optax optimizer.

  Raises:
    ValueError: If a value is out of its range.

  Reference:
    You et al., Large Batch Training of Convolutional Networks, 2017, equation
    6; the class LARC of NVIDIA's apex with `clip=False`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import optim
    >>> params = gradients = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
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
  _check_below_one(momentum=momentum)
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

  Biases and norms are not decayed. A class token and learned positions, which
  have more dimensions, are, as in DINO's code.

  Args:
    b1: Decay of the running mean of gradients, in [0, 1).
    b2: Decay of the running mean of squared gradients, in [0, 1); 0.95 in MAE.
    exclude_vectors: Whether biases and norms are not decayed; MoCo v3's code
      decays them too.
    exclude_names: Names of other parameters that are not decayed, such as
      SimMIM's class token.
    learning_rate, weight_decay, clip_norm, clip_per_parameter: See
      `jssl.optim`.

  Returns:
    An optax optimizer.

  Raises:
    ValueError: If a value is out of its range.

  Reference:
    Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import optim
    >>> params = gradients = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    >>> optimizer = optim.adamw(0.1, weight_decay=0.5)
    >>> updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    >>> round(float(updates["kernel"][0, 0]), 3)
    -0.15
    >>> round(float(updates["bias"][0]), 3)  # Biases do not decay.
    -0.1
  """
  check_not_negative(learning_rate=learning_rate, weight_decay=weight_decay)
  _check_below_one(b1=b1, b2=b2)
  return _chain_clipped(
      clip_norm,
      clip_per_parameter,
      _scale_by_adam(b1, b2),
      _add_weight_decay(weight_decay, _decayed(exclude_vectors, exclude_names)),
      optax.scale_by_learning_rate(learning_rate),
  )


def layer_decay(decay: float) -> optax.GradientTransformation:
  """Scales the updates of a transformer's early blocks down.

  The i-th of N blocks is scaled by `decay ** (N + 1 - i)`, parameters before
  the blocks by `decay ** (N + 1)`, all others (the last norm, a new head) by 1.
  Put it last in a chain.

  Args:
    decay: In (0, 1]; 1 scales nothing. MAE uses 0.75 to fine-tune ViT-L.

  Returns:
    The transformation. Blocks are found by their names, `block_1`, `block_2`,
    ...; a net without any is not scaled.

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
    leaves = jax.tree_util.tree_leaves_with_path(updates)
    last = max((backbone.layer_of(path) or 0 for path, _ in leaves), default=0)

    def scale(path, x):
      layer = backbone.layer_of(path)
      if not last or layer is None:
        return x
      return x * decay ** (last + 1 - layer)

    return jax.tree_util.tree_map_with_path(scale, updates)

  return optax.stateless(update)


def accumulate(
    optimizer: optax.GradientTransformation, steps: int
) -> optax.GradientTransformation:
  """Averages the gradients of several steps into one update.

  Where the loss of an image depends on that image alone, this is the update of
  a batch that many times as large. It is not where a loss or BatchNorm compares
  the images of a batch (InfoNCE without a queue, Barlow Twins, VICReg, SwAV):
  these still see the images of one step. A method's own state (EMA, queue,
  running statistics) and schedules still advance at every step, the optimizer's
  schedules at every update.

  Args:
    optimizer: An optax optimizer.
    steps: Steps per update, at least 1.

  Returns:
    An optax optimizer whose updates are 0 except at the last of the steps; the
    given one if `steps` is 1.

  Raises:
    ValueError: If `steps` is less than 1 or not whole.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import optim
    >>> params = gradients = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
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


def _chain_clipped(clip_norm, per_parameter, *parts):
  """Chains the parts after clipping the gradient's norm."""
  check_not_negative(clip_norm=clip_norm)
  if clip_norm:
    make = _clip_each if per_parameter else optax.clip_by_global_norm
    parts = (make(clip_norm), *parts)
  return optax.chain(*parts)


def _clip_each(limit):
  """Limits the norm of each parameter's gradient."""

  def clip(x):
    # The 1e-6 of DINO's code avoids 0 / 0 for a gradient of zeros.
    return x * jnp.minimum(1.0, limit / (optax.tree.norm(x) + 1e-6))

  return optax.stateless(lambda updates, _: jax.tree.map(clip, updates))


def _add_weight_decay(weight_decay, mask=None):
  """Adds the weight decay to all updates, or where the mask is True."""
  if not callable(weight_decay):
    return optax.add_decayed_weights(weight_decay, mask)
  # optax 0.2.5 takes only a constant here.
  make = optax.inject_hyperparams(optax.add_decayed_weights, static_args="mask")
  return make(weight_decay=weight_decay, mask=mask)


def _are_matrices(tree):
  """Whether each parameter is neither a bias nor a norm's."""
  return jax.tree.map(lambda x: x.ndim > 1, tree)


def _are_biases_or_norms(tree):
  """Whether each parameter has one dimension or none."""
  return jax.tree.map(lambda x: x.ndim <= 1, tree)


def _check_below_one(**values):
  """Raises ValueError unless each value is in [0, 1)."""
  for name, value in values.items():
    if not 0 <= value < 1:
      raise ValueError(
          f"{name} is {value}; expected a value in [0, 1), for example 0.9."
      )


def _scale_by_larc(weight_decay, trust_coefficient):
  """Adds the weight decay and scales each gradient; see `larc`."""

  def scale(gradient, param):
    gradient_norm, norm = optax.tree.norm(gradient), optax.tree.norm(param)
    ratio = norm / (gradient_norm + weight_decay * norm + 1e-8)  # As in apex.
    scaled = trust_coefficient * ratio * (gradient + weight_decay * param)
    return jnp.where((gradient_norm > 0) & (norm > 0), scaled, gradient)

  return optax.stateless(lambda *trees: jax.tree.map(scale, *trees))


def _scale_by_adam(b1, b2):
  """`optax.scale_by_adam` with a step count per parameter.

  A parameter that is frozen at first starts its bias correction later.
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


def _decayed(exclude_vectors, exclude_names):
  """Makes a mask of the parameters that decay; None for all."""
  if not exclude_names:
    return _are_matrices if exclude_vectors else None

  def is_decayed(path, x):
    named = any(getattr(key, "key", None) in exclude_names for key in path)
    return not named and (x.ndim > 1 or not exclude_vectors)

  return lambda tree: jax.tree_util.tree_map_with_path(is_decayed, tree)
