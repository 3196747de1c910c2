"""Data sets: sources of pictures, their decoding, their order in training."""

from jssl.data.decode import decode
from jssl.data.images import (
    common_size,
    decode_all,
    evenly,
    Images,
    labels_of,
    load,
    measure,
    open_source,
)
from jssl.data.loader import count_workers, stream
from jssl.data.order import batch_indices, steps_per_epoch
from jssl.data.pipeline import (
    as_rows,
    Batches,
    load_images,
    Pipeline,
    resident_pipeline,
    streamed_pipeline,
    take,
)
from jssl.data.reader import Geometry
from jssl.data.source import fingerprint, Record, sample, Source

__all__ = (
    "Batches",
    "Geometry",
    "Images",
    "Pipeline",
    "Record",
    "Source",
    "as_rows",
    "batch_indices",
    "common_size",
    "count_workers",
    "decode",
    "decode_all",
    "evenly",
    "fingerprint",
    "labels_of",
    "load",
    "load_images",
    "measure",
    "open_source",
    "resident_pipeline",
    "sample",
    "steps_per_epoch",
    "stream",
    "streamed_pipeline",
    "take",
)
