"""How good an encoder is."""

from jssl.evals.few_shot import few_shot
from jssl.evals.knn import knn_predict
from jssl.evals.quality import rankme

__all__ = ["few_shot", "knn_predict", "rankme"]
