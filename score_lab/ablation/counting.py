"""How many steps a budget of network evaluations buys: counted, by running the sampler itself around a denoiser that does nothing.

    steps(budget) = max { N : nfe(N) <= budget }

nfe(N) is what the loop counts (Heun's skipped last call, both passes of guidance).  Nothing but the counter is asked for, so XLA removes
the states and a count costs some hundredths of a second.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from score_lab.build import ConfigError
from score_lab.denoiser import Prediction
from score_lab.paths.base import GaussianPath
from score_lab.samplers import sample
from score_lab.types import leaf, pytree_dataclass, static

__all__ = ["Blank", "Budget", "BudgetError", "blank_of", "count_nfe", "fit"]

MOST = 4096
"""The most steps that are looked at."""
CHEAP = {"xla_backend_optimization_level": 0}
"""A program that counts runs once: what it takes is compiling."""


class BudgetError(ConfigError):
    """A budget that the fewest steps of a solver exceed."""


@pytree_dataclass
class Blank:
    """A denoiser that costs nothing and says x0 = eps = 0; it refuses what the one it stands for refuses (trained range, target)."""

    path: GaussianPath = leaf()
    log_snr_range: tuple = static(default=(-float("inf"), float("inf")))
    target: Any = static(default=None)
    clip: bool = False
    extrapolate: bool = False

    def __call__(self, x_t, t, cond=None, *, s=None, step=None, key=None) -> Prediction:
        """Zeros, and a learned variance of 0."""
        zeros = jax.tree.map(jnp.zeros_like, x_t)
        return Prediction.of(x_t, jnp.asarray(t), self.path, x0=zeros, eps=zeros, aux={"variance": zeros})

    def on(self, path: GaussianPath, clip: bool | None = None) -> Blank:
        """On another path."""
        return dataclasses.replace(self, path=path)


def blank_of(denoiser: Any) -> Blank:
    """The blank that stands for ``denoiser``."""
    target, levels = getattr(denoiser, "target", None), getattr(denoiser, "log_snr_range", (-float("inf"), float("inf")))
    clip, extrapolate = (bool(getattr(denoiser, name, False)) for name in ("clip", "extrapolate"))
    return Blank(denoiser.path, tuple(levels), target, clip, extrapolate)


def count_nfe(denoiser: Any, sampler: Any, grid: Any, cond: Mapping[str, Any] | None = None, shape: tuple[int, ...] = (1,)) -> float:
    """Network evaluations per sample of ``sampler`` on ``grid`` around the blank ``denoiser`` (guided or not); what the run refuses is
    refused.  ``shape`` of one state, where a part cares."""
    denoiser, sampler = (part.specialise() if hasattr(part, "specialise") else part for part in (denoiser, sampler))
    steps = grid.steps(denoiser.path)
    counter = jax.jit(lambda d, m, g, c: sample(d, m, g, (1, *shape), cond=c).nfe)
    nfe = counter.lower(denoiser, sampler, steps, cond).compile(CHEAP)(denoiser, sampler, steps, cond)
    return float(jnp.mean(nfe))


@dataclasses.dataclass(frozen=True)
class Budget:
    """``steps`` (None: the grid has its own) that cost ``nfe`` of the ``budget``; ``note`` says why not all of it was used; ``changes`` are
    fields of the solver that were chosen for the budget (see ``fitting``)."""

    budget: int
    steps: int | None
    nfe: float
    note: str = ""
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def fit(count: Callable[[int | None], float], budget: int, per_step: float, fixed: bool = False) -> Budget:
    """The most steps within ``budget``.

    Args:
      count: steps -> nfe, ascending; raises ConfigError for too few steps (and whatever else the run would refuse).
      per_step: a guess of the evaluations per step, from which the search starts.
      fixed: whether the grid is a list that has no number of steps.

    Raises BudgetError for a budget below what the fewest steps cost, naming it, and what ``count`` raises where it refuses any number.
    """
    if fixed:
        nfe = count(None)
        if nfe > budget:
            raise BudgetError(f"nfe: {budget} is refused; allowed: at least {nfe:g}, what this list of levels costs")
        return Budget(budget, None, nfe, "" if nfe == budget else f"the list of levels costs {nfe:g} of {budget}")
    steps = min(MOST, max(1, int(budget / max(per_step, 1e-9))))
    nfe = _cost(count, steps)
    if nfe is None:  # too few steps for this solver, or it refuses every number of them
        steps, nfe = _fewest(count, steps)
    while nfe > budget:
        lower = _cost(count, steps - 1) if steps > 1 else None
        if lower is None:
            raise BudgetError(f"nfe: {budget} is refused; allowed: at least {nfe:g}, what its fewest steps ({steps}) cost")
        steps, nfe = steps - 1, lower
    above = None
    while nfe < budget and steps < MOST:
        above = _cost(count, steps + 1)
        if above is None or above > budget:
            break
        steps, nfe = steps + 1, above
    if nfe == budget:
        return Budget(budget, steps, nfe)
    more = "" if above is None else f"; {steps + 1} would cost {above:g}"
    return Budget(budget, steps, nfe, f"{steps} steps cost {nfe:g} of {budget}{more}")


def _cost(count: Callable, steps: int) -> float | None:
    """nfe of ``steps``, None where it is refused."""
    try:
        return count(steps)
    except ConfigError:
        return None


def _fewest(count: Callable, above: int) -> tuple[int, float]:
    """The fewest steps that are not refused and their cost; ConfigError with the reason where there are none."""
    for steps in range(above + 1, above + 9):
        nfe = _cost(count, steps)
        if nfe is not None:
            return steps, nfe
    return above, count(above)
