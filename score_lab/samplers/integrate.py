"""Samplers that choose their own levels: what ``integrate`` is handed, and how ``sample`` runs it.

    integrate(denoise, x_T, steps, draw) -> Integrated(states, num_steps, nfe, denoised)

``denoise(x, t)`` is the network at one level or one per sample; ``denoise.each(f, *arrays)`` is ``f(denoise_i, *arrays_i)`` for every
sample alone, without a batch axis: what f does for one sample cannot depend on its batch-mates.  ``draw(k)`` is the k-th standard normal.
``denoise.recorded`` is False where nobody is shown the states between the grid's ends: then those two, (n, 2, *shape), will do.

The network is called at levels up to the last of ``denoise.times()``: the grid's own if that is of finite log-SNR, else the log-SNR 20
(beyond which all levels are the same to a network) or the highest that the network was trained on; the rest is one denoise step
x_s = alpha_s x0 + sigma_s eps, by a further call where the solver does not give it (``denoised``).  Where a grid that ascends starts at
data, data count as states of that level.  A recorder is shown one call at each of the grid's levels, after the run and not counted in
``nfe``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.denoiser import LEVEL_LIMIT, Denoiser, Prediction
from score_lab.linear import select, square_norm
from score_lab.paths.base import GaussianPath
from score_lab.samplers.base import Integrated, Integrator, Recorder, Samples
from score_lab.samplers.steps import Steps
from score_lab.types import Array, Cond, PyTree

__all__ = ["Levels", "chooses_levels", "integrated", "refuse_ends"]


def chooses_levels(sampler: Any) -> bool:
    """Whether ``sampler`` is of this kind: it has ``integrate`` in place of ``init`` and ``step``."""
    return hasattr(sampler, "integrate")


class Levels:
    """The ``denoise`` of an adaptive sampler: see the module."""

    def __init__(self, denoiser: Denoiser, cond: Cond, steps: Steps, recorded: bool = True):
        self.denoiser, self.cond, self.steps, self.recorded = denoiser, cond, steps, recorded

    @property
    def path(self) -> GaussianPath:
        """The path of the states."""
        return self.denoiser.path

    def __call__(self, x: PyTree, t: Array) -> Prediction:
        """The prediction at ``(x, t)``, t a scalar or (n,)."""
        return self.denoiser(x, t, self.cond)

    def each(self, function: Callable, *arrays: PyTree) -> PyTree:
        """``function(denoise_i, *arrays_i)`` for every sample i; ``denoise_i(x, t)`` takes and gives states without a batch axis."""

        def one(cond, *values):
            labels = jax.tree.map(lambda a: a[None], cond)
            return function(lambda x, t: self._alone(x, t, labels), *values)

        return jax.vmap(one)(self.cond, *arrays)

    def _alone(self, x: PyTree, t: Array, labels: Cond) -> Prediction:
        p = self.denoiser(jax.tree.map(lambda a: a[None], x), t, labels)
        x0, eps = (jax.tree.map(lambda a: a[0], v) for v in (p.x0, p.eps))
        return Prediction(x_t=x, t=t, path=self.path, x0=x0, eps=eps, fed=p.fed, nfe=jnp.asarray(p.nfe, jnp.int32))

    def times(self) -> tuple[Array, Array]:
        """``(times, rest)``: the N + 1 times of the grid, none at a higher log-SNR than the network is asked for; and whether the last was
        moved, so that a denoise step remains.

        The highest is the smaller of 20 and of the trained range, but never below the grid's last level of a call.
        """
        times = jnp.append(self.steps.t, self.steps.s[-1])
        levels = self.path.log_snr(times)
        inner = self.denoiser
        while hasattr(inner, "denoiser"):
            inner = inner.denoiser
        free = getattr(inner, "clip", False) or getattr(inner, "extrapolate", False)
        trained = LEVEL_LIMIT if free else getattr(inner, "log_snr_range", (None, LEVEL_LIMIT))[1]
        high = jnp.maximum(jnp.minimum(LEVEL_LIMIT, trained), jnp.where(jnp.isfinite(levels), levels, -jnp.inf).max())
        beyond = levels > high
        return jnp.where(beyond, self.path.time_of(high), times).astype(times.dtype), beyond[-1]


def integrated(
    denoiser: Denoiser, sampler: Integrator, steps: Steps, x_T: PyTree, noise: Callable, cond: Cond, recorder: Recorder | None, index: Array
) -> Samples:
    """``sampler.integrate`` inside ``sample``, and the denoise step that remains."""
    num_steps = steps.t.shape[0]
    denoise = Levels(denoiser, cond, steps, recorder is not None)
    times, rest = denoise.times()
    made = sampler.integrate(denoise, x_T, steps, lambda k: noise(k, 0, x_T))
    if not isinstance(made, Integrated):
        refuse(f"{type(sampler).__name__}.integrate returns", type(made).__name__, "Integrated(states, num_steps, nfe, denoised)")
    states, attempts, nfe, denoised = made
    last, zero = jax.tree.map(lambda a: a[:, -1], states), jnp.zeros((), jnp.int32)

    def to_data():
        p = denoise(last, times[-1])
        return jax.tree.map(lambda a, b: a.astype(b.dtype), p.at(steps.s[-1]), last), jnp.asarray(p.nfe, jnp.int32)

    if denoised is None:
        x, spent = jax.lax.cond(rest, to_data, lambda: (last, zero))
    else:
        x, spent = select(rest, denoised, last), zero
    arrived = jnp.isfinite(square_norm(last))
    x = select(arrived, x, jax.tree.map(lambda a: jnp.full_like(a, jnp.nan), x))
    record = None
    if recorder is not None:
        record = recorder.init(num_steps, 1, x_T, index)
        for k in range(num_steps):
            p = denoiser(jax.tree.map(lambda a, k=k: a[:, k], states), times[k], cond, s=times[k + 1], step=jnp.int32(k))
            record = recorder.update(record, jnp.int32(k), 0, p, jnp.asarray(True))
        record = recorder.result(record)
    return Samples(x=x, nfe=nfe + jnp.where(arrived, spent, 0), record=record, num_steps=attempts)


def refuse_ends(sampler: Any, steps: Steps, path: GaussianPath, variable: Any) -> None:
    """Refuses, by name, a grid that renoises (one of an adaptive solver's levels is never its own) and a start at which ``variable`` is
    infinite."""
    name = type(sampler).__name__
    if steps.renoises:
        refuse("grid", "a grid that renoises (churn, Restart)", f"a grid that does not: {name} chooses its own steps")
    if not bool(_finite(variable, path, steps.t)):
        allowed = f"Angle, or a grid that starts where {type(variable).__name__} of {type(path).__name__} is finite"
        refuse(f"{name}.variable", type(variable).__name__, allowed)


@jax.jit
def _finite(variable: Any, path: GaussianPath, t: Array) -> Array:
    return jnp.isfinite(variable.at(path, t[0]))
