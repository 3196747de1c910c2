"""Image augmentation on the device, one image at a time under `jax.vmap`.

Images are float32 [H, W, C] in [0, 1]. Random operations and recipes take their
key first; `make_views` turns a batch into the views of a method.
"""

from jssl.augment.lab import color_bins, lab_to_rgb, rgb_to_lab
from jssl.augment.ops import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    flip_left_right,
    gaussian_blur,
    rotate90,
    shift_brightness,
    solarize,
    to_grayscale,
)
from jssl.augment.random_crop import random_pad_and_crop, random_resized_crop
from jssl.augment.random_ops import (
    random_affine,
    random_color_jitter,
    random_flip,
    random_gaussian_blur,
    random_grayscale,
    random_solarize,
)
from jssl.augment.recipes import (
    byol,
    crop_and_flip,
    digits,
    evaluation,
    keep_size,
    moco_v1,
    moco_v2,
    multi_crop,
    pad_crop_and_flip,
    RECIPES,
    simclr,
)
from jssl.augment.resampling import affine, resized_crop
from jssl.augment.tiles import cut_tiles, standardize, tile_size_of
from jssl.augment.views import image_keys, make_views, to_float

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
