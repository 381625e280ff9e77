"""Solvers that are not complete before a budget or a model is known: what is chosen for them, and how.

    adaptive            rtol (atol in the proportion of the class's defaults): the tightest whose evaluations stay within the budget
    made for a number   nfe of ``DPMFast``: the most that the budget pays for
    measured            the table of ``AnalyticDPM``: ``Model.fitted`` gives it

An adaptive solver spends on each sample what that sample needs, so its budget is one of the mean.  The tolerance is chosen on NOISES
samples of a seed that no cell has, so that what the cells spend is not what it was chosen by, and from above: with m(rtol) the mean
evaluations there and e its standard error,

    rtol(budget) = min { rtol : m(rtol) + 2 e(rtol) <= budget }

found by decades from LOOSEST down, then by HALVINGS bisections in ln rtol; m is taken to fall as rtol rises, which holds but for single
steps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.ablation.counting import Budget, BudgetError
from score_lab.build import ConfigError, refuse
from score_lab.samplers import CATALOGUE, sample
from score_lab.samplers.analytic_dpm import lacks_table
from score_lab.samplers.integrate import chooses_levels
from score_lab.specs import name_of

__all__ = ["LEVELS", "NOISES", "Spent", "check_adaptive", "fit_evaluations", "fit_tolerance", "ready", "seed_apart", "tolerances"]

LEVELS = 2
"""Steps of the grid that an adaptive solver is given: where it starts, the last level before data, and data; it chooses its own between."""
NOISES, SEED = 128, 3_000_017
"""Samples on which a tolerance is chosen, and their seed."""
LOOSEST, TIGHTEST, HALVINGS = 10.0, 1e-7, 6
MORE = 6
"""Evaluations above the budget for which a solver that is made for a number may be asked: steps to pure data cost it less."""


@dataclasses.dataclass(frozen=True)
class Spent:
    """Evaluations of a sample, in the mean over NOISES of them, and the standard error of that."""

    mean: float
    error: float

    @property
    def most(self) -> float:
        """What the mean is below with a probability of 0.975."""
        return self.mean + 2.0 * self.error


def ready(spec: Mapping[str, Any]) -> dict[str, Any]:
    """``spec`` with what is measured later, so that it can be built and checked now."""
    return {**spec, "log_snrs": (0.0,), "gamma": (0.5,)} if lacks_table(spec) else dict(spec)


def check_adaptive(spec: Mapping[str, Any], solver: Any) -> None:
    """ConfigError for an adaptive solver whose tolerance is given (the budget gives it), or that has none."""
    if {"rtol", "atol"} & set(spec) or not all(hasattr(solver, name) for name in ("rtol", "atol")):
        fixed = sorted({type(e.sampler).__name__ for e in CATALOGUE.values() if not chooses_levels(e.sampler)})
        allowed = f"{', '.join(fixed)}: an adaptive solver has no budget of steps; one with fields rtol and atol, neither given, has one"
        refuse("solvers", name_of(spec), f"{allowed} (the tolerance that buys as many evaluations is chosen)")


def seed_apart(seeds: Sequence[int]) -> int:
    """SEED, or another one where a cell has that."""
    return SEED if SEED not in seeds else max(seeds) + 1


def tolerances(solver: Any, rtol: float) -> dict[str, float]:
    """``rtol`` with the ``atol`` that is to it as in ``solver``."""
    return {"rtol": rtol, "atol": rtol * float(solver.atol) / float(solver.rtol)}


class Counter:
    """Counts what an adaptive solver spends: one compiled program for all tolerances."""

    def __init__(self, model: Any, seed: int):
        self.model, self.seed = model, seed
        shape = (NOISES, *model.shape)
        index = np.arange(NOISES, dtype=np.int32)
        self._call = jax.jit(lambda d, s, g, key, cond: sample(d, s, g, shape, key, index=index, cond=cond).nfe)

    def __call__(self, denoiser: Any, sampler: Any, grid: Any) -> Spent:
        """Around the real denoiser: a blank one would need no steps."""
        denoiser, sampler = (part.specialise() if hasattr(part, "specialise") else part for part in (denoiser, sampler))
        cond = self.model.cond(NOISES)
        cond = None if cond is None else {name: jnp.asarray(v) for name, v in cond.items()}
        nfe = np.asarray(self._call(denoiser, sampler, grid.steps(denoiser.path), jax.random.key(self.seed), cond), np.float64)
        return Spent(float(nfe.mean()), float(nfe.std(ddof=1) / math.sqrt(NOISES)))


def fit_tolerance(spend: Callable[[float], Spent], budget: int, steps: int | None, fields: Callable[[float], dict]) -> Budget:
    """The tolerance of the module for ``budget``.

    Args:
      spend: rtol -> what it costs.
      steps: of the grid, for the result.
      fields: rtol -> the solver's fields.

    Raises BudgetError where not even LOOSEST stays within the budget, naming what that costs.
    """
    rtol, tight, found = LOOSEST, None, spend(LOOSEST)
    if found.most > budget:
        cost = f"at least {math.ceil(found.most)}, what tolerance {LOOSEST:g}, the loosest, costs in the mean"
        raise BudgetError(f"nfe: {budget} is refused; allowed: {cost}: an adaptive solver has no tolerance for less")
    while tight is None and rtol > TIGHTEST * 1.001:
        lower = spend(rtol / 10)
        if lower.most > budget:
            tight = rtol / 10
        else:
            rtol, found = rtol / 10, lower
    for _ in range(HALVINGS if tight is not None else 0):
        middle = math.sqrt(rtol * tight)
        between = spend(middle)
        if between.most > budget:
            tight = middle
        else:
            rtol, found = middle, between
    why = "a tighter one costs more" if tight is not None else f"no tighter one than {TIGHTEST:g} is tried"
    note = f"rtol = {rtol:.3g} costs {found.mean:.4g} +- {2 * found.error:.2g} of {budget} in the mean over {NOISES} other noises; {why}"
    return Budget(budget, steps, found.mean, note, fields(rtol))


def fit_evaluations(count: Callable[[int, int], float], solver: Any, budget: int) -> Budget:
    """The ``nfe`` of a solver that is made for a number of evaluations (one with ``steps_for(nfe)``) that costs the most within ``budget``.

    Args:
      count: (steps of the grid, nfe) -> evaluations.
      solver: its own ``nfe`` is the only one that is asked for, where it is not None.

    Raises BudgetError where it costs more than the budget.
    """
    asked = range(budget, budget + MORE + 1) if solver.nfe is None else (solver.nfe,)
    best: Budget | None = None
    for nfe in asked:
        steps = solver.steps_for(nfe)
        try:
            cost = count(steps, nfe)
        except ConfigError:
            if best is None:
                raise
            break
        if cost > budget:
            break
        if best is None or cost > best.nfe:
            best = Budget(budget, steps, cost, "", {"nfe": nfe})
    if best is None:
        raise BudgetError(f"nfe: {budget} is refused; allowed: at least {cost:g}, what the solver made for {nfe} evaluations costs")
    if best.nfe == budget:
        return best
    made = f"made for {best.changes['nfe']}, {best.steps} steps cost {best.nfe:g} of {budget}"
    return dataclasses.replace(best, note=f"{made}; made for more, they cost more than the budget")
