"""The folder of a run with a tiny net, without the training."""

import jax
import jax.numpy as jnp
import numpy as np

from jssl import encoder
from jssl.checkpoint import Checkpoints
from jssl.config import build, of_method, save_config
from jssl.step import init_state


def config(method="moco_v2", channels=3, **changes):
  """A config for folders of pictures, as a run saves it."""
  made = of_method(method, "folder:photos")
  made.update(image_size=16, batch_size=8)
  made.data.canvas = 24
  made.net.update(name="resnet8", stem="cifar", width=8)
  if "queue_size" in made.method:
    made.method.queue_size = 64
  made.update(changes)
  made.resolved = dict(channels=channels, classes=["a", "b"])
  return made


def save(workdir, made, *, seed=0, step=7):
  """Saves a run of random parameters and statistics, equal for equal seeds."""
  method, optimizer = build.method(made), build.optimizer(made)
  key = jax.random.key(seed)
  batch = encoder.example_batch(made)
  state = jax.jit(lambda key: init_state(method, optimizer, key, batch))(key)
  params, carried = shaken(key, (state.params, state.carried))
  state = state._replace(
      step=jnp.asarray(step, state.step.dtype), params=params, carried=carried
  )
  workdir.mkdir(parents=True, exist_ok=True)
  save_config(made, str(workdir))
  checkpoints = Checkpoints(str(workdir))
  checkpoints.save(step, state)
  checkpoints.close()


def shaken(key, tree):
  """Changes every number at random: no bias is zero, no two trees are equal."""
  leaves, structure = jax.tree.flatten(tree)
  random = np.random.default_rng(jax.random.key_data(key).tolist())
  new = [
      x * random.uniform(0.5, 1.5, x.shape).astype(x.dtype)
      + random.normal(0, 0.02, x.shape).astype(x.dtype)
      if jnp.issubdtype(x.dtype, jnp.floating)
      else x
      for x in leaves
  ]
  return jax.tree.unflatten(structure, new)
