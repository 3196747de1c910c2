"""The train step, one for all methods."""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jssl import parallel
from jssl.method import Keys, Method

PyTree = Any


class TrainState(NamedTuple):
  """The state of training, equal on every device.

  Attributes:
    step: Number of steps taken, int32 `[]`.
    params: What is differentiated.
    carried: What else the method carries from step to step.
    opt_state: The optimizer's state.
    key: A PRNG key that never changes; a step folds its number into it.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jssl import augment, nets, optim
    >>> from jssl.methods import METHODS
    >>> from jssl.step import init_state
    >>> net = nets.ResNet((1,), width=4, stem="cifar")
    >>> recipe = augment.keep_size(augment.crop_and_flip)
    >>> method = METHODS["moco_v1"](net, augment=recipe, queue_size=256)
    >>> batch = {"image": jnp.zeros((1, 8, 8, 3))}
    >>> make = lambda key: init_state(method, optim.sgd(0.1), key, batch)
    >>> state = jax.eval_shape(make, jax.random.key(0))  # Only shapes here.
    >>> sorted(state.params), state.carried.queue.keys.shape
    (['net', 'projector'], (256, 128))
  """

  step: jax.Array
  params: PyTree
  carried: PyTree
  opt_state: PyTree
  key: jax.Array


def init_state(
    method: Method,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    batch: dict[str, jax.Array],
) -> TrainState:
  """Makes the state before the first step.

  Args:
    method: The method; its axis does not need to exist yet.
    optimizer: An optax optimizer.
    key: A PRNG key.
    batch: A batch of the shapes of training; one image is enough.

  Returns:
    The state; see `make_step` for an example.
  """
  init_key, train_key = jax.random.split(key)
  # Only shapes matter here, and drawing real views is slow to compile.
  shapes = jax.eval_shape(method.views, init_key, batch)
  views = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  params, carried = method.init(init_key, views)
  opt_state = optimizer.init(params)
  return TrainState(
      jnp.zeros((), jnp.int32), params, carried, opt_state, train_key
  )


def make_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    axis_name: str | None = None,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
  """Makes the train step.

  Args:
    method: The method, made with the same axis.
    optimizer: An optax optimizer. For a method that freezes parameters for a
      while it must count steps per parameter, as those of `jssl.optim` do.
    axis_name: Axis that the global batch is split over, or None.

  Returns:
    `(state, batch) -> (state, metrics)`, a pure function of one device's part
    of the batch (see `Method`), to be jitted or mapped over the axis. Metrics
    are scalars averaged over the axis: "loss", "gradient_norm", "skipped" and
    the method's own. If the loss, the gradient or what the method would carry
    to the next step is not finite, "skipped" is 1 instead of 0, and only the
    step's number changes. It raises a ValueError for an optimizer that cannot
    freeze parameters for a while.

  Example:
    >>> import jax
    >>> from jssl import augment, make_step, nets, optim
    >>> from jssl.methods import METHODS
    >>> from jssl.step import init_state
    >>> recipe = augment.keep_size(augment.crop_and_flip)
    >>> net = nets.ResNet((1,), width=4, stem="cifar")
    >>> method = METHODS["simclr"](net, augment=recipe)
    >>> optimizer = optim.sgd(0.1)
    >>> images = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
    >>> batch = {"image": images}
    >>> state = init_state(method, optimizer, jax.random.key(1), batch)
    >>> state, metrics = jax.jit(make_step(method, optimizer))(state, batch)
    >>> int(state.step), sorted(metrics)
    (1, ['chance_loss', 'feature_std', 'gradient_norm', 'loss', 'skipped'])
  """

  def step(state, batch):
    key = jax.random.fold_in(state.key, state.step)
    view_key, shared_key, local_key = jax.random.split(key, 3)
    device = parallel.axis_index(axis_name)
    keys = Keys(shared_key, jax.random.fold_in(local_key, device))
    size = batch["image"].shape[0]
    position = device * size + jnp.arange(size)
    with jax.named_scope("views"):
      views = method.views(view_key, {"position": position, **batch})

    def loss(params):
      value, aux = method.loss(params, state.carried, views, keys, state.step)
      # Gradients of gathered or averaged values are right only if this mean
      # and the one of the gradients are both taken.
      return parallel.pmean(value, axis_name), aux

    (value, aux), gradients = jax.value_and_grad(loss, has_aux=True)(
        state.params
    )
    frozen = _frozen(method, state.params, state.step)
    zeros = jax.tree.map(jnp.zeros_like, gradients)
    gradients = _keep(frozen, zeros, gradients)
    gradients = parallel.pmean(gradients, axis_name)
    gradient_norm = optax.tree.norm(gradients)

    def move(old):
      updates, opt_state = optimizer.update(
          gradients, old.opt_state, old.params
      )
      params = optax.apply_updates(old.params, updates)
      if any(flag is not False for flag in jax.tree.leaves(frozen)):
        params = _keep(frozen, old.params, params)
        opt_state = _keep_state(optimizer, frozen, old.opt_state, opt_state)
      params, carried = method.update(params, old.carried, aux.fresh, old.step)
      return old._replace(params=params, carried=carried, opt_state=opt_state)

    # In this order XLA merges as many reductions as without the check.
    finite = all_finite((aux.fresh, value, gradient_norm))
    # A branch waits for all readers of the state, so the queue stays in place.
    new = jax.lax.cond(finite, move, lambda old: old, state)
    metrics = {
        "loss": value,
        "gradient_norm": gradient_norm,
        "skipped": ~finite,
        **parallel.pmean(aux.metrics, axis_name),
    }
    metrics = {k: jnp.asarray(v, jnp.float32) for k, v in metrics.items()}
    return new._replace(step=new.step + 1), metrics

  return step


