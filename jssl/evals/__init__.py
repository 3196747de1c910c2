"""Measures of how good an encoder is, protocols, and results."""

from jssl.evals.few_shot import few_shot
from jssl.evals.knn import knn_predict, knn_sweep
from jssl.evals.linear import linear_probe, LinearProbe
from jssl.evals.linear_augmented import augmented_linear_probe
from jssl.evals.quality import alignment, alpha_req, rankme, uniformity

__all__ = (
    "LinearProbe",
    "alignment",
    "alpha_req",
    "augmented_linear_probe",
    "few_shot",
    "knn_predict",
    "knn_sweep",
    "linear_probe",
    "rankme",
    "uniformity",
)
