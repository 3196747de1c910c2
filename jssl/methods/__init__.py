"""The methods, by name."""

from jssl.methods.moco import moco_v1
from jssl.methods.moco import moco_v2

METHODS = {
    "moco_v1": moco_v1,
    "moco_v2": moco_v2,
}

__all__ = ["METHODS"]
