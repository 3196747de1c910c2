"""Reports of runs: curves, figures, and the page `report.html`."""

from jssl.report.page import write, write_comparison
from jssl.report.run import gather, load, read, Run, Split, splits

__all__ = [
    "Run",
    "Split",
    "gather",
    "load",
    "read",
    "splits",
    "write",
    "write_comparison",
]
