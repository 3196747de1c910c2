"""Losses: pure functions of raw embeddings, in float32.

A loss L2-normalises its embeddings itself where its paper does, and returns the
mean over the batch as a scalar. One that looks across the batch takes the name
of the axis that the batch is split over; it then sees the global batch, and the
mean of the devices' values is the value of the global batch. Average it with
`jax.lax.pmean` inside the differentiated function, and the gradients outside.
"""

from jssl.losses.all_pairs import dcl, dclw, nt_xent, supcon
from jssl.losses.clustering import (
    dino,
    sinkhorn,
    swapped_prediction,
    swav,
    update_center,
)
from jssl.losses.contrastive import batch_info_nce, info_nce
from jssl.losses.joint_embedding import barlow_twins, negative_cosine, vicreg
from jssl.losses.masked import masked_l1, masked_mse

__all__ = [
    "barlow_twins",
    "batch_info_nce",
    "dcl",
    "dclw",
    "dino",
    "info_nce",
    "masked_l1",
    "masked_mse",
    "negative_cosine",
    "nt_xent",
    "sinkhorn",
    "supcon",
    "swapped_prediction",
    "swav",
    "update_center",
    "vicreg",
]
