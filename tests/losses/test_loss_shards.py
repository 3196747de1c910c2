"""A batch split over devices gives the loss of the global batch."""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import numpy as np
import pytest

from jssl import losses

BATCH = 8
LABELS = np.array([0, 1, 0, 2, 1, 7, 0, 2])


class Case(NamedTuple):
  """A loss, the shapes of what it differentiates, and where the batch is.

  Attributes:
    loss: `(*inputs, axis_name) -> scalar`.
    shapes: Of the global inputs.
    axis: The batch among their dimensions.
    rest: An argument without gradient, after the inputs, split alike.
  """

  loss: Callable[..., jax.Array]
  shapes: tuple[tuple[int, ...], ...]
  axis: int = 0
  rest: tuple[np.ndarray, ...] = ()


def _without_axis(loss):
  """For a loss that needs no axis: its shards are means of their own."""
  return lambda *inputs, axis_name: loss(*inputs)


PAIR = ((BATCH, 6), (BATCH, 6))
CASES = {
    "batch_info_nce": Case(
        functools.partial(losses.batch_info_nce, temperature=0.2), PAIR
    ),
    "nt_xent": Case(functools.partial(losses.nt_xent, temperature=0.2), PAIR),
    "dcl": Case(functools.partial(losses.dcl, temperature=0.2), PAIR),
    "dclw": Case(functools.partial(losses.dclw, temperature=0.2), PAIR),
    "supcon": Case(
        functools.partial(losses.supcon, temperature=0.2),
        ((2, BATCH, 6),),
        axis=1,
        rest=(LABELS,),
    ),
    "supcon, some without labels": Case(
        functools.partial(losses.supcon, temperature=0.2),
        ((2, BATCH, 6),),
        axis=1,
        rest=(np.array([0, -1, 0, 2, -1, 7, -1, 2]),),
    ),
    "negative_cosine": Case(_without_axis(losses.negative_cosine), PAIR),
    "barlow_twins": Case(losses.barlow_twins, PAIR),
    "vicreg": Case(losses.vicreg, PAIR),
    "swav": Case(
        functools.partial(
            losses.swav, temperature=0.2, epsilon=0.5, iterations=3
        ),
        ((2, BATCH, 5), (3, BATCH, 5)),
        axis=1,
    ),
    "dino": Case(
        _without_axis(
            functools.partial(
                losses.dino,
                center=np.linspace(0, 1, 5),
                student_temperature=0.2,
                teacher_temperature=0.1,
            )
        ),
        ((4, BATCH, 5), (2, BATCH, 5)),
        axis=1,
    ),
}


def _inputs(case):
  random = np.random.default_rng(0)
  inputs = []
  for shape in case.shapes:
    x = random.normal(size=shape)
    # Shards differ in their mean too: a dropped average must show.
    drift = np.linspace(0, 1, BATCH)[:, None]  # Same for all V and D.
    inputs.append((x + drift).astype(np.float32))
  return tuple(inputs)


@functools.cache
def _global(name):
  case = CASES[name]
  inputs = _inputs(case)
  loss = lambda *inputs: case.loss(*inputs, *case.rest, axis_name=None)
  places = tuple(range(len(inputs)))
  return jax.jit(jax.value_and_grad(loss, argnums=places))(*inputs)


# With 8 devices each holds a single image.
@pytest.mark.parametrize("devices", [2, 8])
@pytest.mark.parametrize("name", CASES)
def test_shards_equal_the_global_batch(name, devices):
  case = CASES[name]
  inputs = _inputs(case)

  def shard(inputs, rest):
    def loss(*inputs):
      value = case.loss(*inputs, *rest, axis_name="shards")
      return jax.lax.pmean(value, "shards")

    return jax.value_and_grad(loss, argnums=tuple(range(len(inputs))))(*inputs)

  value, gradients = jax.jit(jax.vmap(shard, axis_name="shards"))(
      [np.stack(np.split(x, devices, case.axis)) for x in inputs],
      [np.stack(np.split(x, devices)) for x in case.rest],
  )
  expected, global_gradients = _global(name)
  np.testing.assert_allclose(value, np.full(devices, expected), rtol=1e-5)
  # A shard's own rows weigh 1 / N in the global mean.
  for shards, gradient in zip(gradients, global_gradients):
    joined = np.concatenate(list(shards), case.axis) / devices
    np.testing.assert_allclose(joined, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name", sorted(set(CASES) - {"negative_cosine", "dino"})
)
def test_a_single_image_is_refused_across_the_batch(name):
  """Its value would be the same whatever the embedding, without gradient."""
  case = CASES[name]
  one = [np.take(x, [0], case.axis) for x in _inputs(case)]
  rest = [x[:1] for x in case.rest]
  with pytest.raises(ValueError, match=r"global batch of 1 image.*at least 2"):
    case.loss(*one, *rest, axis_name=None)
  alone = jax.vmap(
      lambda *x: case.loss(*x, *rest, axis_name="shards"), axis_name="shards"
  )
  with pytest.raises(ValueError, match=r"global batch of 1 image.*at least 2"):
    alone(*[x[None] for x in one])


def test_every_loss_across_the_batch_is_here():
  across = {
      name
      for name in losses.__all__
      if "axis_name" in getattr(losses, name).__code__.co_varnames
  }
  # They return no scalar: see their own tests.
  assert across - {"sinkhorn", "update_center"} <= set(CASES)
