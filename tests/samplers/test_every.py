"""What holds for every solver of the catalogue: finite, counted, independent of batch, chunk and devices, compiled once.

Values agree to 1e-10 relative in float64 and, 99 % of them, to 1e-5 in float32; an adaptive solver's to 10 times its tolerance, which is
one of every step: rounding that differs changes which steps are taken, and the flow may make more of their errors, as a network of random
weights does, a hundred times.  So these are compared in float32 on exact Gaussian data, where it does not.
"""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.exact import Gaussian, paths
from samplers.fake import Counting, rows_fed, small

from score_lab import samplers
from score_lab.guidance import CFG
from score_lab.paths import VP, LinearFlow
from score_lab.samplers import CATALOGUE, GRIDS, Kappa, UniformLogSNR, ending, sample, sample_chunked
from score_lab.samplers.program import programs
from score_lab.targets import F

GRID = UniformLogSNR(5, -6.0, 4.0)
KEY = jax.random.key(3)
N = 8
COND = {"label": np.arange(N) % 3}
EVERY = list(CATALOGUE)
FIRST = {type(entry.sampler): name for name, entry in reversed(CATALOGUE.items())}  # of its class; the others take minutes
GUIDED = list(FIRST.values())
QUICK = [name if name in GUIDED else pytest.param(name, marks=pytest.mark.slow) for name in EVERY]
SECOND = {type(CATALOGUE[name].sampler): name for name in reversed(EVERY) if name not in GUIDED}  # form of its class
HERE_ALONE = {"DPM-Solver++(2S)", "DPM-Solver++(3S)", "DEIS-tAB 3", "DPM-Solver++(3M) SDE"}  # which no other quick test samples with
OTHER = [n for n in EVERY if n not in GUIDED]
OTHER_FORMS = [n if n in HERE_ALONE | set(SECOND.values()) else pytest.param(n, marks=pytest.mark.slow) for n in OTHER]
PATHS = ["VP", "SubVP", "VE", "EDM", "Cosine", "LinearFlow", "Trigonometric", "DDPMTable", "ZeroSNRTable"]


def adaptive(sampler) -> bool:
    return hasattr(sampler, "integrate")


def same(a, b, sampler, precision):
    scale = np.maximum(np.abs(b), 1e-3)
    error = np.abs(a - b) / scale
    if adaptive(sampler):
        assert (np.abs(a - b) <= 10 * (sampler.atol + sampler.rtol * np.abs(b))).all()
    elif precision == "float64":
        assert error.max() <= 1e-10
    else:
        assert (error <= 1e-5).mean() >= 0.99


def test_every_exported_solver_is_in_the_catalogue():
    exported = {v for v in vars(samplers).values() if inspect.isclass(v) and dataclasses.is_dataclass(v) and hasattr(v, "calls")}
    assert {type(e.sampler) for e in CATALOGUE.values()} == exported
    assert len({repr(e.sampler) for e in CATALOGUE.values()}) == len(CATALOGUE)


def test_every_exported_grid_is_in_its_catalogue_and_moves():
    """As one would first write it, on the flow, which has every level: descending times, and an end that can be told."""
    exported = {v for v in vars(samplers).values() if inspect.isclass(v) and dataclasses.is_dataclass(v) and hasattr(v, "steps")}
    assert {type(e.grid) for e in GRIDS.values()} == exported - {samplers.Encoded}
    for entry in GRIDS.values():
        steps = entry.grid.steps(LinearFlow())
        assert (np.asarray(steps.s) < np.asarray(steps.t)).all() and ending(steps, LinearFlow())


@pytest.mark.parametrize("name", QUICK)
def test_finite_counted_and_alone_in_its_batch(name):
    """Guided, on the flow, float64: what the network did is what is counted, and a sample is the same among others, in another row."""
    sampler = CATALOGUE[name].sampler
    with jax.enable_x64(True):
        denoiser, runs = CFG(small(LinearFlow(), F(0.7), Counting()), 2.0), []
        rows = rows_fed(lambda: runs.append(sample(denoiser, sampler, GRID, (N, 2), KEY, cond=COND)) or runs[-1])
        run = runs[-1]
        assert np.isfinite(run.x).all()
        if adaptive(sampler):
            assert np.shape(run.nfe) == (N,) and rows >= int(np.sum(run.nfe)) > 0
        else:
            assert rows == N * int(run.nfe) and int(run.nfe) <= 2 * sampler.calls * 5
        rows = np.array([6, 1, 17, 18, 0, 19, 20, 3])  # the same program: what differs is who stands beside whom
        other = sample(denoiser, sampler, GRID, (N, 2), KEY, index=rows, cond={"label": rows % 3})
        known = rows < N
        same(np.asarray(other.x)[known], np.asarray(run.x)[rows[known]], sampler, "float64")


OF_EACH_FAMILY = ("DDIM", "DPM-Solver-2", "DPM-Solver++(2M)", "Euler a", "DPM-Solver-23, adaptive")


def test_every_family_has_one():
    assert {CATALOGUE[name].family for name in OF_EACH_FAMILY} == {entry.family for entry in CATALOGUE.values()}


