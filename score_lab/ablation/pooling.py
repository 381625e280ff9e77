"""Models of one study, workdirs of different training seeds, are one method: their values are averaged, their intervals are of the method.

A draw of the bootstrap resamples the models, with deviations times sqrt(M / (M - 1)) t_M-1 / z, and then their samples, so that 1.96
deviations of the draws are t_M-1 of the models'.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.stats

from score_lab.evaluation import Estimate

__all__ = ["mean_of", "picks_of", "pooled", "student"]


def student(models: int) -> float:
    """``t_M-1 / z`` at 97.5 %: what the deviation of a mean over M models is multiplied with, so that the normal's 1.96 of it are the
    interval of a mean whose deviation is known from M - 1 degrees of freedom; 2.2 for three, 1 for one, which has none."""
    return float(scipy.stats.t.ppf(0.975, models - 1) / scipy.stats.norm.ppf(0.975)) if models > 1 else 1.0


def picks_of(models: int, repeats: int) -> np.ndarray:
    """(repeats, models): the models of every draw."""
    return np.random.default_rng(0).integers(models, size=(repeats, models))


def pooled(draws: np.ndarray, picks: np.ndarray, wider: float = 1.0) -> np.ndarray:
    """``draws`` (M, B + 1) of every model -> their mean and its draws, models resampled besides, ``wider`` times their deviation."""
    value = draws[:, 0].mean()
    count = len(draws)
    if count == 1:
        return draws[0]
    centre, inner = draws[:, 0] - value, draws[:, 1:] - draws[:, :1]
    between = wider * np.sqrt(count / (count - 1)) * centre[picks].mean(axis=1)
    return np.concatenate([[value], value + between + inner.mean(axis=0)])


def mean_of(values: Sequence[float], errors: Sequence[float], note: str = "") -> Estimate:
    """The mean over models with its 95 % interval: Student's between them beside the normal's of their own standard ``errors``."""
    count = len(values)
    between = student(count) * np.std(values, ddof=1) / np.sqrt(count) if count > 1 else 0.0
    value, half = float(np.mean(values)), 1.96 * float(np.hypot(between, np.linalg.norm(errors) / count))
    return Estimate(value, value - half, value + half, 0, note=note)
