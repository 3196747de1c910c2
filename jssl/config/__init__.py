"""Configs: the settings of a run, as data, and the objects that they describe.

A file in `configs/` is a table of settings on top of `base(dataset)`. Every
section with a `name` describes one object: the name picks a constructor from a
table, the other entries are its keyword arguments (see `jssl.config.build`).
"""

from jssl.config.build import lookup
from jssl.config.changes import difference
from jssl.config.presets import (
    adamw,
    byol_views,
    crop_and_flip,
    lars,
    moco_view,
    sgd,
    simclr_view,
    staircase,
)
from jssl.config.settings import (
    base,
    config_files,
    ConfigDict,
    from_table,
    load_config,
    of_method,
    save_config,
)

__all__ = (
    "ConfigDict",
    "adamw",
    "base",
    "byol_views",
    "config_files",
    "crop_and_flip",
    "difference",
    "from_table",
    "lars",
    "load_config",
    "lookup",
    "moco_view",
    "of_method",
    "save_config",
    "sgd",
    "simclr_view",
    "staircase",
)
