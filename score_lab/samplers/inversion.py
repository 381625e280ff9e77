"""Inversion: a deterministic solver run up its own grid, from data to the noise that it would turn into them.

    dx/du = k(x, u)  from u_s to u_t:   the rows (t, s) of a grid, in reverse order, as (s, t)     (Song et al. 2021, section 4.3 and 5.4)

Explicit solvers are not symmetric: encoding and decoding are two different discrete maps, so the round trip is exact only in the limit, and
its error falls with the order of the solver.  Every deterministic solver whose formulas hold for s > t encodes; stochastic ones are refused
by name.  The first level is finite: eps says nothing at pure data, so where the grid ends at sigma = 0 (its last, denoising step) the
encoding starts at the level before that, and x0 counts as a state of that level (at log-SNR 10 it lacks noise of standard deviation
0.007).  ``Encoded.steps`` are the same levels downwards: ``sample(denoiser, sampler, encoded.steps, x_T=encoded.x)`` is the way back.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.denoiser import Denoiser
from score_lab.samplers.base import Integrator, Recorder, Sampler
from score_lab.samplers.loop import sample
from score_lab.samplers.steps import Steps, steps_of
from score_lab.types import Array, PyTree, leaf, pytree_dataclass

__all__ = ["Encoded", "encode"]


@pytree_dataclass
class Encoded:
    """``x``: the states at the top of the grid; ``nfe``: network evaluations per sample; ``steps``: the way back; ``log_snr``: the level
    as whose state x0 was taken; ``record``: the recorder's result."""

    x: PyTree = leaf()
    nfe: Array = leaf()
    steps: Steps = leaf()
    log_snr: Array = leaf()
    record: Any = leaf(default=None)


def encode(
    denoiser: Denoiser, sampler: Sampler | Integrator, grid: Any, x0: PyTree, *, cond: Any = None, recorder: Recorder | None = None
) -> Encoded:
    """The noise x_T that ``sampler`` on ``grid`` turns (back) into ``x0``.

    Args:
      sampler: any deterministic one-step or multistep solver; NFE are counted as in ``sample``.
      grid: as one would sample on it; its last step to pure data, where it has one, is left out (see the module).
      x0: states (n, *shape), any pytree, at the grid's last finite level.

    Raises ConfigError for a stochastic solver, a grid that renoises, one with no finite level below its top, a solver with history on a
    grid that starts at log-SNR -inf (its coefficients there are limits of descending steps), and whatever ``sample`` refuses.
    """
    steps = steps_of(grid, denoiser.path)
    down, up = _both_ways(steps, denoiser, sampler)
    run = sample(denoiser, sampler, up, x_T=x0, cond=cond, recorder=recorder)
    return Encoded(x=run.x, nfe=run.nfe, steps=down, log_snr=denoiser.path.log_snr(up.t[0]), record=run.record)


def _both_ways(steps: Steps, denoiser: Denoiser, sampler: Sampler | Integrator) -> tuple[Steps, Steps]:
    """The rows down to the last finite level, and the same rows upwards."""
    steps.check()
    if steps.renoises or steps.ascends:
        refuse("encode.grid", "a grid that renoises" if steps.renoises else "an ascending grid", "a grid that descends from noise to data")
    times = np.append(np.asarray(steps.t), np.asarray(steps.s)[-1])
    levels = np.asarray(denoiser.path.log_snr(jnp.asarray(times)))
    if levels[-1] == np.inf:
        times = times[:-1]
    if len(times) < 2:
        refuse("encode.grid", f"{len(steps.t)} step from noise to pure data", "a grid with at least one step between finite levels")
    if levels[0] == -np.inf and sampler.memory:
        allowed = f"a finite log-SNR: {type(sampler).__name__} remembers {sampler.memory} earlier step(s)"
        refuse("encode.grid's highest level", "log-SNR -inf", allowed)
    down = Steps.of(jnp.asarray(times))
    return down, dataclasses.replace(Steps.of(jnp.asarray(times[::-1].copy())), ascends=True)
