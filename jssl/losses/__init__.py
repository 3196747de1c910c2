"""Losses: pure functions of raw embeddings, in float32.

A loss L2-normalises its embeddings itself where its paper does, and returns the
mean over the batch as a scalar.
"""

from jssl.losses.contrastive import info_nce

__all__ = ["info_nce"]
