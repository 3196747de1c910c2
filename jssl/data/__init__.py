"""Where images come from, and in which order they are seen."""

from jssl.data.chunks import Geometry
from jssl.data.decode import decode
from jssl.data.images import common_size
from jssl.data.images import fingerprint
from jssl.data.images import fits
from jssl.data.images import Images
from jssl.data.images import labels_of
from jssl.data.images import load
from jssl.data.images import load_source
from jssl.data.images import measure
from jssl.data.images import nbytes
from jssl.data.images import open_source
from jssl.data.images import sample
from jssl.data.order import batch_indices
from jssl.data.order import epoch_order
from jssl.data.order import steps_per_epoch
from jssl.data.source import Record
from jssl.data.source import Source
from jssl.data.stream import count_workers
from jssl.data.stream import stream

__all__ = (
    "Geometry",
    "Images",
    "Record",
    "Source",
    "batch_indices",
    "common_size",
    "count_workers",
    "decode",
    "epoch_order",
    "fingerprint",
    "fits",
    "labels_of",
    "load",
    "load_source",
    "measure",
    "nbytes",
    "open_source",
    "sample",
    "steps_per_epoch",
    "stream",
)
