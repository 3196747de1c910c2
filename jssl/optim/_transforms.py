"""Changes to the updates of any optimizer."""

import jax
import optax

from jssl.nets import backbone


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
