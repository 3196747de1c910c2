"""LARS and LARC: SGD with steps in proportion to the parameter's norm."""

import jax
import jax.numpy as jnp
import optax

from jssl.losses.checks import check_not_negative
from jssl.optim import _common
from jssl.optim._schedules import Schedule


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
    learning_rate: See the module.
    weight_decay: See the module.
    momentum: See the module.
    trust_coefficient: Norm of a step relative to the parameter's, at a learning
      rate of 1 and without momentum; at least 0.
    vector_scale: Learning-rate scale for biases and norms; at least 0. See
      configs/barlow_twins.py.
    clip_norm: See the module.
    clip_per_parameter: See the module.

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
  _common.check_below_one(momentum=momentum)
  trust = optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient)
  return _common.chain_clipped(
      clip_norm,
      clip_per_parameter,
      _common.add_weight_decay(weight_decay, _common.are_matrices),
      optax.masked(trust, _common.are_matrices),
      optax.masked(optax.scale(vector_scale), _common.are_biases_or_norms),
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
    learning_rate: See the module.
    weight_decay: See the module.
    momentum: See the module.
    trust_coefficient: Multiplies the trust ratio; at least 0.
    clip_norm: See the module.
    clip_per_parameter: See the module.

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
  _common.check_below_one(momentum=momentum)
  scale = _scale_by_larc
  if callable(weight_decay):
    scale = optax.inject_hyperparams(scale, static_args="trust_coefficient")
  return _common.chain_clipped(
      clip_norm,
      clip_per_parameter,
      scale(weight_decay, trust_coefficient),
      optax.sgd(learning_rate, momentum=momentum),
  )


def _scale_by_larc(weight_decay, trust_coefficient):
  """Adds the weight decay and scales each gradient; see `larc`."""

  def scale(gradient, param):
    gradient_norm, norm = optax.tree.norm(gradient), optax.tree.norm(param)
    ratio = norm / (gradient_norm + weight_decay * norm + 1e-8)  # As in apex.
    scaled = trust_coefficient * ratio * (gradient + weight_decay * param)
    return jnp.where((gradient_norm > 0) & (norm > 0), scaled, gradient)

  return optax.stateless(lambda *trees: jax.tree.map(scale, *trees))
