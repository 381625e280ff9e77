"""Schedule-free optimizers (Defazio et al. 2024) train at one point and are evaluated at another.

    y = (1 - b1) z + b1 x,      gradients at y, steps of z, x their average: Optax keeps y (the parameters) and z (its state)
    x = (y - (1 - b1) z) / b1,                                               ``optax.contrib.schedule_free_eval_params``

A run averages x where others average the parameters, and its first average must be that of decay 0, which is x: what is evaluated, loaded
and handed to callbacks is the point that the method gives.
"""

from __future__ import annotations

from typing import Any

import jax
import optax
from optax.contrib import ScheduleFreeState, schedule_free_eval_params

from score_lab.build import refuse
from score_lab.types import PyTree

__all__ = ["check_evaluated", "evaluated", "is_schedule_free", "rescaled"]


def evaluated(opt_state: PyTree, params: PyTree) -> PyTree:
    """x of the leaves that a schedule-free optimizer in ``opt_state`` updates, the others as they are in ``params``."""
    for state in _states(opt_state):
        y = jax.tree.map(lambda z, p: z if _masked(z) else p, state.z, params, is_leaf=_masked)
        x = schedule_free_eval_params(state, y)
        params = jax.tree.map(lambda z, new, p: p if _masked(z) else new, state.z, x, params, is_leaf=_masked)
    return params


def is_schedule_free(opt_state: PyTree) -> bool:
    """Whether there is a schedule-free optimizer in the state (or its shapes)."""
    return bool(_states(opt_state))


def rescaled(opt_state: PyTree, factors: PyTree) -> PyTree:
    """``opt_state`` with the z of every schedule-free optimizer multiplied by ``factors``, a tree like the parameters (1.0: left alone)."""

    def one(state: Any) -> Any:
        if not isinstance(state, ScheduleFreeState):
            return state
        z = jax.tree.map(lambda z, f: z if _masked(z) or isinstance(f, float) else z * f.astype(z.dtype), state.z, factors, is_leaf=_masked)
        return state._replace(z=z)

    return jax.tree.map(one, opt_state, is_leaf=lambda x: isinstance(x, ScheduleFreeState))


def check_evaluated(ema: tuple, opt_state: PyTree) -> None:
    """ConfigError where a schedule-free run would be evaluated at another point than x."""
    if is_schedule_free(opt_state) and tuple(ema[:1]) != (0.0,):
        why = "schedule-free is evaluated at its own average, which is the first one where its decay is 0"
        refuse("config.training.ema", tuple(ema), f"(0.0,), or more decays behind 0.0: {why}")


def _states(opt_state: PyTree) -> list[Any]:
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, ScheduleFreeState))
    return [leaf for leaf in leaves if isinstance(leaf, ScheduleFreeState)]


def _masked(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)
