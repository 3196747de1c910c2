"""jssl trains image encoders without labels, in JAX and Flax.

To write your own training loop: `jssl.losses`, `jssl.augment`, `jssl.queue`,
`jssl.ema`, `jssl.masking`, `jssl.nets`, `jssl.optim`, `jssl.evals`, and
`jssl.methods` with `make_step`. To train a whole run: `jssl.config` and
`jssl.loop`. To use its encoder: `load_encoder`, `jssl.embed`, `jssl.export` and
`jssl.report`.
"""

# Set before the imports, since some need it; pyproject.toml reads it from here.
__version__ = "0.1.0"

from jssl.encoder import load_encoder
from jssl.method import Method
from jssl.step import make_step, TrainState

__all__ = [
    "Method",
    "TrainState",
    "__version__",
    "load_encoder",
    "make_step",
]
