"""jssl trains image encoders without labels, in JAX and Flax."""

from jssl.encoder import load_encoder
from jssl.method import Method
from jssl.step import make_step
from jssl.step import TrainState

__all__ = ["Method", "TrainState", "load_encoder", "make_step"]
