"""Exact denoisers: the posterior means of data whose law is known.  They go wherever a network denoiser goes."""

from score_lab.analytic.base import AnalyticDenoiser
from score_lab.analytic.bases import DCT, Haar, Hartley, Identity, Matrix, pca
from score_lab.analytic.empirical import Empirical
from score_lab.analytic.gaussian import GaussianBands
from score_lab.analytic.misspecified import Misspecified
from score_lab.analytic.mixture import GaussianMixture
from score_lab.analytic.two_spectra import TwoSpectra

__all__ = [
    "DCT", "AnalyticDenoiser", "Empirical", "GaussianBands", "GaussianMixture", "Haar", "Hartley", "Identity", "Matrix", "Misspecified",
    "TwoSpectra", "pca",
]  # fmt: skip