def _frozen(method, params, step):
  """Whether each parameter is frozen: False, True, or a traced bool."""
  if method.frozen_steps is None:
    return jax.tree.map(lambda _: False, params)

  def at_this_step(steps):
    if steps <= 0 or steps == math.inf:
      return steps > 0  # Known before tracing, so it costs nothing.
    return step < steps

  return jax.tree.map(at_this_step, method.frozen_steps(params))


def _keep(frozen, old, new):
  """Returns the old leaves where a parameter is frozen, else the new ones."""

  def choose(frozen, old, new):
    if isinstance(frozen, bool):
      return old if frozen else new
    return jnp.where(frozen, old, new)

  return jax.tree.map(choose, frozen, old, new)


def _keep_state(optimizer, frozen, old, new):
  """Does so for an optimizer's state; the counts of its schedules advance."""
  if not all(isinstance(x, bool) for x in jax.tree.leaves(frozen)):
    _check_counts(old)
  is_masked = lambda x: isinstance(x, optax.MaskedNode)
  flags = optax.tree_utils.tree_map_params(
      optimizer,
      lambda leaf, flag: leaf if is_masked(leaf) else flag,
      old,
      frozen,
      transform_non_params=lambda _: False,
      is_leaf=is_masked,
  )
  return _keep(flags, old, new)


def _check_counts(state):
  """Raises ValueError if second moments share one step count.

  That count corrects their bias, or starts them, as in Adam; optimizers with a
  first moment only, such as Lion, do not depend on it.
  """

  def has_moments(node):
    return {"count", "nu"} <= set(getattr(node, "_fields", ()))

  for node in jax.tree.leaves(state, is_leaf=has_moments):
    if has_moments(node) and (
        jax.tree.structure(node.count) != jax.tree.structure(node.nu)
    ):
      raise ValueError(
          f"The optimizer keeps a {type(node).__name__}, which counts the steps"
          " of all parameters together, and this method freezes some of them"
          " at first: their first updates would be several times too large."
          " Expected a count per parameter; use jssl.optim.adamw, or set the"
          " method's frozen_steps to 0."
      )


@jax.jit
def all_finite(tree: PyTree) -> jax.Array:
  """Whether every number of a tree is finite, a bool `[]`."""
  return jnp.all(
      jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)])
  )
