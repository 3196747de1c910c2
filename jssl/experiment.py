"""An experiment: what a config describes, made once, and its compiled steps."""

from collections.abc import Callable, Sequence
import dataclasses
import operator
from typing import Any

import jax
import numpy as np
import optax

from jssl import data, parallel
from jssl.config import build, ConfigDict, lookup
from jssl.encoder import Encoder, example_batch, make_encode
from jssl.method import Method
from jssl.step import init_state, make_step, TrainState

# Steps per call on TPU and GPU, where a call costs as much as a small step. On
# CPU a convolution inside a scan is many times slower than outside.
_STEPS_PER_CALL = 20
# What each number of the config must be, and how to test it.
_NUMBERS: dict[str, tuple[Callable[[float], bool], str]] = {
    "batch_size": (lambda x: x >= 1, "at least 1"),
    "image_size": (lambda x: x >= 1, "at least 1"),
    "steps_per_dispatch": (lambda x: x >= 0, "at least 0"),
    "accumulate_steps": (lambda x: x >= 1, "at least 1"),
    "max_skipped": (lambda x: x >= 1, "at least 1"),
    "epochs": (lambda x: x > 0, "more than 0"),
    "net.micro_batches": (lambda x: x >= 1, "at least 1"),
    "data.canvas": (lambda x: x >= 0, "at least 0"),
    "data.workers": (lambda x: x >= -1, "at least -1"),
    "data.max_broken": (lambda x: 0 <= x <= 1, "a share in [0, 1]"),
    "log.every_steps": (lambda x: x >= 1, "at least 1"),
    "eval.every_epochs": (lambda x: x > 0, "more than 0"),
    "eval.k": (lambda x: x >= 0, "at least 0"),
    "eval.temperature": (lambda x: x > 0, "more than 0"),
    "eval.max_images": (lambda x: x >= 1, "at least 1"),
    "checkpoint.every_epochs": (lambda x: x > 0, "more than 0"),
    "checkpoint.keep": (lambda x: x >= 1, "at least 1"),
}


@dataclasses.dataclass(frozen=True)
class Experiment:
  """An experiment, as described by a config.

  Attributes:
    config: The config, with "resolved" facts about the data.
    method: The method, over the axis `parallel.AXIS_NAME`.
    optimizer: An optax optimizer.
    learning_rate: A function of the step.
    pipeline: Training images on their way to the step.
    train: Training images for evaluations: all, or some of a streamed set.
    test: Held-out images.
    steps_per_epoch: Number of full batches in the training set.
    total_steps: Number of steps of the whole training.
    steps_per_call: Largest number of steps compiled into one call.
    encode: See `jssl.encoder.make_encode`.
    init: Jitted, from a PRNG key to the state before the first step.
  """

  config: ConfigDict
  method: Method
  optimizer: optax.GradientTransformation
  learning_rate: Callable[[int], float]
  pipeline: data.Pipeline
  train: data.Images
  test: data.Images
  steps_per_epoch: int
  total_steps: int
  steps_per_call: int
  encode: Callable[..., Any]
  init: Callable[[jax.Array], TrainState]


def make(config: ConfigDict) -> Experiment:
  """Makes an experiment.

  Args:
    config: The config, see `jssl.config.base`.

  Raises:
    ValueError: If something in the config is wrong.
    OSError: If the data cannot be found.
  """
  _check(config)
  source = open_split(config, "train")
  _check_size(config, source.length)
  # Mistakes are refused before pictures are decoded.
  training = _training(config, source.channels, source.length)
  train, streamed = _load(config, source)
  if streamed:
    pipeline = data.streamed_pipeline(
        source,
        train,
        batch_size=config.batch_size,
        seed=config.seed,
        cache=config.data.cache or None,
        workers=config.data.workers,
        max_broken=config.data.max_broken,
    )
  else:
    _check_size(config, len(train.image))
    pipeline = data.resident_pipeline(
        train, batch_size=config.batch_size, seed=config.seed
    )
  if pipeline.size != source.length:  # Broken pictures shorten the epoch.
    training = _training(config, source.channels, pipeline.size)
  test = load_images(config, open_split(config, "test"))
  return _assemble(
      training, pipeline, train, test, fingerprint=data.fingerprint(source)
  )


