"""Writes encoders to files for other programs.

`python -m jssl.export --workdir=RUN --output=FILE` is the command.
"""

from jssl.export.arrays import load_safetensors, save_safetensors
from jssl.export.program import save_stablehlo

__all__ = ["load_safetensors", "save_safetensors", "save_stablehlo"]
