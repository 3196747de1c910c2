"""Image augmentation on the device, one image at a time under `jax.vmap`.

Images are float32 [H, W, C] in [0, 1]. Random operations and recipes take their
key first; `make_views` turns a batch into the views of a method.
"""

from jssl.augment.lab import color_bins
from jssl.augment.lab import lab_to_rgb
from jssl.augment.lab import rgb_to_lab
from jssl.augment.ops import adjust_brightness
from jssl.augment.ops import adjust_contrast
from jssl.augment.ops import adjust_hue
from jssl.augment.ops import adjust_saturation
from jssl.augment.ops import flip_left_right
from jssl.augment.ops import gaussian_blur
from jssl.augment.ops import rotate90
from jssl.augment.ops import shift_brightness
from jssl.augment.ops import solarize
from jssl.augment.ops import to_grayscale
from jssl.augment.random_crop import random_pad_and_crop
from jssl.augment.random_crop import random_resized_crop
from jssl.augment.random_ops import random_affine
from jssl.augment.random_ops import random_color_jitter
from jssl.augment.random_ops import random_flip
from jssl.augment.random_ops import random_gaussian_blur
from jssl.augment.random_ops import random_grayscale
from jssl.augment.random_ops import random_solarize
from jssl.augment.recipes import byol
from jssl.augment.recipes import crop_and_flip
from jssl.augment.recipes import digits
from jssl.augment.recipes import evaluation
from jssl.augment.recipes import keep_size
from jssl.augment.recipes import moco_v1
from jssl.augment.recipes import moco_v2
from jssl.augment.recipes import multi_crop
from jssl.augment.recipes import pad_crop_and_flip
from jssl.augment.recipes import RECIPES
from jssl.augment.recipes import simclr
from jssl.augment.resampling import affine
from jssl.augment.resampling import resized_crop
from jssl.augment.tiles import cut_tiles
from jssl.augment.tiles import standardize
from jssl.augment.tiles import tile_size_of
from jssl.augment.views import image_keys
from jssl.augment.views import make_views
from jssl.augment.views import to_float

__all__ = (
    "RECIPES",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "affine",
    "byol",
    "color_bins",
    "crop_and_flip",
    "cut_tiles",
    "digits",
    "evaluation",
    "flip_left_right",
    "gaussian_blur",
    "image_keys",
    "keep_size",
    "lab_to_rgb",
    "make_views",
    "moco_v1",
    "moco_v2",
    "multi_crop",
    "pad_crop_and_flip",
    "random_affine",
    "random_color_jitter",
    "random_flip",
    "random_gaussian_blur",
    "random_grayscale",
    "random_pad_and_crop",
    "random_resized_crop",
    "random_solarize",
    "resized_crop",
    "rgb_to_lab",
    "rotate90",
    "shift_brightness",
    "simclr",
    "solarize",
    "standardize",
    "tile_size_of",
    "to_float",
    "to_grayscale",
)
