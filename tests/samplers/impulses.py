"""The exact variance that a real sampler gives Gaussian data: impulse responses, all in one batch (see test_closed_forms.py)."""

import jax.numpy as jnp
import numpy as np
from samplers.exact import Gaussian

from score_lab.samplers import Steps, sample
from score_lab.types import leaf, pytree_dataclass

S = np.array([0.1, 0.5, 1.0, 3.0])[:, None]  # rows: data; columns of every array below: levels of the grid


@pytree_dataclass
class Impulses:
    """Row i draws 1 in call ``call[i]`` of step ``step[i]``, and 0 elsewhere."""

    step: object = leaf()
    call: object = leaf()

    def __call__(self, step, call, like):
        return jnp.where((self.step == step) & (self.call == call), 1.0, 0.0)[:, None] * jnp.ones_like(like)


def levels(path, steps: Steps):
    """numpy alpha, sigma, V (4, N + 1) and phi at the N + 1 levels of a grid without renoising."""
    t = jnp.append(steps.t, steps.s[-1])
    a, s = (np.broadcast_to(np.asarray(f(t)), t.shape)[None] for f in (path.alpha, path.sigma))
    return a, s, a**2 * S**2 + s**2, np.arctan2(s * np.ones_like(S), a * S)


def ratio(path, sampler, grid, R_0=1.0, renoising=False, draws_per_step=1):
    """``Var(x_N) / V_N`` (4,) of the real sampler, started with variance ratio ``R_0``; ``draws_per_step`` of a stochastic sampler."""
    steps = grid.steps(path)
    a, s, V, _ = levels(path, steps)
    n = len(steps.t)
    draws = [(-1, 0)]
    if sampler.stochastic:
        draws += [(k, j) for k in range(n) for j in range(draws_per_step)]
    if renoising:
        draws += [(k, draws_per_step if sampler.stochastic else 0) for k in range(n)] + [(n, 0)]
    step, call = (np.tile(np.array(v), len(S)) for v in zip(*draws, strict=True))
    start = np.asarray(path.alpha(steps.start)) ** 2 * S**2 + np.asarray(path.sigma(steps.start)) ** 2
    x_T = np.where(step == -1, np.repeat(np.sqrt(R_0 * start[:, 0]), len(draws)), 0.0)[:, None]
    denoiser = Gaussian(path, np.repeat(S[:, 0], len(draws)))
    x = sample(denoiser, sampler, steps, x_T=jnp.asarray(x_T), noise=Impulses(jnp.asarray(step), jnp.asarray(call))).x
    return (np.asarray(x[:, 0]) ** 2).reshape(len(S), -1).sum(1) / V[:, -1]
