"""What the compiled step does with its memory: the queue is not copied."""

import re

import jax
import jax.numpy as jnp
import optax
import pytest

from jssl import make_step
from jssl.methods import METHODS
import tiny

SIZE, DIM, BATCH = 4112, 48, 8  # A shape that nothing else has.


def _compiled(name, *, donate=True, spoil=False, **arguments):
  method = METHODS[name](
      tiny.Net(), augment=tiny.recipe, queue_size=SIZE, dim=DIM, **arguments
  )
  optimizer = optax.sgd(0.1, momentum=0.9)
  batch = {"image": tiny.images(BATCH)}
  state = tiny.start(method, optimizer, batch)
  step = make_step(method, optimizer)

  def spoiled(state, batch):
    """Reads the queue after it was overwritten."""
    new, metrics = step(state, batch)
    read = jnp.sum(state.carried.queue.keys * new.carried.queue.keys)
    return new, metrics | {"read": read}

  compiled = jax.jit(
      spoiled if spoil else step, donate_argnums=0 if donate else ()
  ).lower(state, batch)
  return compiled.compile(), state


def _copies(text):
  """Instructions that copy an array as large as the queue."""
  return re.findall(rf"f32\[{SIZE},{DIM}\]\S* copy(?:-start)?\(.*", text)


def _aliased(text, number):
  """Whether a parameter's memory becomes that of a result."""
  return re.search(rf"\{{\d+\}}: \({number}, ", text.splitlines()[0])


def _queue_number(state):
  """Which of the flat parameters the queue's keys are."""
  leaves = jax.tree.leaves(state)
  shapes = [getattr(x, "shape", ()) for x in leaves]
  return shapes.index((SIZE, DIM))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("moco_v2", {}), ("moco_v2", {"symmetric": True}), ("nnclr", {})],
)
def test_the_queue_is_updated_in_place(name, arguments):
  compiled, state = _compiled(name, **arguments)
  text = compiled.as_text()
  assert _aliased(text, _queue_number(state))
  assert not _copies(text)
  if name == "moco_v2":  # Less than a second queue.
    logits = 2 * BATCH  # A row each, in both directions.
    temporary = compiled.memory_analysis().temp_size_in_bytes
    assert temporary < 4 * SIZE * (DIM + logits)


@pytest.mark.slow
def test_what_needs_a_second_queue_is_seen(monkeypatch):
  """The test above can fail: without donation, when the queue is read late, or
  when the change is not in a branch, which waits for all of its readers."""
  compiled, state = _compiled("moco_v2", donate=False)
  assert not _aliased(compiled.as_text(), _queue_number(state))
  compiled, _ = _compiled("moco_v2", spoil=True)
  assert _copies(compiled.as_text())
  monkeypatch.setattr(jax.lax, "cond", lambda which, a, b, x: a(x))
  compiled, _ = _compiled("moco_v2")
  assert _copies(compiled.as_text())
