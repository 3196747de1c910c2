"""Networks in Flax Linen.

A backbone maps images `[B, H, W, C]` in [0, 1] to a dict of features: every
stage under its name, and "pooled", `[B, D]`.
"""

from jssl.nets.heads import MLP
from jssl.nets.norm import BatchNorm
from jssl.nets.resnet import resnet101
from jssl.nets.resnet import resnet18
from jssl.nets.resnet import resnet34
from jssl.nets.resnet import resnet50
from jssl.nets.resnet import resnet8
from jssl.nets.resnet import ResNet

NETS = {
    "resnet8": resnet8,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
}

__all__ = [
    "BatchNorm",
    "MLP",
    "NETS",
    "ResNet",
    "resnet8",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
]
