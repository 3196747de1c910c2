"""Reads the arrays of a checkpoint, and never runs what is in it."""

import argparse
import os
import pathlib
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

SUFFIXES = (".safetensors", ".pth", ".pt", ".tar", ".ckpt", ".bin")


def read_arrays(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict]:
  """Reads all arrays of a file.

  Args:
    path: A `.safetensors` file, or a PyTorch checkpoint, for which PyTorch has
      to be installed.

  Returns:
    The arrays by name, those of nested dicts joined by dots, and the metadata
    of a `.safetensors`.

  Raises:
    FileNotFoundError: If there is no such file.
    ImportError: If it is a PyTorch checkpoint and PyTorch is not installed.
    ValueError: If it is neither, or holds objects that are not arrays.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(
        f"{path} does not exist; expected a file of weights."
    )
  if path.suffix == ".safetensors":
    return _read_safetensors(path)
  if path.suffix not in SUFFIXES:
    raise ValueError(
        f"{path} ends in {path.suffix or 'no suffix'!r}; expected one of"
        f" {', '.join(SUFFIXES)}."
    )
  arrays: dict[str, np.ndarray] = {}
  _collect(_read_torch(path), "", arrays)
  if not arrays:
    raise ValueError(f"{path} holds no arrays.")
  return arrays, {}


def _read_safetensors(path):
  try:
    with safetensors.safe_open(path, framework="numpy") as file:
      metadata = file.metadata() or {}
      return {name: file.get_tensor(name) for name in file.keys()}, metadata
  except safetensors.SafetensorError as error:
    raise ValueError(f"{path} is not a .safetensors file ({error}).") from error


def _read_torch(path):
  """Reads a PyTorch checkpoint without running code of it."""
  try:
    import torch
  except ImportError as error:
    raise ImportError(
        f"{path} is a PyTorch checkpoint, which needs PyTorch: pip install"
        " torch, or convert it to .safetensors where you have it."
    ) from error
  try:
    # Many checkpoints hold the arguments of the command that wrote them.
    with torch.serialization.safe_globals([argparse.Namespace]):
      return torch.load(path, map_location="cpu", weights_only=True)
  except Exception as error:  # Damaged files raise many kinds.
    first = str(error).strip().partition("\n")[0]
    if type(error).__name__ != "UnpicklingError":
      raise ValueError(
          f"{path} is not a PyTorch checkpoint ({first})."
      ) from error
    raise ValueError(
        f"{path} could not be read as arrays ({first}). If it holds other"
        " Python objects, they could run code when loaded, so jssl does not"
        " load them. If you trust its source, write the arrays alone: torch"
        ".save(torch.load(PATH, weights_only=False)['state_dict'], NEW_PATH)."
    ) from error


def _collect(node: Any, name: str, arrays: dict[str, np.ndarray]) -> None:
  """Adds the arrays of nested dicts."""
  if isinstance(node, dict):
    for key, value in node.items():
      _collect(value, f"{name}.{key}" if name else str(key), arrays)
  elif hasattr(node, "detach") and hasattr(node, "numpy"):
    tensor = node.detach()
    if str(tensor.dtype) == "torch.bfloat16":
      tensor = tensor.float()
    arrays[name] = tensor.numpy()
