"""The layouts of weights: where checkpoints of others keep their encoder."""

from collections.abc import Mapping
from typing import Any, NamedTuple

_IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
_UNIT = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
_STATE = r"(state_dict\.|model\.)?(module\.)?"
_TEACHER = r"teacher\.(module\.)?backbone\."
_NEVER = "(?!)"


class Layout(NamedTuple):
  """Where a checkpoint keeps its encoder.

  Attributes:
    source: Who writes it.
    prefix: Regular expression of what comes before the encoder's names; names
      of nested dicts are joined by dots.
    marker: Regular expression of the start of some name in the file, without
      which the layout is not recognised but has to be named; empty for none.
    architecture: "resnet" or "vit"; empty for both.
    net: Entries of `config.net` that the arrays do not show: "mean" and "std"
      of the images that the encoder expects, and how positions are resized.
    heads: Number of attention heads by the width of a ViT, where it differs
      from that of `jssl.nets`.
    ignored: Regular expression of names after the prefix that are not part of
      the encoder, in addition to classifiers, mask tokens and counters.
  """

  source: str
  prefix: str
  marker: str = ""
  architecture: str = ""
  net: Mapping[str, Any] = _IMAGENET
  heads: Mapping[int, int] = {}
  ignored: str = _NEVER


# The first whose prefix and marker are found is taken.
LAYOUTS = {
    "jssl": Layout("jssl.weights.save, python -m jssl.export", _NEVER),
    "moco": Layout(
        "facebookresearch/moco (v1 and v2)",
        _STATE + r"encoder_q\.",
    ),
    "moco_v3": Layout(
        "facebookresearch/moco-v3",
        _STATE + r"base_encoder\.",
        heads={384: 12},
    ),
    "mae": Layout(
        "facebookresearch/mae",
        r"(model\.)?",
        marker=r"(model\.)?decoder_embed\.",
        net=_IMAGENET | {"position_resize": "bicubic"},
        ignored=r"decoder_.*",
    ),
    "dinov2_registers": Layout(
        "facebookresearch/dinov2, with registers",
        f"{_STATE}|{_TEACHER}",
        marker=f"({_STATE}|{_TEACHER})register_tokens$",
        net=_IMAGENET | {"position_resize": "antialias"},
    ),
    "dinov2": Layout(
        "facebookresearch/dinov2",
        f"{_STATE}|{_TEACHER}",
        marker=f"({_STATE}|{_TEACHER})mask_token$",
        net=_IMAGENET | {"position_resize": "dino"},
    ),
    "dino": Layout("facebookresearch/dino, bytedance/ibot", _TEACHER),
    "ijepa": Layout(
        "facebookresearch/ijepa",
        r"target_encoder\.(module\.)?",
        net=_IMAGENET | {"position_resize": "bicubic"},
    ),
    "barlow_twins": Layout(
        "facebookresearch/barlowtwins, facebookresearch/vicreg",
        r"model\.module\.backbone\.",
    ),
    "byol": Layout(
        "lucidrains/byol-pytorch, sthalles/PyTorch-BYOL",
        r"(state_dict\.)?(online_encoder\.)?net\."
        r"|online_network_state_dict\.encoder\.",
    ),
    "simsiam": Layout(
        "facebookresearch/simsiam",
        r"(state_dict\.)?module\.encoder\.",
    ),
    "lightning": Layout(
        "vturrisi/solo-learn, lightly-ai/lightly, sthalles/SimCLR",
        r"(state_dict\.)?(backbone|encoder)\.",
    ),
    "swav": Layout(
        "facebookresearch/swav",
        r"(state_dict\.)?(module\.)?",
        marker=r"(state_dict\.)?(module\.)?prototypes\.",
        ignored=r"(projection_head|prototypes)\..*",
    ),
    # Like torchvision's, except that images are not normalised.
    "simclr": Layout(
        "tonylins/simclr-converter",
        _STATE,
        marker=_NEVER,
        net=_UNIT,
    ),
    "torchvision": Layout(
        "torchvision, and timm's ResNets", _STATE, architecture="resnet"
    ),
    "timm": Layout(
        "timm's ViTs",
        _STATE,
        architecture="vit",
        net=_IMAGENET | {"position_resize": "antialias"},
    ),
}
