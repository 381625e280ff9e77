"""Evaluation: what samples are worth, every number with its interval, its n and what it stands on."""

from score_lab.evaluation.classifier import Classifier
from score_lab.evaluation.diversity import nearest_distances, nearest_ratio, variance_ratio
from score_lab.evaluation.energy import energy_distance
from score_lab.evaluation.estimate import Estimate, bootstrap, proportion, wilson
from score_lab.evaluation.features import PCA, Pixels, digest
from score_lab.evaluation.frechet import Frechet, Statistics, frechet_distance
from score_lab.evaluation.quality import Criterion, Reference
from score_lab.evaluation.ranking import Pair, Ranking, compared
from score_lab.evaluation.resampled import (
    Discrepancy,
    Wasserstein,
    estimate_of,
    resampling,
    weighted_frechet,
    weighted_mean,
    weighted_variance,
)
from score_lab.evaluation.table import Row, Table, strict_json

__all__ = [
    "PCA", "Classifier", "Criterion", "Discrepancy", "Estimate", "Frechet", "Pair", "Pixels", "Ranking", "Reference", "Row", "Statistics",
    "Table", "Wasserstein", "bootstrap", "compared", "digest", "energy_distance", "estimate_of", "frechet_distance", "nearest_distances",
    "nearest_ratio", "proportion", "resampling", "strict_json", "variance_ratio", "weighted_frechet", "weighted_mean", "weighted_variance",
    "wilson",
]  # fmt: skip
