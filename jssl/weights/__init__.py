"""Weights of other libraries, in and out.

The names of an architecture are a table, read in both directions: `_resnet` has
torchvision's names, `_vit` timm's. `LAYOUTS` says where checkpoints of others
keep an encoder under these names.
"""

from jssl.weights._files import read_arrays
from jssl.weights.layouts import LAYOUTS
from jssl.weights.loading import load, read, save, Weights

__all__ = ["LAYOUTS", "Weights", "load", "read", "read_arrays", "save"]