@pytest.mark.parametrize("name", OF_EACH_FAMILY)
def test_the_same_in_chunks_of_another_size(name):
    """Float64, to 1e-10 (adaptive: 10 tolerances): eight at once, or three, three and two, of which each has its own draws; the others of
    a family in ``test_chunks_devices_and_programs``."""
    sampler = CATALOGUE[name].sampler
    with jax.enable_x64(True):
        denoiser = small(LinearFlow(), F(0.7))
        whole = sample(denoiser, sampler, GRID, (N, 2), KEY).x
        assert len(np.unique(np.asarray(whole)[:, 0])) == N
        same(sample_chunked(denoiser, sampler, GRID, (N, 2), KEY, chunk=3).x, np.asarray(whole), sampler, "float64")


@pytest.mark.parametrize("name", OTHER_FORMS)
def test_every_other_form_runs(name):
    """On exact Gaussian data: finite, and as many evaluations as it says."""
    sampler = CATALOGUE[name].sampler
    run = sample(Gaussian(LinearFlow()), sampler, GRID, (4, 2), KEY)
    assert np.isfinite(run.x).all()
    assert adaptive(sampler) or GRID.num_steps <= int(run.nfe) <= 2 * sampler.calls * GRID.num_steps


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_chunks_devices_and_programs(name):
    """Chunked, on four devices, and batches of two sizes, in float64 to 1e-10 (adaptive: 10 tolerances, in chunks on the Gaussian; see the
    module); in float32 too; another seed, level, path
    value or number of the solver's own compiles nothing."""
    sampler = CATALOGUE[name].sampler
    with jax.enable_x64(True):
        denoiser, runs = small(LinearFlow(), F(0.7), Counting()), []
        rows = rows_fed(lambda: runs.append(sample(denoiser, sampler, GRID, (N, 2), KEY)) or runs[-1])
        assert rows == N * int(runs[-1].nfe) if not adaptive(sampler) else rows >= int(np.sum(runs[-1].nfe)) > 0
        pick = np.array([6, 1])
        same(np.asarray(sample(denoiser, sampler, GRID, (2, 2), KEY, index=pick).x), np.asarray(runs[-1].x)[pick], sampler, "float64")
        plain = Gaussian(LinearFlow()) if adaptive(sampler) else small(LinearFlow(), F(0.7))
        whole = np.asarray(sample(plain, sampler, GRID, (2 * N, 2), KEY).x)
        for chunk, devices in ((6, None), (N, jax.local_devices())):
            same(sample_chunked(plain, sampler, GRID, (2 * N, 2), KEY, chunk=chunk, devices=devices).x, whole, sampler, "float64")
    denoiser, n = small(VP(), F(0.7)), 128
    whole = sample(denoiser, sampler, GRID, (n, 2), KEY).x
    size = programs()
    for other in (small(VP(0.2, 15.0), F(0.7)), small(VP(), F(0.7), sigma_data=0.7)):
        sample(other, sampler, UniformLogSNR(5, -5.0, 3.0), (n, 2), jax.random.key(9))
    for field in dataclasses.fields(sampler):
        v = getattr(sampler, field.name)
        if isinstance(v, float):
            other = dataclasses.replace(sampler, **{field.name: 0.9 * v if 0 < v < np.inf else 0.1 if v == 0 else 1e3})
            if other.stochastic == sampler.stochastic:  # eta 0 draws nothing, and is another program
                sample(denoiser, other, GRID, (n, 2), KEY)
    assert programs() == size
    if adaptive(sampler):
        denoiser = Gaussian(VP())
        whole = sample(denoiser, sampler, GRID, (n, 2), KEY).x
    for chunk, devices in ((48, None), (16, jax.local_devices())):
        x = sample_chunked(denoiser, sampler, GRID, (n, 2), KEY, chunk=chunk, devices=devices).x
        same(x, np.asarray(whole), sampler, "float32")


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", EVERY)
def test_one_network_on_every_path(name, path):
    """From one end of the path to the other (a log-SNR of -10 where it has no signal there), float32: finite."""
    on = paths()[path]
    sampler = CATALOGUE[name].sampler
    grid = UniformLogSNR(6)
    x = sample(small(LinearFlow(), F(0.7)).on(on), sampler, grid, (4, 2), KEY).x
    assert np.isfinite(x).all()


def test_the_variables_name_different_methods():
    """Euler in t, kappa and log-SNR on VP: three samples, of which the one in kappa is DDIM's."""
    denoiser = small(VP(), F(0.7))
    x = {name: np.asarray(sample(denoiser, e.sampler, GRID, (N, 2), KEY).x) for name, e in CATALOGUE.items() if name.startswith("Euler in")}
    ddim = np.asarray(sample(denoiser, CATALOGUE["DDIM"].sampler, GRID, (N, 2), KEY).x)
    np.testing.assert_allclose(x["Euler in kappa"], ddim, rtol=1e-6)
    assert np.abs(x["Euler in t"] - ddim).max() > 1e-3 < np.abs(x["Euler in log-SNR"] - ddim).max()
    assert isinstance(CATALOGUE["Euler in kappa"].sampler.variable, Kappa) and jnp.asarray(ddim).dtype == jnp.float32
