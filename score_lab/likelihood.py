"""Log density along the probability-flow ODE (Song et al. 2021, eq. 39; Chen et al. 2018, instantaneous change of variables).

    dx/dt = velocity(x, t),    ln p_{t0}(x) = ln prior(x(t1)) + int_{t0}^{t1} div velocity(x(t), t) dt

from t0, a level close to data, to t1, the level of the prior.  The divergence is exact (one forward-mode derivative per dimension) or
Hutchinson's estimate ``v . J v`` with one Rademacher probe v per example, *held fixed along its trajectory*, keyed by (key, global index).
Steps are adaptive (diffrax's Tsit5) and controlled per example: one error norm for the whole batch lets outliers through.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.denoiser import Denoiser, check_levels, forward_mode
from score_lab.samplers.first_step import first_step
from score_lab.types import Array, Cond, leaf, pytree_dataclass

__all__ = ["Likelihood", "log_likelihood"]

DIVERGENCES = ("exact", "hutchinson")


@pytree_dataclass
class Likelihood:
    """``logp`` (n,) in nats at the level ``log_snr``; ``x_T`` the encoded states; ``nfe`` (n,) network evaluations.

    num_steps attempted steps take 3 + 6 num_steps fields (two for the size of the first, its slope, six a step), and a field 1 + d
    evaluations, a forward derivative counted as one ("hutchinson": 1 + 1).
    """

    logp: Array = leaf()
    x_T: Array = leaf()
    nfe: Array = leaf()
    log_snr: Array = leaf()


def log_likelihood(
    denoiser: Denoiser, x: Array, key: Array | None = None, *,
    cond: Cond = None, index: Any = None, start: float = 10.0, end: float | None = None,
    divergence: str = "exact", rtol: float = 1e-5, atol: float = 1e-5, max_steps: int = 4096,
) -> Likelihood:  # fmt: skip
    """``ln p(x)`` of states ``x`` (n, *shape) under the model's density at log-SNR ``start``.

    Args:
      start: the level of ``x``, a log-SNR of the path below its t = 0 (many paths' velocity diverges there); data count as states of it.
      end: the level of the prior; None: the path's t = 1.
      divergence: "exact" (as many derivatives as dimensions) or "hutchinson".
      rtol, atol: of the adaptive solver, per example.

    Raises ConfigError for an unknown divergence, levels off the path or outside the trained range.
    """
    denoiser = forward_mode(denoiser)
    path = denoiser.path
    if divergence not in DIVERGENCES:
        refuse("log_likelihood.divergence", divergence, " or ".join(DIVERGENCES), DIVERGENCES)
    high, low = (float(path.log_snr(jnp.asarray(t, jnp.result_type(float)))) for t in (0.0, 1.0))
    end = low if end is None else end
    if not low <= end < start <= high:
        refuse("log_likelihood.start, end", (start, end), f"log-SNRs of {type(path).__name__}, {low:.4g} <= end < start <= {high:.4g}")
    check_levels(denoiser, np.array([start, end]), "log_likelihood")
    t0, t1 = (path.time_of(jnp.asarray(level, jnp.result_type(float))) for level in (start, end))
    index = jnp.arange(x.shape[0]) if index is None else jnp.asarray(index)
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0) if key is None else key, i))(index)
    logp, x_T, nfe = _integrate(denoiser, x, cond, keys, t0, t1, rtol, atol, divergence, max_steps)
    return Likelihood(logp=logp, x_T=x_T, nfe=nfe, log_snr=path.log_snr(t0))


@partial(jax.jit, static_argnames=("divergence", "max_steps"))
def _integrate(denoiser, x, cond, keys, t0, t1, rtol, atol, divergence, max_steps):
    calls = x[0].size if divergence == "exact" else 1

    def one(x, cond, key):
        labels = None if cond is None else jax.tree.map(lambda a: a[None], cond)
        probe = jax.random.rademacher(key, x.shape, x.dtype)

        def velocity(x, t):
            return denoiser(x[None], t, labels).velocity[0]

        def field(t, state, _):
            v, jvp = jax.linearize(lambda x: velocity(x, t), state[0])
            return v, _trace(jvp, x) if divergence == "exact" else jnp.sum(probe * jvp(probe))

        state = (x, jnp.zeros((), x.dtype))
        first = first_step(lambda t, state: field(t, state, None), t0, t1, state, rtol, atol, 5)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field), diffrax.Tsit5(), t0, t1, first, state,
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol), max_steps=max_steps,
        )  # fmt: skip
        x_T, change = (leaf[-1] for leaf in solution.ys)
        fields = 2 + 1 + 6 * solution.stats["num_steps"]  # the first step's size, the first slope, six more in every attempted step
        return x_T, change, fields * (1 + calls)

    x_T, change, nfe = jax.vmap(one)(x, cond, keys)
    return denoiser.path.prior_logp(x_T, t1) + change, x_T, nfe


def _trace(jvp, x: Array) -> Array:
    """The sum of the diagonal of the linear map ``jvp``."""
    basis = jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)
    return jnp.sum(jax.vmap(lambda e: jnp.sum(e * jvp(e)))(basis))
