"""The causes of the mismatch: an experiment cube on common random numbers, and what each of its axes does to ln R.

    axis A  denoiser     the network's, and the exact one where there is one
    axis B  steps        N, 2 N, 4 N, ..., N_max;  Richardson: ln R(N) = ln R_inf + c / N^p
    axis C  start        x_T of forward samples of data (true), or of the prior
    axis G  guidance     with and without, where the run is guided

    prior           = ln R(N, prior)  - ln R(N, true)                       at the run's own denoiser
    discretisation  = ln R(N, true)   - ln R_inf(true)
    model           = ln R_inf(true)  - ln R_inf(exact, true)               without an exact denoiser the draws are part of the model's
    guidance        = ln R(N, true, guided) - ln R(N, true, unguided)
    draws           = ln R_inf(exact, true)                                 what these n trajectories happen to be: 0 in expectation
    interaction     = the whole, ln R(N, prior, guided), less all of these; none without guidance, where they telescope
    truncation      = ln (V_b / (alpha^2 s_b^2)) at the last level: what stopping there leaves, on top of ln R, against data; no addend

The last states are read, band by band, with the weights of one streaming bootstrap for all cells: the same trajectory has the same noise
and the same weight in every cell, so intervals are of paired differences.  ln R_inf is Richardson's extrapolation of the two largest N
with the declared order p.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.denoiser import Denoiser
from score_lab.mismatch.inversion import on_host
from score_lab.mismatch.replicates import Curve, curve, poisson_weights
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths.base import GaussianPath, indexed_normals
from score_lab.samplers import sample
from score_lab.samplers.steps import steps_of
from score_lab.types import Array

__all__ = ["PARTS", "Cube", "Decomposition", "decompose", "fitted_order", "richardson", "truncation"]

PARTS = ("prior", "discretisation", "model", "guidance", "draws", "interaction")


@dataclasses.dataclass(frozen=True)
class Cube:
    """``log_ratio`` cell -> (B + 1, R + 1): ln R of the last states by band and, in the last row, in total; the value, then replicates.

    A cell is (denoiser "run", "plain" or "exact"; start "true" or "prior"; N).
    """

    log_ratio: Mapping[tuple[str, str, int], np.ndarray]
    steps: tuple[int, ...]
    order: float
    n: int

    def __getitem__(self, cell: tuple[str, str, int]) -> np.ndarray:
        return self.log_ratio[cell]

    def limit(self, denoiser: str, start: str = "true") -> np.ndarray:
        """``ln R_inf`` (B + 1, R + 1) by Richardson."""
        coarse, fine = self.steps[-2:]
        return richardson(self[denoiser, start, coarse], self[denoiser, start, fine], coarse, fine, self.order)


@dataclasses.dataclass(frozen=True)
class Decomposition:
    """``whole`` and ``parts`` name -> ``Curve`` over bands (the last row: in total) of ln R after the run's last step, at ``N`` steps.
    ``truncation`` (B + 1,): of the spectrum at the last level, exact; 0 where the run ends at data."""

    whole: Curve
    parts: Mapping[str, Curve]
    cube: Cube
    N: int
    exact: bool
    truncation: np.ndarray | None = None

    def rows(self) -> list[dict[str, Any]]:
        """One dict per part and band ("total" the last), for CSV and JSON."""
        bands = [*range(len(self.whole.value) - 1), "total"]
        return [
            {"part": name, "band": band, "value": c.value[b], "low": c.low[b], "high": c.high[b], "flag": str(c.flag[b])}
            for name, c in ({"whole": self.whole} | dict(self.parts)).items() for b, band in enumerate(bands)
        ]  # fmt: skip


def decompose(
    denoiser: Denoiser, sampler: Any, grid: Callable[[int], Any], x0: np.ndarray, spectrum: Spectrum, key: Array, *, N: int,
    N_max: int = 128, plain: Denoiser | None = None, exact: Denoiser | None = None, cond: Any = None, order: float | None = None,
    replicates: int = 200, chunk: int = 512, progress: Callable[[int, int], None] | None = None,
    kept: Callable[[tuple[str, str, int], Callable[[], np.ndarray]], np.ndarray] | None = None,
) -> Decomposition:  # fmt: skip
    """The parts of ln R of a run of ``N`` steps.

    Args:
      denoiser: of the run, guided if the run is; ``plain`` the same without guidance (None: the run is not guided).
      grid: number of steps -> grid; all from one start to one end.
      x0: data (n, *shape), whose forward samples are the true start; as many trajectories as rows.
      exact: the exact denoiser of the same data, where there is one.
      N_max: at least 4 N; N, 2 N, ..., are doubled up to it.
      order: of convergence of ln R; None: the sampler's declared order.
      progress: is told (cells done, cells in all).
      kept: (cell, how to make it) -> its array: whoever stores cells gives back what is there and makes what is not.

    Raises ConfigError for grids of several ends, N_max < 4 N, or too few trajectories to resample (20).
    """
    steps = [N]
    while steps[-1] * 2 <= N_max:
        steps.append(steps[-1] * 2)
    if len(steps) < 3:
        refuse("decompose.N_max", N_max, f"at least 4 N = {4 * N}: the limit of many steps is extrapolated")
    if len(x0) < 20:
        refuse("decompose.x0", len(x0), "at least 20 examples, one a trajectory")
    grids = {k: steps_of(grid(k), denoiser.path) for k in steps}
    ends = {k: (float(s.start), float(s.s[-1])) for k, s in grids.items()}
    if len({tuple(np.round(v, 9)) for v in ends.values()}) > 1:
        refuse("decompose.grid", ends, "one start and one end, whatever the number of steps")
    plain = denoiser if plain is None else plain
    cells: dict[tuple[str, str, int], Denoiser] = {("plain", "true", k): plain for k in steps}
    cells |= {("run", start, N): denoiser for start in ("true", "prior")} | {("plain", "prior", N): plain}
    if exact is not None:
        cells |= {("exact", "true", k): exact for k in steps}
    cells = {cell: part for cell, part in cells.items() if not (cell[0] == "run" and plain is denoiser)}
    found = {}
    for done, (cell, part) in enumerate(cells.items()):
        make = partial(_cell, part, sampler, grids[cell[2]], x0, spectrum, key, cell[1], cond, replicates, chunk)
        found[cell] = make() if kept is None else kept(cell, make)
        if progress is not None:
            progress(done + 1, len(cells))
    if plain is denoiser:
        found |= {("run", start, N): found["plain", start, N] for start in ("true", "prior")}
    cube = Cube(found, tuple(steps), float(sampler.order if order is None else order), len(x0))
    left = truncation(spectrum, denoiser.path, float(grids[N].s[-1]))
    return Decomposition(*_parts(cube, N, exact is not None, plain is not denoiser), cube, N, exact is not None, left)


def truncation(spectrum: Spectrum, path: GaussianPath, t: float) -> np.ndarray:
    """``ln (1 + kappa^2 / s_b^2)`` (B + 1,), the last row ``ln (1 + kappa^2 / s^2)`` in total: the noise that states at t still hold.
    Infinite for a band without variance, or without signal."""
    alpha, sigma, _ = on_host(path, np.asarray([t]))
    s2 = np.append(spectrum.variance, spectrum.count @ spectrum.variance / spectrum.d)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sigma[0] > 0, np.log1p(sigma[0] ** 2 / (alpha[0] ** 2 * s2)), 0.0)



def _parts(cube: Cube, N: int, exact: bool, guided: bool) -> tuple[Curve, dict[str, Curve]]:
    limit, ideal = cube.limit("plain"), cube.limit("exact") if exact else np.zeros(())
    whole = cube["run", "prior", N]
    parts = {
        "prior": cube["plain", "prior", N] - cube["plain", "true", N],
        "discretisation": cube["plain", "true", N] - limit,
        "model": limit - ideal,
        "guidance": cube["run", "true", N] - cube["plain", "true", N],
        "draws": ideal + 0.0 * limit,
    }
    parts["interaction"] = whole - sum(parts.values()) if guided else 0.0 * whole
    return curve(whole), {name: curve(draws) for name, draws in parts.items()}


def richardson(coarse: np.ndarray, fine: np.ndarray, n: int, m: int, order: float) -> np.ndarray:
    """``(r^p v(m) - v(n)) / (r^p - 1)``, r = m / n: the limit of v(N) = v_inf + c / N^p."""
    ratio = (m / n) ** order
    return (ratio * fine - coarse) / (ratio - 1.0)


def fitted_order(values: Mapping[int, np.ndarray]) -> np.ndarray:
    """``p = log2 |v(N) - v(2 N)| / |v(2 N) - v(4 N)|`` of the three largest N of a doubling list."""
    a, b, c = (values[k] for k in sorted(values)[-3:])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log2(np.abs(a - b) / np.abs(b - c))


def _cell(denoiser, sampler, steps, x0, spectrum, key, start, cond, replicates, chunk) -> np.ndarray:
    """``ln R`` (B + 1, R + 1) of the last states of one run."""
    x_key, w_key, run_key = jax.random.split(key, 3)
    path, n = denoiser.path, len(x0)
    sums, weight = np.zeros((replicates + 1, len(spectrum.variance))), np.zeros(replicates + 1)
    alpha, _, _ = on_host(path, np.asarray([float(steps.s[-1])]))
    for first in range(0, n, chunk):
        rows = np.arange(first, min(first + chunk, n))
        index = jnp.asarray(rows, jnp.int32)
        x_T = _start(path, x_key, index, jnp.asarray(x0[rows], jnp.result_type(float)), steps.start, start == "true")
        part = None if cond is None else jax.tree.map(lambda v, rows=rows: jnp.asarray(np.asarray(v)[rows]), cond)
        x = sample(denoiser, sampler, steps, x_T=x_T, key=run_key, index=index, cond=part).x
        w = np.asarray(poisson_weights(w_key, index, replicates), np.float64)
        sums += w @ _energies(spectrum, x, float(alpha[0]))
        weight += w.sum(axis=1)
    V = spectrum.V(path, np.asarray([float(steps.s[-1])]))[0]
    v = sums / weight[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        bands = np.log(v / (spectrum.count * V)).T
    return np.concatenate([bands, np.log(v.sum(axis=1) / (spectrum.count @ V))[None]])


@partial(jax.jit, static_argnames=("true",))
def _start(path: GaussianPath, key: Array, index: Array, x0: Array, t: Array, true: bool) -> Array:
    """Forward samples of ``x0`` at ``t``, or the prior: with the same normals."""
    if not true:
        return path.prior_sample(key, index, x0.shape[1:], t)
    return path.add_noise(x0, indexed_normals(key, index, jax.ShapeDtypeStruct(x0.shape[1:], x0.dtype)), t)


def _energies(spectrum: Spectrum, x: Array, alpha: float) -> np.ndarray:
    """``sum_{i in b} (Q^T (x - alpha mu))_i^2`` (n, B), float64."""
    centred = x - jnp.asarray(alpha * spectrum.mean, x.dtype)[None]
    return np.asarray(spectrum.energies(spectrum.basis.analyse(centred)), np.float64)
