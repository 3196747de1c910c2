"""Reports of runs: curves, figures, and the page `report.html`."""

from jssl.report.page import write
from jssl.report.page import write_comparison
from jssl.report.run import gather
from jssl.report.run import load
from jssl.report.run import read
from jssl.report.run import Run
from jssl.report.run import Split
from jssl.report.run import splits

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
