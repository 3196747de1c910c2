"""A run: what a config describes, made, and its compiled parts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from jssl import build
from jssl import data
from jssl import encoder
from jssl import feed as feeds
from jssl import parallel
from jssl.config import ConfigDict
from jssl.evals import scores
from jssl.evals.features import compute
from jssl.evals.features import Features
from jssl.method import Method
from jssl.step import init_state
from jssl.step import make_step
from jssl.step import TrainState

# Steps a call on TPU and GPU, where a call costs as much as a small step. On
# CPU a convolution inside a scan is many times slower than outside.
_STEPS_PER_DISPATCH = 20


class Run(NamedTuple):
  """What training needs.

  Attributes:
    config: The config, with "resolved" facts about the data.
    method: The method, over the axis `parallel.AXIS_NAME`.
    learning_rate: A function of the step.
    optimizer: An optax optimizer.
    feed: Images to train on, on their way to the step.
    train: Training images to look at: all, or some of those of a stream.
    test: Held-out images.
    steps_per_epoch: Number of full batches in `train`.
    total_steps: Number of steps of the whole training.
    steps_per_dispatch: Number of steps compiled into one call, at most.
    encode: See `jssl.encoder.make_encode`.
    init: Jitted, from a PRNG key to the state before the first step.
  """

  config: ConfigDict
  method: Method
  learning_rate: Callable[[int], float]
  optimizer: optax.GradientTransformation
  feed: feeds.Feed
  train: data.Images
  test: data.Images
  steps_per_epoch: int
  total_steps: int
  steps_per_dispatch: int
  encode: Callable[..., Any]
  init: Callable[[jax.Array], TrainState]


def prepare(config: ConfigDict) -> Run:
  """Makes a run from a config (see `jssl.config.base`).

  Raises:
    ValueError: If something in the config is wrong.
    OSError: If the data cannot be found.
  """
  _check(config)
  build.method(config)  # Refuses a wrong name before the data is loaded.
  _check_batch_size(config)
  source = open_source(config, "train")
  train = some_images(config, source)
  test = some_images(config, open_source(config, "test"))
  streamed = feeds.streams(config, source)
  images = source.length if streamed else len(train.image)
  if images < min(config.batch_size, jax.device_count()):
    raise ValueError(
        f"The training set has {images} images, fewer than the"
        f" {jax.device_count()} devices: expected at least one per device; use"
        " a larger set, or fewer devices."
    )
  if images < config.batch_size:
    raise ValueError(
        f"The training set has {images} images, fewer than one batch of"
        f" {config.batch_size} (config.batch_size): give"
        f" {_suggest_batch_size(config, images)}, or a larger set."
    )
  if streamed:
    feed = feeds.streamed(config, source, train)
  else:
    _check_memory(train)
    feed = feeds.resident(config, train)
  return assemble(
      config, feed, train, test, fingerprint=data.fingerprint(source)
  )


def assemble(
    config: ConfigDict,
    feed: feeds.Feed,
    train: data.Images,
    test: data.Images,
    *,
    fingerprint: int | None = None,
) -> Run:
  """Makes a run of images that are there.

  Args:
    config: See `jssl.config.base`.
    feed: Images to train on.
    train: Training images to look at.
    test: Held-out images.
    fingerprint: Of the training set.

  Raises:
    ValueError: If something in the config is wrong.
  """
  config = _with_statistics(config, feed.shape[-1])
  steps_per_epoch = data.steps_per_epoch(feed.size, config.batch_size)
  total_steps = round(config.epochs * steps_per_epoch)
  method = build.method(
      config, steps_per_epoch=steps_per_epoch, axis_name=parallel.AXIS_NAME
  )
  encode = encoder.make_encode(
      method,
      image_size=config.image_size,
      crop_fraction=config.eval.crop_fraction,
  )
  schedule = build.schedule(config, steps_per_epoch=steps_per_epoch)
  optimizer = build.optimizer(config, steps_per_epoch=steps_per_epoch)
  config.resolved = dict(
      channels=feed.shape[-1],
      classes=list(feed.classes),
      train_images=feed.size,
      fingerprint=fingerprint,
  )
  batch = encoder.example_batch(config)
  run = Run(
      config=config,
      method=method,
      learning_rate=lambda step: schedule(step // config.accumulate_steps),
      optimizer=optimizer,
      feed=feed,
      train=train,
      test=test,
      steps_per_epoch=steps_per_epoch,
      total_steps=total_steps,
      steps_per_dispatch=_steps_per_dispatch(
          config, total_steps, steps_per_epoch
      ),
      encode=encode,
      init=jax.jit(lambda key: init_state(method, optimizer, key, batch)),
  )
  if config.batch_size < 2 * config.net.groups:
    _check_step(run, batch)
  return run


def initial_state(run: Run) -> TrainState:
  """Makes the state before the first step: a function of the seed alone."""
  return parallel.replicate(run.init(jax.random.key(run.config.seed)))


def open_source(config: ConfigDict, split: str) -> data.Source:
  """Opens the split that the config calls "train" or "test"."""
  return data.open_source(
      config.data.name,
      config.data[split],
      data_dir=config.data.data_dir or None,
  )


def some_images(config: ConfigDict, source: data.Source) -> data.Images:
  """Loads images to look at: all, or those evenly spaced in a large set.

  Args:
    config: See `jssl.config.base`.
    source: A split. If it is streamed, `config.eval.max_images` are taken.

  Raises:
    ValueError: If pictures differ in size without a canvas, or too many are
      broken.
  """
  if feeds.streams(config, source):
    source = data.sample(source, config.eval.max_images)
  images = data.load_source(source, canvas=config.data.canvas or None)
  broken = images.skipped[len(source.skipped) :]
  feeds.check_broken(broken, source.length, config, source)
  return images


def make_dispatch(run: Run) -> jax.stages.Wrapped:
  """Compiles several steps into one call, mapped over the devices.

  Returns:
    `(state, held, inputs) -> (state, metrics)`, which can also be `lower`ed:
    `held` as the feed's `hold` gives it, `inputs` as its `calls` do; metrics
    are `[S]` each. The state is donated.
  """
  step = make_step(run.method, run.optimizer, parallel.AXIS_NAME)

  def dispatch(state, held, inputs):
    def body(state, x):
      return step(state, run.feed.select(held, x))

    if len(jax.tree.leaves(inputs)[0]) > 1:
      return jax.lax.scan(body, state, inputs)
    state, metrics = body(state, jax.tree.map(lambda x: x[0], inputs))
    return state, jax.tree.map(lambda x: x[None], metrics)

  return parallel.map_devices(dispatch, in_axes=(None, None, 0))


def encoder_of(run: Run, state: TrainState) -> encoder.Encoder:
  """Returns the encoder of a state."""
  return encoder.Encoder(
      config=run.config,
      method=run.method,
      step=int(state.step),
      params=(state.params, state.carried),
      encode=run.encode,
  )


def compute_features(run: Run, state: TrainState) -> Features:
  """Computes the features of the run's images; of training images if labelled.

  Args:
    run: The run.
    state: The encoder's state.
  """
  return features_of(run, run.encode, (state.params, state.carried))


def features_of(run: Run, encode: Callable[..., Any], params: Any) -> Features:
  """Computes features of the run's images by any encoder, see `compute`."""
  labels = run.train.label is not None and run.test.label is not None
  return compute(
      encode,
      params,
      run.train if labels else None,
      run.test,
      batch_size=run.config.batch_size,
  )


