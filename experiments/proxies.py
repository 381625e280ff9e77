"""Why the usual proxies of the mismatch mislead, in numbers of score_lab's own: what docs/mismatch.md stands on.

    python -m experiments.proxies

Every denoiser here is exact, so nothing that is printed is an error of a network.  Gaussian bands go through the oracle (impulse responses
of the real samplers, float64); the two modes, +-1 with standard deviation 0.1, are quantiles, which Euler's monotone map keeps in order, so
no number is of random draws.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments import overrides
from experiments.launcher import launch
from score_lab.analytic import GaussianMixture
from score_lab.mismatch.bands import BandRecorder
from score_lab.mismatch.corrections import DCW, EpsilonScaling, calibrate
from score_lab.mismatch.estimators import MixtureLikelihood
from score_lab.mismatch.oracle import variance_ratios
from score_lab.mismatch.readouts import gaussian_window, paired_null
from score_lab.mismatch.record import Recorders
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths import EDM, VP, LinearFlow
from score_lab.samplers import (
    DDIM,
    DDPM,
    AnalyticDPM,
    Euler,
    EulerMaruyama,
    Heun,
    Kappa,
    Karras,
    StateRecorder,
    T,
    Times,
    UniformLogSNR,
    sample,
)

__all__ = ["FACTS", "calibration_slope", "dcw_effects", "endings", "one_angle", "paired_nulls", "two_modes"]

_MODES = Spectrum.white(1.01, (1,))
_SIGMA = 0.15
"""Where the two modes are looked at: far below the distance between them."""


def calibration_slope(s: float, kappas: tuple[float, ...], excess: float = 0.01) -> dict[float, float]:
    """F1.  kappa -> the change of ln kappa that ``excess`` more of E ||eps||^2 is read as, by the curve of forward samples under one label
    (one Gaussian band of standard deviation ``s``, exact denoiser, VE): excess / (2 sin^2 phi)."""
    path, found = EDM(), {}
    with jax.enable_x64(True):
        for kappa in kappas:
            step = 1e-3
            at = np.exp(np.log(kappa) + np.array([-step, step]))
            times = np.asarray(path.time_of(jnp.asarray(-2 * np.log(np.append(at, kappa)))), np.float64)
            low, high = np.log(gaussian_window(Spectrum.white(s**2, (1,)), path, float(times[2]), times[:2]))
            found[kappa] = float(excess / ((high - low) / (2 * step)))
    return found


def paired_nulls(s: float) -> dict[str, float]:
    """F2.  What two paired read-outs show for an exact reverse sampler of N(0, s^2) on VP: ``delta`` at t = 0.001 (papers expect 0), and
    ``gain``, the share of a datum's signal that one exact reverse step from kappa 1.2 to 0.3 keeps, rho^2 (papers expect 1)."""
    delta = paired_null(Spectrum.white(s**2, (1,)), VP(), np.array([0.001]))
    return {"delta": float(delta[0]), "gain": (s**2 + 0.3**2) / (s**2 + 1.2**2)}


def endings(s: float = 0.5, steps: int = 10) -> dict[str, float]:
    """F3.  Sampler -> R of the last states of one Gaussian band (VP, uniform log-SNR from -6 to 5), started from the exact law."""
    levels = np.linspace(-8.0, 8.0, 400)
    exact = AnalyticDPM(jnp.asarray(levels), jnp.asarray(1 / (1 + s**2 * np.exp(levels))))
    samplers = {
        "DDIM": DDIM(), "DDPM, beta-tilde": DDPM(), "DDPM, beta": DDPM("beta"), "Heun in kappa": Heun(Kappa()),
        "Euler-Maruyama": EulerMaruyama(increment="exact"), "Analytic-DPM": exact,
    }  # fmt: skip
    grid, band = UniformLogSNR(steps, -6.0, 5.0, to_data=False), Spectrum.white(s**2, (1,))
    return {name: float(np.exp(variance_ratios(k, grid, VP(), band)[-1, 0])) for name, k in samplers.items()}


