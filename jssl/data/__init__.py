"""Where images come from, and in which order they are seen."""

from jssl.data.decode import decode
from jssl.data.images import common_size
from jssl.data.images import Images
from jssl.data.images import load
from jssl.data.images import open_source
from jssl.data.order import batch_indices
from jssl.data.order import epoch_order
from jssl.data.order import steps_per_epoch
from jssl.data.source import Record
from jssl.data.source import Source

__all__ = (
    "Images",
    "Record",
    "Source",
    "batch_indices",
    "common_size",
    "decode",
    "epoch_order",
    "load",
    "open_source",
    "steps_per_epoch",
)