def quick(run: Run, features: Features) -> dict[str, float]:
  """Returns the scores while training, see `jssl.evals.scores.quick`."""
  k, temperature = run.config.eval.k, run.config.eval.temperature
  return scores.quick(
      features, run.train, run.test, k=k, temperature=temperature
  )


def summarize(run: Run, features: Features) -> dict[str, Any]:
  """Returns the scores of all stages, see `jssl.evals.scores.summarize`."""
  k, temperature = run.config.eval.k, run.config.eval.temperature
  return scores.summarize(
      features, run.train, run.test, k=k, temperature=temperature
  )


def _with_statistics(config, channels):
  """Copies a config; gray images get the average of the colors' statistics."""
  config = ConfigDict(config.to_dict())
  for name in ("mean", "std"):
    colors = np.atleast_1d(config.net.get(name, 0.5))
    if channels == 1 and len(colors) == 3:
      with config.ignore_type():
        config.net[name] = round(float(np.mean(colors)), 4)
  return config


def _steps_per_dispatch(config, total_steps, steps_per_epoch):
  """Steps per call: the limit, or a divisor near it, which needs no last call
  of another length and so no second compilation. By default no call is longer
  than an epoch, so that each epoch has its row of metrics.
  """
  limit = config.steps_per_dispatch
  if not limit:
    limit = 1 if jax.default_backend() == "cpu" else _STEPS_PER_DISPATCH
    limit = min(limit, steps_per_epoch)
  near = range(limit // 2 + 1, limit + 1)
  return max((n for n in near if total_steps % n == 0), default=limit)


def _check(config):
  """Refuses numbers that mean nothing, before anything is loaded."""
  at_least = {
      "batch_size": 1,
      "image_size": 1,
      "steps_per_dispatch": 0,
      "accumulate_steps": 1,
      "max_skipped": 1,
      "net.micro_batches": 1,
      "data.canvas": 0,
      "data.workers": -1,
      "log.every_steps": 1,
      "eval.k": 1,
      "eval.max_images": 1,
      "checkpoint.keep": 1,
  }
  for name, least in at_least.items():
    if (value := _entry(config, name)) < least:
      raise ValueError(f"config.{name} is {value}; expected at least {least}.")
  if not 0 <= config.data.max_broken <= 1:
    raise ValueError(
        f"config.data.max_broken is {config.data.max_broken}; expected a share"
        " in [0, 1]."
    )
  above_zero = (
      "epochs",
      "eval.every_epochs",
      "eval.temperature",
      "checkpoint.every_epochs",
  )
  for name in above_zero:
    if (value := _entry(config, name)) <= 0:
      raise ValueError(f"config.{name} is {value}; expected more than 0.")


def _check_batch_size(config):
  """Refuses a batch that devices, groups and parts do not share evenly."""
  devices = jax.device_count()
  multiple = build.batch_multiple(config, devices=devices)
  if config.batch_size % multiple:
    raise ValueError(
        f"config.batch_size is {config.batch_size}; expected a multiple of"
        f" {multiple}, for {devices} devices with config.net.groups="
        f"{config.net.get('groups', 1)} and config.net.micro_batches="
        f"{config.net.micro_batches}: give"
        f" {_suggest_batch_size(config, max(config.batch_size, multiple))}."
    )


def _suggest_batch_size(config: ConfigDict, most: int) -> str:
  """Returns flags with a batch that devices, net and queue accept.

  Args:
    config: See `jssl.config.base`.
    most: Largest batch, at least the number of devices.

  Returns:
    Such as "--config.batch_size=64 --config.method.queue_size=256": what else
    has to change is among them.
  """
  flags = {}
  multiple = build.batch_multiple(config, devices=jax.device_count())
  if multiple > most:  # The batch is too small to be divided further.
    multiple = jax.device_count()
    flags = {
        f"net.{key}": 1
        for key in ("groups", "micro_batches")
        if config.net.get(key, 1) > 1
    }
  sizes = [multiple]
  while 2 * sizes[-1] <= most:
    sizes.append(2 * sizes[-1])
  # A symmetric loss pushes two batches per step.
  queue = config.method.get("queue_size", 0)
  fitting = [size for size in sizes if not queue % (2 * size)]
  size = max(fitting, default=sizes[-1])
  if queue % (2 * size):
    flags["method.queue_size"] = max(round(queue / (2 * size)), 1) * 2 * size
  flags = {"batch_size": size, **flags}
  return " ".join(f"--config.{name}={value}" for name, value in flags.items())


def _entry(config, name):
  for key in name.split("."):
    config = config[key]
  return config


def _check_step(run, example):
  """Has losses and norms refuse a batch of too few images, uncompiled."""
  size, devices = run.config.batch_size, jax.local_device_count()
  shape = (devices, size // jax.device_count())
  batch = {
      name: jax.ShapeDtypeStruct((*shape, *x.shape[1:]), x.dtype)
      for name, x in example.items()
  }
  step = make_step(run.method, run.optimizer, parallel.AXIS_NAME)
  try:
    jax.eval_shape(
        parallel.map_devices(step, in_axes=(None, 0)),
        jax.eval_shape(run.init, jax.random.key(0)),
        batch,
    )
  except ValueError as error:
    raise ValueError(f"config.batch_size is {size}: {error}") from error


def _check_memory(images):
  """Refuses data that the device cannot hold (unknown on CPU)."""
  stats = jax.local_devices()[0].memory_stats() or {}
  needed = images.image.nbytes
  if needed > 0.7 * stats.get("bytes_limit", float("inf")):
    raise ValueError(
        f"The images need {needed / 2**30:.3g} GiB, but the device has"
        f" {stats['bytes_limit'] / 2**30:.3g} GiB, and training needs some of"
        " it: lower config.data.canvas, or give a slice of the set such as"
        " config.data.train='train[:10%]', or stream it with"
        " config.data.stream=always."
    )
