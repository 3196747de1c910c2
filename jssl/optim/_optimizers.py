"""SGD and AdamW."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from jssl.losses.checks import check_not_negative
from jssl.optim import _common
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
    learning_rate: See the module.
    momentum: See the module.
    weight_decay: See the module.
    nesterov: Whether to use Nesterov momentum, as RotNet's code.
    constant_rate: Names at the top of the tree whose parameters keep the first
      step's learning rate, such as SimSiam's predictor.
    clip_norm: See the module.
    clip_per_parameter: See the module.

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
  _common.check_below_one(momentum=momentum)
  return _common.chain_clipped(
      clip_norm,
      clip_per_parameter,
      _common.add_weight_decay(weight_decay),
      _with_constant(
          lambda rate: optax.sgd(rate, momentum=momentum, nesterov=nesterov),
          learning_rate,
          constant_rate,
      ),
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
    learning_rate: See the module.
    weight_decay: See the module.
    b1: Decay of the running mean of gradients, in [0, 1).
    b2: Decay of the running mean of squared gradients, in [0, 1); 0.95 in MAE.
    exclude_vectors: Whether biases and norms are not decayed; MoCo v3's code
      decays them too.
    exclude_names: Names of other parameters that are not decayed, such as
      SimMIM's class token.
    clip_norm: See the module.
    clip_per_parameter: See the module; as in DINO's code.

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
  _common.check_below_one(b1=b1, b2=b2)
  return _common.chain_clipped(
      clip_norm,
      clip_per_parameter,
      _scale_by_adam(b1, b2),
      _common.add_weight_decay(
          weight_decay, _decayed(exclude_vectors, exclude_names)
      ),
      optax.scale_by_learning_rate(learning_rate),
  )


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


def _with_constant(make, learning_rate, names):
  """Makes an optimizer, with a constant learning rate under some names."""
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
    return _common.are_matrices if exclude_vectors else None

  def is_decayed(path, x):
    named = any(getattr(key, "key", None) in exclude_names for key in path)
    return not named and (x.ndim > 1 or not exclude_vectors)

  return lambda tree: jax.tree_util.tree_map_with_path(is_decayed, tree)
