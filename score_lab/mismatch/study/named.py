"""Estimators, papers' read-outs and measures by name, for a command line; what each needs before it can read.

    estimators   a frozen dataclass with read(record, spectrum, path) -> Effective, from any package; optional:
                 prepare(setting) -> estimator       what must be measured or trained first (a calibration, a probe)
                 recorder(key, replicates)           sums of its own, kept in the sampling scan (see estimators.streaming)
                 in_scan = True                      of one that prepares itself and then has a recorder: prepared before the run
                 digest                              of what it prepared, where its fields do not decide that: its sums are kept under it
    measures     f(record, spectrum, path) -> Curve, from any package, shown beside its null
    read-outs    P1, P3, P4, P5, P6, P7 (see mismatch.readouts)
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from score_lab.build import ConfigError, build, find, refuse
from score_lab.mismatch.estimators import DenoiserResidual as Residual
from score_lab.mismatch.estimators import MaximumLikelihood, SpectralRegression, TotalVariance, calibrate, train_probe
from score_lab.mismatch.estimators import MixtureLikelihood as Density
from score_lab.mismatch.estimators import Probe as Trained
from score_lab.mismatch.spectrum import Spectrum
from score_lab.types import Array, Cond

__all__ = [
    "DenoiserResidual", "MaximumLikelihood", "MixtureLikelihood", "Probe", "READ_OUTS", "Setting", "SpectralRegression", "TotalVariance",
    "estimator_of", "measure_of", "read_outs_of",
]  # fmt: skip

READ_OUTS = {
    "P1": "norm of the predicted noise", "P3": "sliding window: one label, states of all levels", "P4": "squared norms of predictions",
    "P5": "energy by subband", "P6": "variance over the pixels of an image", "P7": "posterior of a noise-level probe",
}  # fmt: skip
"""What can be made of a run and forward samples alone."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What an estimator may prepare itself with: the ``denoiser`` on the path that is sampled, guided as it is sampled, and ``exact`` the
    unguided one; examples ``x0`` (n, *shape) and their ``cond``; the times ``t`` (K,) of the calls, the data's ``spectrum``, a ``key`` and
    ``replicates`` of the bootstrap; ``kept(what, make)`` remembers arrays by what they are for, a JSON mapping, and ``of_data(what, make)``
    those that no denoiser decides."""

    denoiser: Any
    exact: Any
    x0: np.ndarray
    cond: Cond
    t: np.ndarray
    spectrum: Spectrum
    key: Array
    replicates: int
    kept: Callable[[Mapping[str, Any], Callable[[], dict[str, np.ndarray]]], dict[str, np.ndarray]]
    of_data: Callable[[Mapping[str, Any], Callable[[], dict[str, np.ndarray]]], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class DenoiserResidual:
    """Denoiser-residual calibration on ``n`` examples: ``points`` levels within ``window`` nats around each label (see
    ``estimators.calibrate``); ``family``, ``tol``, ``level`` of the estimator."""

    window: float = 1.5
    points: int = 9
    n: int = 512
    family: str = "path"
    tol: float = 0.1
    level: float = 0.95

    def check(self) -> None:
        """ConfigError for fewer than 7 points or an even number of them, no window, or fewer than 32 examples."""
        if self.points < 7 or self.points % 2 == 0 or not self.window > 0 or self.n < 32:
            refuse("DenoiserResidual.points, window, n", (self.points, self.window, self.n), "an odd number >= 7, > 0, at least 32")

    def prepare(self, setting: Setting) -> Residual:
        """The calibrated estimator: ``len(t) x points x n`` evaluations, remembered."""
        n, t = min(self.n, len(setting.x0)), np.unique(np.asarray(setting.t, np.float64))
        cond = jax.tree.map(lambda v: v[:n], setting.cond)

        def measured() -> dict[str, np.ndarray]:
            found = calibrate(
                setting.denoiser, setting.x0[:n], t, setting.key, cond=cond, window=self.window, points=self.points,
                replicates=setting.replicates, family=self.family,
            )  # fmt: skip
            return {"t": found.t, "offsets": found.offsets, "squares": found.squares}

        what = {"calibration": dataclasses.asdict(self) | {"tol": 0, "level": 0}, "t": t.tolist(), "n": n}
        kept = setting.kept(what, measured)
        return Residual(kept["t"], kept["offsets"], kept["squares"], n, self.family, tol=self.tol, level=self.level)


@dataclasses.dataclass(frozen=True)
class MixtureLikelihood:
    """Exact maximum likelihood, for an exact denoiser that has a ``log_density``; fields as of ``estimators.MixtureLikelihood``."""

    window: float = 4.0
    points: int = 81
    family: str = "path"
    tol: float = 0.1
    level: float = 0.95
    in_scan = True

    def prepare(self, setting: Setting) -> Density:
        """With the unguided exact denoiser; ConfigError where there is no density."""
        if not hasattr(setting.exact, "log_density"):
            name = type(setting.exact).__name__
            refuse("estimators", "MixtureLikelihood", f"MaximumLikelihood (of Gaussian bands): {name} knows no density")
        return Density(setting.exact, self.window, self.points, self.family, tol=self.tol, level=self.level)


@dataclasses.dataclass(frozen=True)
class Probe:
    """A learned noise-level probe, trained on the examples when it is asked for; fields as of ``estimators.train_probe``.

    Its parameters, calibration and tests are kept with the records, for training again need not give the same bits; the records of its sums
    are kept under their ``digest``, so sums are never read with another probe's calibration."""

    low: float = -6.0
    high: float = 6.0
    members: int = 3
    steps: int = 1500
    batch: int = 256
    points: int = 33
    tol: float = 0.1
    level: float = 0.95
    in_scan = True

    def prepare(self, setting: Setting) -> Any:
        """The trained probe, one for each data set: as kept, or trained."""
        fields = dataclasses.asdict(self)

        def trained() -> dict[str, np.ndarray]:
            return train_probe(setting.x0, jax.random.key(0), replicates=setting.replicates, **fields).arrays()

        reading = {"tol": fields.pop("tol"), "level": fields.pop("level")}
        kept = setting.of_data({"probe": fields}, trained)
        return Trained.of_arrays(kept, setting.x0.shape[1:], self.members, self.low, self.high, **reading)


