"""The same work here and in PyTorch, which `pip install torch torchvision`.

  python tests/benchmarks/peers.py step --config=simclr:cifar10 \
    --config.net.name=vit_tiny --config.batch_size=32
  python tests/benchmarks/peers.py augment --config=simclr:imagenet2012

`step` times SimCLR's step of the same net, without augmentation; `augment` two
views of each image by torchvision's transforms, as a data loader draws them.
The last line is a JSON object.
"""

from collections.abc import Callable
import functools
import importlib
import statistics
import time
from typing import Any

from absl import app
import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import config_flags
import numpy as np
import optax

from jssl import cli
from jssl.augment.recipes import blur_kernel_size
from jssl.bench import step as bench_step
from jssl.bench._timing import seconds_of, show
from jssl.config import build, ConfigDict, lookup
from jssl.losses import nt_xent

_CONFIG = config_flags.DEFINE_config_file("config", None, cli.CONFIG_HELP)
_EXAMPLE = "python tests/benchmarks/peers.py step --config=simclr:cifar10"
_WINDOWS = 5
# PyTorch's threads wait busily for a while.
_SETTLE_SECONDS = 0.5
_TEMPERATURE = 0.5
_RATE = 1e-3
_MOMENTUM = 0.9
_WIDTH = 128  # Of the projection.


def main(argv: list[str]) -> None:
  """Runs the command."""
  measures = {"step": compare_steps, "augment": compare_views}
  with cli.plain_errors():
    name = lookup("the benchmark", "".join(argv[1:]), measures)
    result = measures[name](cli.required(_CONFIG, example=_EXAMPLE))
  show(result)


def compare_views(config: ConfigDict) -> dict[str, Any]:
  """Times two views of each image here and by torchvision, in turn.

  Args:
    config: Of SimCLR; torchvision's operations on both sides.

  Returns:
    Seconds of both, and "speed_over_torchvision", the median ratio of five.

  Raises:
    ValueError: If the config is of another method.
    ImportError: If torchvision is not installed.
  """
  config.augment.operations = "torchvision"
  exp = bench_step.random_experiment(config)
  batch = exp.pipeline.batch(
      exp.pipeline.resident(), np.arange(config.batch_size)
  )
  views = jax.jit(exp.method.views)
  ours, theirs = _in_turn(
      lambda: views(jax.random.key(0), batch),
      transforms(config, np.asarray(batch["image"])),
  )
  return {
      "seconds": statistics.median(ours),
      "torchvision_seconds": statistics.median(theirs),
      "speed_over_torchvision": _speed(ours, theirs),
      "batch_size": config.batch_size,
      "torch_threads": threads(),
  }


def _in_turn(own, other):
  """Returns the seconds of two functions, each timed five times."""
  jax.block_until_ready(own())
  other()
  seconds: tuple[list[float], list[float]] = ([], [])
  for _ in range(_WINDOWS):
    for function, times in zip((own, other), seconds):
      time.sleep(_SETTLE_SECONDS)
      times.append(seconds_of(function))
  return seconds


def _speed(ours, theirs):
  return statistics.median(b / a for a, b in zip(ours, theirs))


def transforms(config: ConfigDict, images: np.ndarray) -> Callable[[], Any]:
  """Makes a function that draws two views of each image with torchvision.

  Args:
    config: Of SimCLR: its augmentation's parameters are taken.
    images: uint8 `[B, H, W, 3]`.

  Raises:
    ValueError: If the config is of another method or other operations.
    ImportError: If torchvision is not installed.
  """
  torch, v2 = _torch("torch"), _torch("torchvision.transforms.v2")
  if config.augment.name != "simclr":
    raise ValueError(
        "torchvision draws the views of simclr alone, not of"
        f" {config.augment.name!r}: pass --config=simclr:cifar10."
    )
  if config.augment.operations != "torchvision":
    raise ValueError(
        "torchvision has its own operations only, but"
        f" config.augment.operations is {config.augment.operations!r}."
    )
  strength = config.augment.strength
  jitter = v2.ColorJitter(*(strength * x for x in (0.8, 0.8, 0.8, 0.2)))
  parts = [
      v2.RandomResizedCrop(
          config.image_size,
          scale=config.augment.scale,
          interpolation=v2.InterpolationMode(config.augment.method),
          antialias=True,
      ),
      v2.RandomHorizontalFlip(),
      v2.RandomApply([jitter], p=0.8),
      v2.RandomGrayscale(p=0.2),
  ]
  if config.augment.blur_probability:
    blur = v2.GaussianBlur(blur_kernel_size(config.image_size), (0.1, 2.0))
    parts.append(v2.RandomApply([blur], p=config.augment.blur_probability))
  transform = v2.Compose([*parts, v2.ToDtype(torch.float32, scale=True)])
  images = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())

  def draw():
    return [torch.stack([transform(x) for x in images]) for _ in range(2)]

  return draw


def threads() -> int:
  """Returns the number of threads that PyTorch uses."""
  return _torch("torch").get_num_threads()