def two_modes(steps: int, scaled: bool = False) -> tuple[float, float, float]:
    """F3, F4.  (R, E ||eps||^2 over that of forward states, sigma_eff / sigma by maximum likelihood) of Euler in sigma with ``steps`` nodes
    (Karras, 20 to 0.02) at the node nearest sigma = 0.15; ``scaled``: with the epsilon scaling that makes R = 1 on Gaussian data of this
    variance."""
    from scipy.stats import norm

    with jax.enable_x64(True):
        path = EDM(20.0)
        law = GaussianMixture(path, np.array([0.5, 0.5]), np.array([[-1.0], [1.0]]), np.array([0.01, 0.01]))
        z = norm.ppf((np.arange(200_001) + 0.5) / 200_001)[::20, None]
        grid = Karras(steps, sigma_min=0.02, sigma_max=20.0)
        denoiser = law
        if scaled:
            denoiser = EpsilonScaling(law, constants=calibrate(EpsilonScaling, _MODES, path, Euler(Kappa()), grid).constants(_MODES))
        bands, likelihood = BandRecorder.of(_MODES, jax.random.key(0), 20), MixtureLikelihood(law, points=41, window=3.0, tol=10.0)
        parts = (bands, likelihood.recorder(jax.random.key(0), 20), StateRecorder(rows=len(z)))
        run = sample(denoiser, Euler(Kappa()), grid, x_T=jnp.asarray(z * np.sqrt(20.0**2 + 1.01)), recorder=Recorders(parts))
        record, density = (part.collect(r) for part, r in zip(parts[:2], run.record, strict=False))
        sigma = np.exp(-0.5 * record.log_snr)
        j = int(np.argmin(np.abs(np.log(sigma / _SIGMA))))
        width = np.sqrt(0.01 + sigma[j] ** 2)
        forward = jnp.asarray(np.concatenate([z * width - 1, z * width + 1]))
        states = jnp.asarray(run.record[2].in_order().x_t[j])
        own, null = (float(jnp.mean(jnp.square(law(x, jnp.asarray(record.t[j])).eps))) for x in (states, forward))  # as the network says it
        found = likelihood.read(density, None, path)
    return (
        float(record.means("state")[j, 0, 0] / (1.01 + sigma[j] ** 2)), float(own / null), float(np.exp(-0.5 * found.delta.value[j])),
    )  # fmt: skip


def dcw_effects(size: float = 0.01, s: float = 1.0) -> dict[str, dict[float, float]]:
    """F5.  Form -> t -> the change of ln R by DCW of ``size`` in one Euler step of a linear flow from t to 0.95 t, one band."""
    band, path, found = Spectrum.white(s**2, (1,)), LinearFlow(), {}
    for form in ("literal", "covariant"):
        made = DCW(Euler(T()), size, form=form, anywhere=True)
        found[form] = {}
        for t in (0.25, 0.75):
            grid = Times((t, 0.95 * t))
            with_it, without = (variance_ratios(k, grid, path, band)[-1, 0] for k in (made, Euler(T())))
            found[form][t] = float(with_it - without)
    return found


def one_angle() -> float:
    """F6.  The largest difference of R between DDIM on VP, Euler in sigma on EDM, Euler in t on the linear flow, and the product of
    cos^2(phi - phi'): four bands, the same nine levels."""
    band = Spectrum(np.array([0.01, 0.25, 1.0, 9.0]), np.arange(4), np.zeros(4))
    grid = UniformLogSNR(8, -7.0, 6.0, to_data=False)
    cases = ((DDIM(), VP()), (Euler(Kappa()), EDM()), (Euler(T()), LinearFlow()))
    ratios = [np.exp(variance_ratios(k, grid, p, band)) for k, p in cases]
    kappa = np.exp(-0.5 * np.linspace(-7.0, 6.0, 9))[:, None]
    phi = np.arctan(kappa / np.sqrt(band.variance))
    law = np.append(np.ones((1, 4)), np.cumprod(np.cos(np.diff(phi, axis=0)) ** 2, axis=0), axis=0)
    return float(max(np.abs(r - law).max() for r in ratios))


def _f1() -> Iterator[str]:
    for kappa, change in calibration_slope(0.5, (5.0, 0.5, 0.05)).items():
        yield f"1 % more of E||eps||^2 at kappa = {kappa:g} is read as {change:.3f} in ln kappa"


def _f2() -> Iterator[str]:
    for s in (0.5, 0.61):
        found = paired_nulls(s)
        yield f"a perfect sampler, s = {s:g}: delta_t at t = 0.001 is {found['delta']:.3f}, paired gain {found['gain']:.3f}"


def _f3() -> Iterator[str]:
    yield "R of the last states, one Gaussian band, 10 steps: " + ", ".join(f"{name} {R:.3f}" for name, R in endings().items())
    for steps in (11, 21, 41, 81):
        yield "two modes, Euler, {} nodes: R = {:.3f}, E||eps||^2 ratio {:.3f}, sigma_eff / sigma {:.3f}".format(steps, *two_modes(steps))


def _f4() -> Iterator[str]:
    for scaled in (False, True):
        which = "with epsilon scaling" if scaled else "uncorrected"
        yield "two modes, 11 nodes, {}: R = {:.3f}, E||eps||^2 ratio {:.3f}, sigma_eff / sigma {:.3f}".format(which, *two_modes(11, scaled))


def _f5() -> Iterator[str]:
    for form, found in dcw_effects().items():
        yield f"DCW of 0.01, {form}, linear flow: " + ", ".join(f"ln R {change:+.4f} at t = {t:g}" for t, change in found.items())


def _f6() -> Iterator[str]:
    yield f"three samplers on three paths and prod cos^2(phi - phi'): apart by less than {max(one_angle(), 1e-12):.0e}"


FACTS: dict[str, Callable[[], Iterator[str]]] = {"F1": _f1, "F2": _f2, "F3": _f3, "F4": _f4, "F5": _f5, "F6": _f6}
"""Name -> its lines."""


def main() -> None:
    """Prints every fact's lines; there is nothing to choose."""
    overrides.Parser("proxies", __doc__).parse_args(sys.argv[1:])
    for name, lines in FACTS.items():
        for line in lines():
            print(f"{name}  {line}", flush=True)


if __name__ == "__main__":
    launch(main)
