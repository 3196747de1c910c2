"""Rows of a table between the names of two libraries, for both directions."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Row(NamedTuple):
  """One array of a file, and what it is in jssl.

  Attributes:
    theirs: Its name in the file.
    ours: Paths in the variables of the net that it becomes, such as
      "params/stem/kernel"; usually one.
    read: From their array to ours, as many as there are paths.
    write: From ours to theirs.
  """

  theirs: str
  ours: tuple[str, ...]
  read: Callable[[np.ndarray], tuple[np.ndarray, ...]]
  write: Callable[..., np.ndarray]


def vector(theirs: str, ours: str) -> Row:
  """An array that is the same in both, such as a bias `[D]`."""
  return Row(theirs, (f"params/{ours}",), lambda x: (x,), lambda x: x)


def linear(theirs: str, ours: str, *, bias: bool = True) -> list[Row]:
  """A linear layer: PyTorch's weight `[out, in]`, Flax's kernel `[in, out]`."""
  weight = Row(
      f"{theirs}.weight",
      (f"params/{ours}/kernel",),
      lambda x: (x.T,),
      lambda x: x.T,
  )
  return [weight] + bias * [vector(f"{theirs}.bias", f"{ours}/bias")]


def conv(theirs: str, ours: str, *, bias: bool = False) -> list[Row]:
  """A convolution: PyTorch's `[out, in, h, w]`, Flax's `[h, w, in, out]`."""
  weight = Row(
      f"{theirs}.weight",
      (f"params/{ours}/kernel",),
      lambda x: (x.transpose(2, 3, 1, 0),),
      lambda x: x.transpose(3, 2, 0, 1),
  )
  return [weight] + bias * [vector(f"{theirs}.bias", f"{ours}/bias")]


def layer_norm(theirs: str, ours: str) -> list[Row]:
  """A LayerNorm: scale and shift."""
  return [
      vector(f"{theirs}.weight", f"{ours}/scale"),
      vector(f"{theirs}.bias", f"{ours}/bias"),
  ]


def batch_norm(theirs: str, ours: str) -> list[Row]:
  """A BatchNorm: scale and shift, and running statistics."""
  running = {"running_mean": "mean", "running_var": "var"}
  return layer_norm(theirs, ours) + [
      Row(
          f"{theirs}.{name}",
          (f"batch_stats/{ours}/{ours_name}",),
          lambda x: (x,),
          lambda x: x,
      )
      for name, ours_name in running.items()
  ]


def token(theirs: str, ours: str) -> Row:
  """Tokens: `[1, n, D]` and `[n, D]`."""
  return Row(theirs, (f"params/{ours}",), lambda x: (x[0],), lambda x: x[None])
