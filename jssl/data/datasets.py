"""Facts about data sets that are known by name, before they are opened.

A row of `DATASETS` holds the defaults of the configs and what a label permits;
a set without a row, such as a folder, gets the defaults of `Dataset`. To add
one, add a row.
"""

import dataclasses

# The default side of the square for pictures that differ in size. At 256, local
# crops lose four fifths of their detail (`python -m jssl.bench data
# --canvas=256`).
CANVAS = 512
# Sources that a name starts with, as in "folder:PATH"; else TFDS has the set.
_SOURCES = ("folder",)


@dataclasses.dataclass(frozen=True)
class Dataset:
  """The facts about a data set.

  Attributes:
    image_size: Default height and width of the images that the net sees.
    batch_size: Default global batch size.
    canvas: Default side of the square that pictures are put on; 0 if all
      pictures have one size.
    mean: Per channel, subtracted by the net from pixels in [0, 1].
    std: Per channel, the net divides by it.
    crop_fraction: Side of the central crop of an evaluation, relative to the
      picture's shorter side.
    like: Another set, whose settings in the config files apply to this one.
    embedded: Whether the set comes with jssl's dependencies: small, no network.
    flips: Whether a mirrored picture keeps its label.
    crop_scale: Smallest and largest area of a crop that keeps the label,
      relative to the picture's; None if no crop does.
  """

  image_size: int = 128
  batch_size: int = 128
  canvas: int = CANVAS
  mean: float | tuple[float, ...] = (0.485, 0.456, 0.406)  # ImageNet's.
  std: float | tuple[float, ...] = (0.229, 0.224, 0.225)
  crop_fraction: float = 1.0
  like: str = ""
  embedded: bool = False
  flips: bool = True
  # The range of torchvision's RandomResizedCrop, as protocols of ImageNet use.
  crop_scale: tuple[float, float] | None = (0.08, 1.0)


_CIFAR = Dataset(
    image_size=32,
    batch_size=512,
    canvas=0,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
_EMBEDDED = Dataset(canvas=0, mean=0.5, std=0.25, embedded=True)
_CHARACTERS = Dataset(flips=False, crop_scale=None)

DATASETS = {
    "cifar10": _CIFAR,
    "cifar100": dataclasses.replace(_CIFAR, like="cifar10"),
    "digits": dataclasses.replace(
        _EMBEDDED, image_size=16, flips=False, crop_scale=None
    ),
    "emnist": _CHARACTERS,
    "imagenet2012": Dataset(
        image_size=224, batch_size=256, crop_fraction=0.875
    ),
    "kmnist": _CHARACTERS,
    "mnist": _CHARACTERS,
    "mnist_corrupted": _CHARACTERS,
    "photos": dataclasses.replace(_EMBEDDED, image_size=32, batch_size=64),
    # House numbers: a smaller crop may show another number.
    "svhn_cropped": Dataset(flips=False, crop_scale=(0.5, 1.0)),
}


def facts(name: str) -> Dataset:
  """Returns the facts about a data set.

  Args:
    name: As in a config: "digits", "cifar10:3.0.2", "folder:PATH".

  Example:
    >>> facts("cifar10:3.0.2").image_size, facts("folder:photos").image_size
    (32, 128)
  """
  return DATASETS.get(set_name(name), Dataset())


def set_name(name: str) -> str:
  """Returns a data set's name without its config, version or path.

  Example:
    >>> set_name("emnist/letters:3.1.0"), set_name("folder:photos")
    ('emnist', 'folder')
  """
  return name.partition("/")[0].partition(":")[0]


def split_source(name: str) -> tuple[str, str]:
  """Splits a data set's name into its source and the rest.

  Args:
    name: As in a config.

  Returns:
    ("folder", PATH) for "folder:PATH", ("tfds", name) for any other.

  Example:
    >>> split_source("folder:~/photos"), split_source("cifar10:3.0.2")
    (('folder', '~/photos'), ('tfds', 'cifar10:3.0.2'))
  """
  source, colon, rest = name.partition(":")
  return (source, rest) if colon and source in _SOURCES else ("tfds", name)
