"""Data sets: sources of pictures, their decoding, their order in training."""

from jssl.data.decode import decode
from jssl.data.images import common_size
from jssl.data.images import decode_all
from jssl.data.images import evenly
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
from jssl.data.loader import count_workers
from jssl.data.loader import load_in_order
from jssl.data.loader import stream
from jssl.data.order import batch_indices
from jssl.data.order import epoch_order
from jssl.data.order import steps_per_epoch
from jssl.data.pipeline import Batches
from jssl.data.pipeline import load_images
from jssl.data.pipeline import Pipeline
from jssl.data.pipeline import resident_pipeline
from jssl.data.pipeline import streamed_pipeline
from jssl.data.reader import Geometry
from jssl.data.source import Record
from jssl.data.source import Source

__all__ = (
    "Batches",
    "Geometry",
    "Images",
    "Pipeline",
    "Record",
    "Source",
    "batch_indices",
    "common_size",
    "count_workers",
    "decode",
    "decode_all",
    "epoch_order",
    "evenly",
    "fingerprint",
    "fits",
    "labels_of",
    "load",
    "load_images",
    "load_in_order",
    "load_source",
    "measure",
    "nbytes",
    "open_source",
    "resident_pipeline",
    "sample",
    "steps_per_epoch",
    "stream",
    "streamed_pipeline",
)
