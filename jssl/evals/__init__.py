"""Measures of how good an encoder is, protocols, and results."""

from jssl.evals.few_shot import few_shot
from jssl.evals.knn import knn_predict
from jssl.evals.knn import knn_sweep
from jssl.evals.linear import linear_probe
from jssl.evals.linear import LinearProbe
from jssl.evals.linear_augmented import augmented_linear_probe
from jssl.evals.quality import alignment
from jssl.evals.quality import alpha_req
from jssl.evals.quality import rankme
from jssl.evals.quality import uniformity

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