def from_images(
    config: ConfigDict, train: data.Images, test: data.Images
) -> Experiment:
  """Makes an experiment with images in the place of the config's data set.

  Args:
    config: The config, see `jssl.config.base`.
    train: Training images.
    test: Held-out images.

  Raises:
    ValueError: If something in the config is wrong.
  """
  pipeline = data.resident_pipeline(
      train, batch_size=config.batch_size, seed=config.seed
  )
  training = _training(config, pipeline.shape[-1], pipeline.size)
  return _assemble(training, pipeline, train, test, fingerprint=None)


def open_split(config: ConfigDict, split: str) -> data.Source:
  """Opens the split that the config calls "train" or "test"."""
  return data.open_source(
      config.data.name,
      config.data[split],
      data_dir=config.data.data_dir or None,
  )


def load_images(config: ConfigDict, source: data.Source) -> data.Images:
  """Loads the images of a split, see `jssl.data.load_images`."""
  return _load(config, source)[0]


def _load(config, source):
  """Returns the images of a split, and whether it is streamed."""
  return data.load_images(
      source,
      canvas=config.data.canvas or None,
      stream=config.data.stream,
      max_images=config.eval.max_images,
      max_broken=config.data.max_broken,
  )


def initial_state(exp: Experiment) -> TrainState:
  """Makes the state before the first step: a function of the seed alone."""
  key = jax.random.key(exp.config.seed)
  return parallel.replicate(exp.init(key))


def encoder(exp: Experiment, state: TrainState) -> Encoder:
  """Returns the encoder of a state."""
  return Encoder(
      config=exp.config,
      method=exp.method,
      step=int(state.step),
      params=(state.params, state.carried),
      encode=exp.encode,
  )


def make_call(exp: Experiment) -> jax.stages.Wrapped:
  """Compiles the steps of an experiment, see `map_steps`."""
  return map_steps(exp.method, exp.optimizer, exp.pipeline.batch)


def map_steps(
    method: Method,
    optimizer: optax.GradientTransformation,
    batch_of: Callable[[Any, Any], dict[str, jax.Array]],
    *,
    devices: Sequence[jax.Device] | None = None,
) -> jax.stages.Wrapped:
  """Compiles several steps into one call, mapped over the devices.

  Args:
    method: The method, over the axis `parallel.AXIS_NAME`.
    optimizer: An optax optimizer.
    batch_of: See `jssl.data.Pipeline.batch`.
    devices: Devices to compile for; None for all of this machine.

  Returns:
    `(state, resident, inputs) -> (state, metrics)`, which can also be
    `lower`ed: `resident` and `inputs` as the pipeline gives them; metrics are
    `[S]` each. The state is donated.
  """
  step = make_step(method, optimizer, parallel.AXIS_NAME)

  def call(state, resident, inputs):
    def body(state, x):
      return step(state, batch_of(resident, x))

    if len(jax.tree.leaves(inputs)[0]) > 1:
      return jax.lax.scan(body, state, inputs)
    state, metrics = body(state, jax.tree.map(lambda x: x[0], inputs))
    return state, jax.tree.map(lambda x: x[None], metrics)

  return parallel.map_devices(call, in_axes=(None, None, 0), devices=devices)


