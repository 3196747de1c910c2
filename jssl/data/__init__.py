"""Data sets: sources of pictures, their decoding, their order in training."""

from jssl.data.decode import decode
from jssl.data.images import (
    common_size,
    decode_all,
    evenly,
    fingerprint,
    fits,
    Images,
    labels_of,
    load,
    load_source,
    measure,
    nbytes,
    open_source,
    sample,
)
from jssl.data.loader import count_workers, load_in_order, stream
from jssl.data.order import batch_indices, epoch_order, steps_per_epoch
from jssl.data.pipeline import (
    Batches,
    load_images,
    Pipeline,
    resident_pipeline,
    streamed_pipeline,
)
from jssl.data.reader import Geometry
from jssl.data.source import Record, Source

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