def estimator_of(spec: Mapping[str, Any]) -> Any:
    """The estimator that ``spec`` names, of this module or ``my_package.my_module:Name``; ConfigError unless it reads or prepares."""
    found = build(spec, __name__, "estimators")
    if not (hasattr(found, "read") or hasattr(found, "prepare")):
        refuse("estimators", spec["target"], "what has read(record, spectrum, path), or prepare(setting)")
    return found


def measure_of(name: str) -> tuple[str, Callable]:
    """``(name, f)`` of ``my_package.my_module:f``; ConfigError unless f takes (record, spectrum, path)."""
    found = find(name, None, "measures")
    try:
        inspect.signature(found).bind(None, None, None)
    except TypeError:
        raise ConfigError(f"measures: {name!r} is refused; allowed: a function (record, spectrum, path) -> Curve") from None
    return name.rpartition(":")[2], found


def read_outs_of(names: Sequence[str], estimators: Sequence[Any]) -> tuple[str, ...]:
    """The names, checked: each of ``READ_OUTS`` (P2 and P8 pair a run with data and are functions of ``mismatch.readouts``), P7 with a
    probe."""
    for name in names:
        if name not in READ_OUTS:
            more = "; P2 and P8 pair a run with data: score_lab.mismatch.readouts" if name in ("P2", "P8") else ""
            refuse("read_outs", name, f"{', '.join(READ_OUTS)}{more}", READ_OUTS)
    if "P7" in names and not any(isinstance(e, Probe) for e in estimators):
        refuse("read_outs", "P7", "P7 with --estimators ..., Probe: it is the probe's own posterior")
    return tuple(names)
