"""The contract of a method: pure functions and the trees between them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

PyTree = Any


class Keys(NamedTuple):
  """PRNG keys of one step, for randomness outside of `views`.

  Attributes:
    shared: The same key on every device (ShuffleBN's permutation).
    local: A different key on every device (dropout).
  """

  shared: jax.Array
  local: jax.Array


class Aux(NamedTuple):
  """The outputs of a loss, next to its value.

  Attributes:
    fresh: What `update` needs (new statistics, gathered keys): without
      gradient, and already equal on every device.
    metrics: Scalars, which are averaged over the devices and logged.
  """

  fresh: PyTree
  metrics: dict[str, jax.Array]


class Pictures(NamedTuple):
  """Input, output and target of a generative method, as images.

  Attributes:
    seen: The input, `[B, H, W, C]` in [0, 1].
    output: The output, likewise; visible pixels are those of the input.
    original: The target, likewise.
  """

  seen: jax.Array
  output: jax.Array
  original: jax.Array


class Method(NamedTuple):
  """A self-supervised method.

  Attributes:
    views: `(key, batch) -> views`. Draws all randomness of the task.
      `batch` is a dict with "image" `[B, H, W, C]`, uint8 or float in [0, 1],
      and optionally "extent" `[B, 2]` (true height and width of an image on a
      canvas, see `augment.make_views`), "position" `[B]` (in the global batch;
      an image's randomness depends on it, not on the device) and "label"
      `[B]`. Views are an opaque tree.
    init: `(key, views) -> (params, carried)`. `params` is all that is
      differentiated; `carried` is everything else that is kept from step to
      step, equal on every device.
    loss: `(params, carried, views, keys, step) -> (scalar, Aux)`, the mean
      over this device's part of the batch.
    update: `(params, carried, fresh, step) -> (params, carried)`, after the
      optimizer has changed `params`.
    encode: `(params, carried, images) -> {"pooled": [B, D], "stage_1": ...}`,
      features of images `[B, H, W, C]` in [0, 1], without augmentation.
    pictures: `(params, carried, views) -> Pictures`; None unless the method is
      generative.
    frozen_steps: `(params) -> tree` of numbers, like `params`: for how many
      steps each parameter is frozen; 0 for none, `math.inf` forever.
      `make_step` hides a frozen parameter from the optimizer, whose state for
      it (moments, step count, momentum) does not change either. None if no
      parameter is frozen.
    needs: What the method requires: "patches" (a vision transformer),
      "color" (images of three channels), "labels" (in the batch).
    draw: `(views) -> {name: [V, H, W, C]}` in [0, 1], drawings of the views of
      a batch of one image; None where the views are images already.

  Example:
    The smallest method: it learns the mean color and carries nothing.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jssl import Method, make_step, optim
    >>> from jssl.method import Aux
    >>> from jssl.step import init_state
    >>> def loss(params, carried, views, keys, step):
    ...   error = jnp.mean(jnp.square(views - params["color"]))
    ...   return error, Aux(fresh={}, metrics={})
    >>> method = Method(
    ...     views=lambda key, batch: batch["image"],
    ...     init=lambda key, views: ({"color": jnp.zeros(3)}, {}),
    ...     loss=loss,
    ...     update=lambda params, carried, fresh, step: (params, carried),
    ...     encode=lambda params, carried, images: {
    ...         "pooled": jnp.mean(images, axis=(1, 2)) - params["color"]
    ...     },
    ... )
    >>> batch = {"image": jnp.full((4, 8, 8, 3), 0.25)}
    >>> optimizer = optim.sgd(0.5, momentum=0.0)
    >>> state = init_state(method, optimizer, jax.random.key(0), batch)
    >>> step = jax.jit(make_step(method, optimizer))
    >>> for _ in range(20):
    ...   state, metrics = step(state, batch)
    >>> state.params["color"].round(2).tolist()
    [0.25, 0.25, 0.25]
  """

  views: Callable[[jax.Array, dict[str, jax.Array]], PyTree]
  init: Callable[[jax.Array, PyTree], tuple[PyTree, PyTree]]
  loss: Callable[..., tuple[jax.Array, Aux]]
  update: Callable[..., tuple[PyTree, PyTree]]
  encode: Callable[..., dict[str, jax.Array]]
  pictures: Callable[..., Pictures] | None = None
  frozen_steps: Callable[[PyTree], PyTree] | None = None
  needs: frozenset[str] = frozenset()
  draw: Callable[[PyTree], dict[str, jax.Array]] | None = None