def compare_steps(config: ConfigDict) -> dict[str, Any]:
  """Times SimCLR's step of the same net here and in PyTorch, in turn.

  Two views are given: what is timed is forward, NT-Xent, backward and SGD, in
  float32 on the CPU. The nets have the same layers and numbers of parameters.

  Args:
    config: For its net, image size and batch size: a ResNet-18 with CIFAR's
      stem, or a vision transformer.

  Returns:
    Seconds of both, and "speed_over_torch", the median ratio of five.

  Raises:
    ValueError: If PyTorch's side lacks the net, or its number of parameters
      differs.
    ImportError: If PyTorch is not installed.
  """
  shape = (config.batch_size, config.image_size, config.image_size, 3)
  random = np.random.default_rng(0)
  views = [random.random(shape, np.float32) for _ in range(2)]
  own, size = _own_step(config, views)
  other, other_size = _torch_step(config, views)
  if size != other_size:
    raise ValueError(
        f"the nets differ: {size:,} parameters here, {other_size:,} in PyTorch."
    )
  ours, theirs = _in_turn(own, other)
  return {
      "seconds": statistics.median(ours),
      "torch_seconds": statistics.median(theirs),
      "speed_over_torch": _speed(ours, theirs),
      "net": config.net.name,
      "parameters": size,
      "batch_size": config.batch_size,
      "torch": _torch("torch").__version__,
      "torch_threads": threads(),
      "jax": jax.__version__,
  }


def _own_step(config, views):
  """Returns a function that takes a step, and the number of parameters."""
  net, head = build.net(config), nn.Dense(_WIDTH, use_bias=False)
  images = jnp.concatenate([jnp.asarray(x) for x in views])
  variables = jax.jit(net.init)(jax.random.key(0), images[:1])
  dim = jax.eval_shape(net.apply, variables, images)["pooled"].shape[1]
  params = {
      "net": variables["params"],
      "head": head.init(jax.random.key(1), jnp.zeros((1, dim))),
  }
  optimizer = optax.sgd(_RATE, _MOMENTUM)
  rest = {name: x for name, x in variables.items() if name != "params"}

  def loss(params, rest, images):
    features, rest = net.apply(
        {"params": params["net"], **rest},
        images,
        train=True,
        mutable=list(rest),
    )
    z0, z1 = jnp.split(head.apply(params["head"], features["pooled"]), 2)
    return nt_xent(z0, z1, temperature=_TEMPERATURE), rest

  @functools.partial(jax.jit, donate_argnums=0)
  def step(state, images):
    params, rest, opt_state = state
    gradients, rest = jax.grad(loss, has_aux=True)(params, rest, images)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), rest, opt_state

  state = (params, rest, optimizer.init(params))

  def run():
    nonlocal state
    state = step(state, images)
    return state

  return run, sum(x.size for x in jax.tree.leaves(params))


def _torch_step(config, views):
  """The same in PyTorch."""
  torch = _torch("torch")
  functional = torch.nn.functional
  if config.net.name == "resnet18":
    model, dim = _torch_resnet18(torch, config)
  elif config.net.name.startswith("vit_"):
    model, dim = _torch_vit(torch, build.net(config), config)
  else:
    raise ValueError(
        "PyTorch's side has the nets resnet18 and vit_*, not"
        f" {config.net.name!r}."
    )
  head = torch.nn.Linear(dim, _WIDTH, bias=False)
  params = [*model.parameters(), *head.parameters()]
  optimizer = torch.optim.SGD(params, _RATE, momentum=_MOMENTUM)
  images = torch.from_numpy(np.concatenate(views).transpose(0, 3, 1, 2).copy())
  count = len(images)
  positive = (torch.arange(count) + count // 2) % count
  mask = torch.full((count,), float("-inf")).diag()

  def run():
    z = functional.normalize(head(model((images - 0.5) / 0.25)))
    cost = functional.cross_entropy(z @ z.T / _TEMPERATURE + mask, positive)
    optimizer.zero_grad()
    cost.backward()
    optimizer.step()

  return run, sum(x.numel() for x in params)


def _torch_resnet18(torch, config):
  if (config.net.stem, config.net.width) != ("cifar", 64):
    raise ValueError(
        "PyTorch's resnet18 has CIFAR's stem and width 64, not stem"
        f" {config.net.stem!r} and width {config.net.width}."
    )
  model = _torch("torchvision.models").resnet18()
  model.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
  model.maxpool = model.fc = torch.nn.Identity()
  return model, 512


def _torch_vit(torch, net, config):
  """A transformer of PyTorch's own layers, as large as a net of jssl."""
  count = (config.image_size // net.patch_size) ** 2 + 1

  class Transformer(torch.nn.Module):

    def __init__(self):
      super().__init__()
      side = net.patch_size
      self.patch = torch.nn.Conv2d(3, net.width, side, side)
      self.token = torch.nn.Parameter(torch.zeros(1, 1, net.width))
      self.positions = torch.nn.Parameter(torch.zeros(1, count, net.width))
      layer = torch.nn.TransformerEncoderLayer(
          net.width,
          net.heads,
          int(net.mlp_ratio * net.width),
          dropout=0.0,
          activation="gelu",
          layer_norm_eps=1e-6,
          batch_first=True,
          norm_first=True,
      )
      self.blocks = torch.nn.TransformerEncoder(
          layer, net.depth, enable_nested_tensor=False
      )
      self.norm = torch.nn.LayerNorm(net.width)

    def forward(self, x):
      x = self.patch(x).flatten(2).transpose(1, 2)
      x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
      return self.norm(self.blocks(x + self.positions))[:, 0]

  return Transformer(), net.width


def _torch(name):
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise ImportError(
        f"This needs {name.partition('.')[0]}: pip install torch torchvision"
    ) from error


if __name__ == "__main__":
  app.run(main, flags_parser=lambda argv: cli.parse(argv, words=1))
