"""Five steps of a method, compared with those of the authors' code.

The other side ran outside the project, from the same starting values and views,
and left its losses and checksums in `golden/trajectories/`. Both sides draw the
starting values leaf by leaf, each from a generator that is seeded by the leaf's
path, so that they need no file.
"""

import pathlib
from typing import Any, NamedTuple
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from jssl import make_step
import tiny

STEPS = 5
# Of float32 against float64, relative to the loss, or to 0.1 where it is less.
LOSS_TOLERANCE = 1e-5
# Of a leaf's checksums, relative to how far the leaf moved in all five steps.
# It holds for narrow nets: a ReLU that rounding turns on or off moves PyTorch
# in float32 further than that from itself in float64.
TOLERANCE = 2e-3
_FOLDER = pathlib.Path(__file__).parent / "golden" / "trajectories"


class Trajectory(NamedTuple):
  """What five steps made.

  Attributes:
    losses: `[5]`.
    start: The `TrainState` before the first step.
    end: The one after the last.
  """

  losses: np.ndarray
  start: Any
  end: Any


def reference(name: str) -> dict[str, np.ndarray]:
  """Reads what the authors' code made."""
  with np.load(_FOLDER / f"{name}.npz") as archive:
    return dict(archive)


def run(
    method, optimizer, views, *, seed, steps=STEPS, adapt=lambda params: params
) -> Trajectory:
  """Takes steps on given views.

  Args:
    method: The method; its own views are not drawn.
    optimizer: The optimizer.
    views: A tree of what `Method.loss` takes, `[steps, ...]` each.
    seed: Seed of the starting values; see `draw`.
    steps: Number of steps.
    adapt: Changes the drawn parameters, where a method has a rule for them.
  """
  method = method._replace(views=lambda key, batch: batch["views"])

  def batch(i):
    now = jax.tree.map(lambda x: jnp.asarray(x[i]), views)
    return {"views": now, "image": jnp.zeros((1, 1, 1, 3))}

  state = tiny.start(method, optimizer, batch(0))
  params = adapt(draw(state.params, seed))
  carried = draw(state.carried, seed)
  if hasattr(carried, "target_params"):
    carried = carried._replace(target_params=adapt(carried.target_params))
  # The optimizer may keep parameters, or what depends on them.
  start = state._replace(
      params=params, carried=carried, opt_state=optimizer.init(params)
  )
  # Compiled the same way everywhere: a ReLU that flips by other rounding ends
  # the comparison.
  options = {
      "xla_backend_optimization_level": 0,
      "xla_llvm_disable_expensive_passes": True,
  }
  step = jax.jit(make_step(method, optimizer), compiler_options=options)
  state, losses = start, []
  for i in range(steps):
    state, metrics = step(state, batch(i))
    assert not metrics["skipped"]
    losses.append(float(metrics["loss"]))
  return Trajectory(np.array(losses), start, state)


def draw(tree, seed):
  """Replaces every array of a tree by a starting value.

  A leaf's value depends on its path within the branch and on its shape alone:
  a target network starts equal to the online one, as with the authors.
  """

  def new(path, old):
    name = _path(path)
    if np.ndim(old) == 0 or name == "center":
      return old
    if name == "queue/keys":
      x = _random(name, seed).standard_normal(old.shape)
      x /= np.linalg.norm(x, axis=-1, keepdims=True)
    else:
      x = _value(name, old.shape, seed)
    return jnp.asarray(x, old.dtype)

  return jax.tree_util.tree_map_with_path(new, tree)


def make_views(seed, *, count=2, batch=16, size=32, steps=STEPS, name="views"):
  """Makes views of images in [0, 1], float32 `[steps, V, B, H, W, C]`.

  All views of an image share its blocks of 8 x 8 pixels; each has noise of its
  own.

  Args:
    seed: Seed of all of them.
    count: Number of views, V.
    batch: Number of images, B.
    size: Height and width, a multiple of 8.
    steps: Number of batches.
    name: Distinguishes several sets of views.
  """
  blocks = _random(f"{name}/images", seed).uniform(
      size=(steps, 1, batch, size // 8, size // 8, 3)
  )
  noise = _random(name, seed).uniform(size=(steps, count, batch, size, size, 3))
  images = np.repeat(np.repeat(blocks, 8, axis=3), 8, axis=4)
  return (0.5 * images + 0.5 * noise).astype(np.float32)


def check(trajectory, golden, trees, *, without_gradient=()):
  """Asserts that losses and parameters agree with the authors' code.

  Args:
    trajectory: See `run`.
    golden: See `reference`.
    trees: What to compare, by its name in `golden`: a function of a
      `TrainState` that returns a tree of arrays. The tree must have the leaves
      of the reference, no fewer and no more.
    without_gradient: Leaves whose gradient is zero except for rounding, which
      Adam turns into steps: they are not compared.
  """
  error = np.abs(trajectory.losses - golden["loss"])
  error /= np.maximum(np.abs(golden["loss"]), 0.1)
  print(f"relative error of the loss: {error.max():.1e}")
  assert error.max() < LOSS_TOLERANCE, (trajectory.losses, golden["loss"])
  for tree, select in trees.items():
    start = _leaves(select(trajectory.start))
    end = _leaves(select(trajectory.end))
    expected = dict(zip(golden[f"{tree}_paths"].tolist(), golden[tree]))
    assert sorted(start) == sorted(expected)
    errors = {
        path: _error(start[path], end[path], expected[path])
        for path in expected
        if path not in without_gradient
    }
    worst = max(errors, key=errors.get)
    print(f"relative error of {tree}: {errors[worst]:.1e} ({worst})")
    wrong = {k: float(v) for k, v in errors.items() if not v < TOLERANCE}
    assert not wrong, (tree, wrong)


def checksum(x):
  """Sum, length, and a product that depends on the order, float64 `[3]`."""
  x = np.asarray(x, np.float64).ravel()
  return np.array([x.sum(), np.linalg.norm(x), x @ np.cos(np.arange(x.size))])


def _error(start, end, expected):
  """The largest error of a leaf's checksum, relative to its movement.

  What hardly moves is compared to float32 rounding of its own length.
  """
  moved = np.linalg.norm(end.astype(np.float64) - start)
  scale = max(moved, 1e-3 * np.linalg.norm(start), 1e-12)
  return np.max(np.abs(checksum(end) - expected)) / scale


def _leaves(tree):
  """Arrays of a tree by their paths."""
  leaves = {}
  for path, x in jax.tree_util.tree_leaves_with_path(tree):
    name, x = _path(path), np.asarray(x)
    if name.endswith("qkv/bias"):
      # A key's bias shifts all scores of a query alike: its gradient is only
      # rounding, which Adam turns into whole steps.
      x = x.reshape(3, -1)[::2]
    leaves[name] = x
  return leaves


def _path(path):
  """ "net/stem/kernel", without what a target network's tree is named."""
  names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
  if names[0].endswith(("params", "batch_stats")):
    names = names[1:]
  return "/".join(names)


def _random(path, seed):
  return np.random.RandomState(zlib.crc32(path.encode()) ^ seed)


def _value(path, shape, seed):
  """Nothing starts at exactly zero or one, where mistakes would not show."""
  x = _random(path, seed).standard_normal(shape)
  match path.rpartition("/")[2]:
    case "kernel":
      return x / np.sqrt(np.prod(shape[:-1]))
    case "scale":
      return 1 + 0.1 * x
    case "var":
      return np.exp(0.1 * x)
  return 0.1 * x  # Biases, running means, tokens, positions.
