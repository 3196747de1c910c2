"""The methods, by name.

Many methods take:

- `net`: A backbone of `jssl.nets`.
- `augment`: The recipe of the views, `(key, image, *, extent) -> view` (see
  `jssl.augment`), by default at the size of the images: the paper's, or a crop
  and a flip for methods that change the image themselves (rotate, cut, hide or
  add noise to it, or remove its colors).
- `second_augment`: The recipe of the second view if it differs from that of the
  first, `augment`; None for the same.
- `dim`: Length of the embeddings.
- `temperature`: Divisor of the cosine similarities, above 0.
- `joint_statistics`: Whether BatchNorm takes its statistics from all views
  together (in the backbone, from all views of one size), or from each view. The
  default is that of the authors' code, where there is one.
- `axis_name`: Axis that the batch is split over, or None. Negatives, and
  statistics in a loss, are those of the global batch.

Each is a file with its equation and a figure of its data flow, in which no
gradient flows along dotted edges:

- contrastive and joint embedding: `jssl.methods.moco`, `jssl.methods.moco_v3`,
  `jssl.methods.simclr`, `jssl.methods.nnclr`, `jssl.methods.byol`,
  `jssl.methods.simsiam`, `jssl.methods.barlow_twins`, `jssl.methods.vicreg`,
  `jssl.methods.swav`, `jssl.methods.dino`, `jssl.methods.supcon`;
- discriminative: `jssl.methods.rotation`, `jssl.methods.jigsaw`,
  `jssl.methods.relative_position`;
- generative: `jssl.methods.inpainting`, `jssl.methods.colorization`,
  `jssl.methods.denoising`, `jssl.methods.mae`, `jssl.methods.simmim`,
  `jssl.methods.ijepa`.
"""

from collections.abc import Callable

from jssl.method import Method
from jssl.methods.barlow_twins import barlow_twins
from jssl.methods.byol import byol
from jssl.methods.colorization import colorization
from jssl.methods.denoising import denoising
from jssl.methods.dino import dino
from jssl.methods.ijepa import ijepa
from jssl.methods.inpainting import inpainting
from jssl.methods.jigsaw import jigsaw
from jssl.methods.mae import mae
from jssl.methods.moco import moco_v1, moco_v2
from jssl.methods.moco_v3 import moco_v3
from jssl.methods.nnclr import nnclr
from jssl.methods.relative_position import relative_position
from jssl.methods.rotation import rotation
from jssl.methods.simclr import simclr
from jssl.methods.simmim import simmim
from jssl.methods.simsiam import simsiam
from jssl.methods.supcon import supcon
from jssl.methods.swav import swav
from jssl.methods.vicreg import vicreg

METHODS: dict[str, Callable[..., Method]] = {
    "moco_v1": moco_v1,
    "moco_v2": moco_v2,
    "moco_v3": moco_v3,
    "simclr": simclr,
    "nnclr": nnclr,
    "byol": byol,
    "simsiam": simsiam,
    "barlow_twins": barlow_twins,
    "vicreg": vicreg,
    "swav": swav,
    "dino": dino,
    "supcon": supcon,
    "rotation": rotation,
    "jigsaw": jigsaw,
    "relative_position": relative_position,
    "inpainting": inpainting,
    "colorization": colorization,
    "denoising": denoising,
    "mae": mae,
    "simmim": simmim,
    "ijepa": ijepa,
}

__all__ = ["METHODS"]
