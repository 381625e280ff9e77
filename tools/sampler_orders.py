"""The orders of the catalogue's solvers, measured, and whether they are what the code declares.

Deterministic: log2 of the errors at N and 2N between log-SNR -3 and 3, on VP, N doubled until two orders in turn agree to 0.15: on the
mixture of tests/samplers/convergence.py against scipy's DOP853, on the stiff Gaussian against its closed form; "interior" from exact
starting values, "shipped" as it comes.  Stochastic: the weak order of the variance on Gaussian data, exact by impulse responses; the strong
order where one is claimed, along one Brownian path.
"""

import re

import jax.numpy as jnp
import numpy as np
from oracle.case import Bank
from samplers.convergence import HIGH, LOW, error
from samplers.exact import Mixture
from samplers.impulses import ratio

from score_lab.paths import VP, LinearFlow
from score_lab.samplers import CATALOGUE, StochasticHeun, UniformLogSNR, sample

FLOOR = 1e-12
MEASURED = ("interior", "shipped", "stiff", "stiff shipped", "weak", "strong")
STRONG = ("Euler-Maruyama, SiT's sigma", "stochastic Heun")
"""Those whose strong order 1 is claimed (score_lab/samplers/sde.py)."""
HIGHER = {"UniPC": 1.0, "Midpoint": 1.0}
"""How much more than declared a class may be measured to have; the page's head says why."""


def asymptotic(sampler, problem: str, exact_start: bool) -> str:
    """The order where doubling N does not change it by more than 0.15; before the errors are float64's own."""
    n, orders, last = 20 if sampler.order > 3 else 40, [], None
    while n <= 5120:
        now = error(sampler, VP(), n, problem, exact_start=exact_start)
        if last is not None and (now > FLOOR or not orders):
            orders.append(np.log2(last / now))
        if now <= FLOOR or (len(orders) > 1 and abs(orders[-1] - orders[-2]) < 0.15):
            break
        last, n = now, 2 * n
    return f"{orders[-1]:.2f}"


def deterministic(sampler) -> dict[str, str]:
    """The four orders; of a solver without history the start is no other."""
    found = {"interior": asymptotic(sampler, "mixture", True), "stiff": asymptotic(sampler, "stiff", True)}
    if not sampler.memory:
        return found | {"shipped": found["interior"], "stiff shipped": found["stiff"]}
    return found | {"shipped": asymptotic(sampler, "mixture", False), "stiff shipped": asymptotic(sampler, "stiff", False)}


def strong(sampler) -> str:
    """From 32 to 128 steps, the median of |x_N - x| over 256 paths of the mixture, on increments that refine one Brownian path in t,
    against 2048 steps of stochastic Heun."""
    path, fine = LinearFlow(), 2048
    grid = lambda n: UniformLogSNR(n, LOW, HIGH, to_data=False).steps(path)  # noqa: E731
    h = np.asarray(grid(fine).t - grid(fine).s)
    dW = np.random.default_rng(2).standard_normal((fine, 256, 2)) * np.sqrt(h)[:, None, None]
    x_T = jnp.asarray(np.random.default_rng(3).standard_normal((256, 2)))

    def run(s, n):
        sums = dW.reshape(n, fine // n, 256, 2).sum(1) / np.sqrt(h.reshape(n, -1).sum(1))[:, None, None]
        return np.asarray(sample(Mixture(path), s, grid(n), x_T=x_T, noise=Bank(jnp.asarray(sums), jnp.arange(n)[:, None])).x)

    truth = run(StochasticHeun(sampler.multiplier), fine)
    coarse, finer = (np.median(np.abs(run(sampler, n) - truth)) for n in (32, 128))
    return f"{0.5 * np.log2(coarse / finer):.2f}"


def weak(sampler) -> str:
    """The order of the variance's error on Gaussian data of three widths, between 40 and 80 steps: the least."""
    one, two = (np.abs(ratio(VP(), sampler, UniformLogSNR(k, LOW, HIGH, to_data=False), draws_per_step=2) - 1) for k in (40, 80))
    moved = one > 1e-9
    return f"{np.log2(one[moved] / two[moved]).min():.2f}" if moved.any() else "exact"


def applies(sampler, name: str) -> tuple[str, ...]:
    """The measured columns that a solver has."""
    if hasattr(sampler, "integrate") or sampler.order == 0:
        return ()
    return (("weak", "strong") if name in STRONG else ("weak",)) if sampler.stochastic else MEASURED[:4]


def measured(name: str) -> dict[str, str]:
    """Its orders; "adaptive" or "-" where there is none."""
    s = CATALOGUE[name].sampler
    found = {column: "adaptive" if hasattr(s, "integrate") else "-" for column in MEASURED}
    wanted = applies(s, name)
    if "weak" in wanted:
        return found | {"weak": weak(s)} | ({"strong": strong(s)} if "strong" in wanted else {})
    return found | deterministic(s) if wanted else found


def amiss(name: str, row: dict[str, str]) -> list[str]:
    """The columns whose figure is not what the solver declares: more than 0.2 below, or 0.5 above (a class of ``HIGHER``: more)."""
    s = CATALOGUE[name].sampler
    wrong = []
    for column in applies(s, name):
        if row[column] == "exact":
            continue
        least = 1 if column == "strong" else s.order if column in ("interior", "stiff", "weak") else min(s.order, 2)
        most = (1 if column == "strong" else s.order) + 0.5 + HIGHER.get(type(s).__name__, 0.0)
        found = float(row[column]) if re.fullmatch(r"-?[0-9.]+", row[column]) else float("nan")
        if not least - 0.2 <= found <= most:
            wrong.append(column)
    return wrong
