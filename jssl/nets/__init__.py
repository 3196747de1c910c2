"""Networks in Flax Linen.

A backbone maps images `[B, H, W, C]` in [0, 1] to a dict of features, a map of
every stage and "pooled", `[B, D]`; see `jssl.nets.backbone`.
"""

import functools

from jssl.nets.backbone import stage_names
from jssl.nets.decoders import ConvDecoder, TransformerDecoder
from jssl.nets.heads import MLP
from jssl.nets.micro_batches import MicroBatched
from jssl.nets.norm import BatchNorm
from jssl.nets.resnet import (
    ResNet,
    resnet8,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
)
from jssl.nets.vit import (
    ViT,
    vit_base,
    vit_giant,
    vit_huge,
    vit_large,
    vit_micro,
    vit_small,
    vit_tiny,
)

NETS: dict[str, functools.partial] = {
    "resnet8": resnet8,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "vit_micro": vit_micro,
    "vit_tiny": vit_tiny,
    "vit_small": vit_small,
    "vit_base": vit_base,
    "vit_large": vit_large,
    "vit_huge": vit_huge,
    "vit_giant": vit_giant,
}

__all__ = [
    "BatchNorm",
    "ConvDecoder",
    "MLP",
    "MicroBatched",
    "NETS",
    "ResNet",
    "TransformerDecoder",
    "ViT",
    "resnet8",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "stage_names",
    "vit_base",
    "vit_giant",
    "vit_huge",
    "vit_large",
    "vit_micro",
    "vit_small",
    "vit_tiny",
]
