"""jssl trains image encoders without labels, in JAX and Flax.

For a loop of your own: `jssl.losses`, `jssl.augment`, `jssl.queue`, `jssl.ema`,
`jssl.masking`, `jssl.nets`, `jssl.optim`, `jssl.evals`, and `jssl.methods` with
`make_step`. A whole run: `jssl.config`, `jssl.loop`. What is left of it:
`load_encoder`, `jssl.embed`, `jssl.export`, `jssl.report`.
"""

# Before the imports, some of which read it; pyproject.toml takes it from here.
__version__ = "0.1.0"

from jssl.encoder import load_encoder
from jssl.method import Method
from jssl.step import make_step
from jssl.step import TrainState

__all__ = [
    "Method",
    "TrainState",
    "__version__",
    "load_encoder",
    "make_step",
]