def _training(config, channels, images):
  """Makes method, optimizer and schedule for a number of training images.

  Returns:
    The first fields of an `Experiment`, by name.
  """
  config = _with_statistics(config, channels)
  steps_per_epoch = data.steps_per_epoch(images, config.batch_size)
  total_steps = round(config.epochs * steps_per_epoch)
  schedule = build.schedule(config, steps_per_epoch=steps_per_epoch)
  return dict(
      config=config,
      method=build.method(
          config, steps_per_epoch=steps_per_epoch, axis_name=parallel.AXIS_NAME
      ),
      optimizer=build.optimizer(config, steps_per_epoch=steps_per_epoch),
      learning_rate=lambda step: schedule(step // config.accumulate_steps),
      steps_per_epoch=steps_per_epoch,
      total_steps=total_steps,
      steps_per_call=_steps_per_call(
          config.steps_per_dispatch, total_steps, steps_per_epoch
      ),
  )


def _assemble(training, pipeline, train, test, *, fingerprint):
  """Adds the images to the method, optimizer and schedule."""
  config, method = training["config"], training["method"]
  config.resolved = dict(
      channels=pipeline.shape[-1],
      classes=list(pipeline.classes),
      train_images=pipeline.size,
      fingerprint=fingerprint,
  )
  example = example_batch(config)
  made = Experiment(
      **training,
      pipeline=pipeline,
      train=train,
      test=test,
      encode=make_encode(
          method,
          image_size=config.image_size,
          crop_fraction=config.eval.crop_fraction,
      ),
      init=jax.jit(
          lambda key: init_state(method, training["optimizer"], key, example)
      ),
  )
  if config.batch_size < 2 * config.net.groups:
    _check_step(made, example)
  return made


def _with_statistics(config, channels):
  """Copies a config; gray images get the average of the colors' statistics."""
  config = ConfigDict(config.to_dict())
  for name in ("mean", "std"):
    colors = np.atleast_1d(config.net.get(name, 0.5))
    if channels == 1 and len(colors) == 3:
      with config.ignore_type():
        config.net[name] = round(float(np.mean(colors)), 4)
  return config


def _steps_per_call(limit, total_steps, steps_per_epoch):
  """Returns the limit, or a divisor of the total number of steps near it.

  With a divisor no last call has another length, so that nothing is compiled
  twice. By default no call is longer than an epoch, so that each epoch has its
  row of metrics.
  """
  if not limit:
    limit = 1 if jax.default_backend() == "cpu" else _STEPS_PER_CALL
    limit = min(limit, steps_per_epoch)
  near = range(limit // 2 + 1, limit + 1)
  return max((n for n in near if total_steps % n == 0), default=limit)


def _check(config):
  """Refuses wrong values before anything is loaded."""
  for name, (is_valid, expected) in _NUMBERS.items():
    if not is_valid(value := operator.attrgetter(name)(config)):
      raise ValueError(f"config.{name} is {value}; expected {expected}.")
  choices = ("auto", "always", "never")
  lookup("config.data.stream", config.data.stream, choices)
  build.check_names(config)
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


def _check_size(config, images):
  """Refuses a training set without a full batch."""
  devices = jax.device_count()
  if images < min(config.batch_size, devices):
    raise ValueError(
        f"The training set has {images} images, fewer than the {devices}"
        " devices: expected at least one per device; use a larger set, or fewer"
        " devices."
    )
  if images < config.batch_size:
    raise ValueError(
        f"The training set has {images} images, fewer than one batch of"
        f" {config.batch_size} (config.batch_size): give"
        f" {_suggest_batch_size(config, images)}, or a larger set."
    )


def _suggest_batch_size(config: ConfigDict, most: int) -> str:
  """Returns flags for a batch that devices, net and queue accept.

  Args:
    config: The config.
    most: Largest batch, at least the number of devices.

  Returns:
    Such as "--config.batch_size=64 --config.method.queue_size=256": other
    entries that have to change are among them.
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


def _check_step(exp, example):
  """Lets losses and norms refuse too small a batch, without compiling."""
  size, devices = exp.config.batch_size, jax.local_device_count()
  shape = (devices, size // jax.device_count())
  batch = {
      name: jax.ShapeDtypeStruct((*shape, *x.shape[1:]), x.dtype)
      for name, x in example.items()
  }
  step = make_step(exp.method, exp.optimizer, parallel.AXIS_NAME)
  try:
    jax.eval_shape(
        parallel.map_devices(step, in_axes=(None, 0)),
        jax.eval_shape(exp.init, jax.random.key(0)),
        batch,
    )
  except ValueError as error:
    raise ValueError(f"config.batch_size is {size}: {error}") from error
