"""What a recorded run and its null say: measures M1 to M6, effective levels, read-outs and layers, each beside forward samples.

    excess = run - null, intervals over trajectories for all calls (and bands) at once: what is real of a mismatch excludes 0

Everything is computed from the sums of a record; nothing here evaluates a network but the sliding window (P3), once per system.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from score_lab.build import ConfigError, refuse
from score_lab.mismatch.bands import BandRecord
from score_lab.mismatch.estimators import Effective
from score_lab.mismatch.inversion import on_host
from score_lab.mismatch.layers import Layers, layers
from score_lab.mismatch.measures import denoiser_gap, log_ratio, mean_gain, mean_leak, variances
from score_lab.mismatch.on_curve import Divergence, Share, divergence, share
from score_lab.mismatch.readouts import (
    ReadOut,
    eps_norm,
    eps_square,
    gaussian_window,
    pixel_variance,
    posterior_mean,
    sliding_window,
    subband_energies,
    x0_square,
)
from score_lab.mismatch.replicates import Curve, curve
from score_lab.mismatch.spectrum import Spectrum
from score_lab.mismatch.study.named import Setting
from score_lab.mismatch.study.recording import Recorded, Recording, Subject
from score_lab.paths.base import GaussianPath

__all__ = ["Measured", "Pair", "beyond", "measured", "window_labels"]

LABELS = (-2.0, 2.0)
"""The log-SNRs of the labels of the sliding window: one noisy, one clean."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """A curve of the ``run``, the same of forward samples (``null``), and ``excess``, the difference."""

    run: Curve
    null: Curve
    excess: Curve


@dataclasses.dataclass(frozen=True)
class Measured:
    """One run.

    ``log_snr`` (K,) nominal of the calls, ``inner`` (K,) the call is a step's trial state (its level comes again); ``total`` ln R of all
    bands; ``bands`` the same by band, intervals for all calls and bands at once; ``leak`` |E c|^2 / d; ``gain`` on the data's
    mean; ``gap`` M6; ``effective`` and ``effective_null`` by name; ``kl``, ``kl_null``, ``share`` M5; ``read_outs``, ``extra``
    by name; ``layers`` of the run's states and ``layers_null`` of forward samples, None where fewer than two levels are finite; ``seeds``
    seed -> (K,) ln R of that seed alone; ``slope`` (K,) d ln V / d ln kappa of the total variance: its sign says whether more noise is
    more variance there; ``fed`` the mean log-SNR that the network was told, ``cosine`` the mean cosine of state and predicted noise,
    ``stein`` see ``_stein``.
    """

    subject: Subject
    recorded: Recorded
    spectrum: Spectrum
    log_snr: np.ndarray
    inner: np.ndarray
    total: Pair
    bands: list[Pair]
    leak: Pair
    gain: Pair
    gap: Curve
    effective: dict[str, Effective]
    effective_null: dict[str, Effective]
    kl: Divergence
    kl_null: Divergence
    share: Share
    read_outs: list[ReadOut]
    extra: dict[str, ReadOut]
    layers: Layers | None
    layers_null: Layers | None
    seeds: dict[int, np.ndarray]
    slope: np.ndarray
    fed: Pair
    cosine: Pair
    stein: Pair

    @property
    def record(self) -> BandRecord:
        """Of the run, all seeds."""
        return self.recorded.record

    def level(self, name: str) -> Pair:
        """M3 by the estimator ``name``: effective less told log-SNR of the run, of forward samples, and what the run has beyond them; no
        excess where either has no number."""
        return beyond(self.effective[name].delta, self.effective_null[name].delta)

    def gains(self, name: str) -> dict[str, Pair]:
        """M4 by the estimator ``name``: signal and noise gain, where it tells them apart."""
        run, null = self.effective[name], self.effective_null[name]
        both = {"signal gain": (run.signal_gain, null.signal_gain), "noise gain": (run.noise_gain, null.noise_gain)}
        return {word: beyond(a, b) for word, (a, b) in both.items() if a is not None and b is not None}

    @property
    def last(self) -> int:
        """The last call that is no trial state: the least noise at which the network was asked."""
        return int(np.flatnonzero(~self.inner)[-1])


def measured(
    recording: Recording, subject: Subject, read_outs: Sequence[str] = (), measures: Mapping[str, Callable] | None = None
) -> Measured:  # fmt: skip
    """Records (or finds) the run and its null and reads them; ``read_outs`` by name, ``measures`` name -> f(record, spectrum, path)."""
    done, spectrum, path = recording.recorded(subject), recording.spectrum, subject.denoiser.path
    record, null = done.record, done.null
    setting = recording.setting(subject, np.unique(record.t)[::-1])
    level = on_host(path, record.t)[2]
    ratio = lambda r: log_ratio(r, spectrum, path)  # noqa: E731
    kl, kl_null = divergence(record, spectrum, path), divergence(null, spectrum, path)
    found = [_effective(done, i, e, spectrum, path) for i, e in enumerate(done.estimators)]
    names = [e.name for e, _ in found]
    unique = [n if names.count(n) == 1 else f"{n} ({i + 1})" for i, n in enumerate(names)]
    return Measured(
        subject, done, spectrum, level, np.append(level[:-1] == level[1:], False),
        beyond(ratio(record), ratio(null)), _bands(record, null, spectrum, path),
        beyond(mean_leak(record, spectrum), mean_leak(null, spectrum)),
        beyond(mean_gain(record, spectrum, path), mean_gain(null, spectrum, path)), _gap(record, null),
        {n: e for n, (e, _) in zip(unique, found, strict=True)}, {n: e for n, (_, e) in zip(unique, found, strict=True)},
        kl, kl_null, share(kl, kl_null), _read_outs(read_outs, setting, done, path),
        {name: _extra(name, f, record, null, spectrum, path) for name, f in (measures or {}).items()},
        _layers(record, spectrum, path), _layers(null, spectrum, path),
        {seed: ratio(r).value for seed, r in zip(recording.seeds, done.seeds, strict=True)}, _slope(spectrum, path, record.t),
        *(beyond(f(record), f(null)) for f in (_fed, lambda r: curve(r.means("cosine")), lambda r: _stein(r, spectrum, path))),
    )  # fmt: skip


def beyond(run: Curve, null: Curve, **options) -> Pair:
    """``run``, ``null`` and their difference.  Their trajectories are independent, so that pairing replicates adds their variances; what is
    common to a replicate of both, the spectrum's own uncertainty, cancels.  Flagged where either is, the run's flag first."""
    flag = np.where(run.flag != "ok", run.flag, null.flag)
    r = min(run.draws.shape[1], null.draws.shape[1])
    draws = np.concatenate([(run.value - null.value)[:, None], run.draws[:, :r] - null.draws[:, :r]], axis=1)
    return Pair(run, null, curve(draws, flag=flag, **options))


def _bands(record: BandRecord, null: BandRecord, spectrum: Spectrum, path: GaussianPath) -> list[Pair]:
    """ln R_b: one curve over calls x bands, so that an interval holds for all of them, cut into bands."""
    V = spectrum.V(path, record.t)

    def whole(r: BandRecord) -> Curve:
        with np.errstate(divide="ignore", invalid="ignore"):
            draws = np.log(variances(r, spectrum) / V[:, None, :])
        flag = np.where(V > 0, "ok", "no variance").astype(object)
        return curve(np.moveaxis(draws, 1, 2).reshape(-1, draws.shape[1]), flag=flag.reshape(-1))

    pair = beyond(whole(record), whole(null))
    B = V.shape[1]
    cut = lambda c, b: Curve(*(getattr(c, n)[b::B] for n in ("value", "se", "low", "high", "flag", "draws")), c.simultaneous)  # noqa: E731
    return [Pair(*(cut(c, b) for c in (pair.run, pair.null, pair.excess))) for b in range(B)]


def _fed(record: BandRecord) -> Curve:
    """The log-SNR that was told, mean over trajectories; "unidentifiable" where it is infinite."""
    told = record.means("fed")
    flag = np.where(np.isfinite(told).all(axis=1), "ok", "unidentifiable").astype(object)
    return curve(np.where(np.isfinite(told), told, np.nan), flag=flag)


def _stein(record: BandRecord, spectrum: Spectrum, path: GaussianPath) -> Curve:
    """``E <eps, x - alpha mu> / (d sigma)``: 1 for an exact denoiser on forward states of any data (Stein: E <x - m, score> = -d); for
    Gaussian bands ``sum_b n_b R_b / d``, the variance ratio as the network sees it, without the spectrum.  "no noise" where sigma is 0."""
    sigma = on_host(path, record.t)[1]
    found = record.means("cross").sum(axis=2) / (spectrum.d * np.where(sigma > 0, sigma, np.nan))[:, None]
    return curve(found, flag=np.where(sigma > 0, "ok", "no noise").astype(object))


def _gap(record: BandRecord, null: BandRecord) -> Curve:
    with np.errstate(divide="ignore", invalid="ignore"):
        return denoiser_gap(record, null)


def _effective(done: Recorded, i: int, estimator: Any, spectrum: Spectrum, path: GaussianPath) -> tuple[Effective, Effective]:
    record, null = (done.sums[i], done.null_sums[i]) if i in done.sums else (done.record, done.null)
    found = []
    for one in (record, null):
        read = estimator.read(one, spectrum, path)
        if not isinstance(read, Effective) or read.delta.value.shape != done.record.t.shape:
            refuse(f"estimators: {type(estimator).__name__}.read", type(read).__name__, "an Effective with a number for every call")
        found.append(read)
    return found[0], found[1]


def _read_outs(names: Sequence[str], setting: Setting, done: Recorded, path: GaussianPath) -> list[ReadOut]:
    """In the order asked for, at the same float64 levels as every other curve of the run."""
    record, null, found = done.record, done.null, []
    level = on_host(path, record.t)[2]
    for name in names:
        if name == "P1":
            found.append(eps_norm(record, null))
        elif name == "P3":
            found += _windows(setting, path)
        elif name == "P4":
            found += [eps_square(record, null), x0_square(record, null, setting.spectrum)]
        elif name == "P5":
            found += subband_energies(record, null)
        elif name == "P6":
            found.append(pixel_variance(record, null, path))
        elif name == "P7":
            probes = [i for i, e in enumerate(done.estimators) if i in done.sums and hasattr(e, "posterior")]
            found += [posterior_mean(done.estimators[i], done.sums[i], done.null_sums[i]) for i in probes]
    return [r if r.name == "P3" else dataclasses.replace(r, log_snr=level) for r in found]


def window_labels(log_snr: np.ndarray) -> list[float]:
    """The labels of the sliding window: those of ``LABELS`` among the finite levels (K,), the middle level where neither is, none where no
    level is finite."""
    fine = log_snr[np.isfinite(log_snr)]
    among = [wanted for wanted in LABELS if len(fine) and fine.min() <= wanted <= fine.max()]
    return among or [float(v) for v in np.sort(fine)[len(fine) // 2 : len(fine) // 2 + 1]]


def _windows(setting: Setting, path: GaussianPath, n: int = 512) -> list[ReadOut]:
    """P3 of the levels of this run under the labels of ``window_labels``; kept."""
    level, x = on_host(path, setting.t)[2], setting.x0[:n]
    labels = window_labels(level)
    with jax.enable_x64(True):
        times = np.asarray(path.time_of(jax.numpy.asarray(np.array(labels, np.float64))), np.float64)
    cond, found = jax.tree.map(lambda v: v[:n], setting.cond), []
    for wanted, label in zip(labels, times.tolist(), strict=True):

        def made(label=label) -> dict[str, np.ndarray]:
            r = sliding_window(setting.denoiser, x, label, setting.t, setting.key, cond=cond, replicates=setting.replicates)
            return {name: np.concatenate([c.value[:, None], c.draws], axis=1) for name, c in (("value", r.value), ("null", r.null))}

        kept = setting.kept({"window": label, "t": setting.t.tolist(), "n": len(x)}, made)
        what = f"squared norm of the predicted noise under the label of log-SNR {wanted:g}"
        curves = [curve(d) for d in (kept["value"], kept["null"], kept["value"] - kept["null"])]
        gaussian = gaussian_window(setting.spectrum, path, label, setting.t)
        found.append(ReadOut("P3", what, *curves, log_snr=level, t=setting.t, label=label, gaussian=gaussian))
    return found


def _extra(name: str, f: Callable, record: BandRecord, null: BandRecord, spectrum: Spectrum, path: GaussianPath) -> ReadOut:
    """A measure from anywhere, of the run and of forward samples; ConfigError unless it gives a ``Curve`` over the calls."""
    curves = []
    for one in (record, null):
        try:
            made = f(one, spectrum, path)
        except Exception as error:  # noqa: BLE001 - whatever another's code raises is told with its name
            raise ConfigError(f"measures: {name} raised {type(error).__name__}: {' '.join(str(error).split())}") from error
        if not isinstance(made, Curve) or made.value.shape != record.t.shape:
            allowed = f"a Curve over the {len(record.t)} calls (score_lab.mismatch.replicates.curve)"
            refuse(f"measures: {name}", type(made).__name__, allowed)
        curves.append(made)
    pair = beyond(*curves)
    words = (f.__doc__ or name).strip().split("\n")[0].rstrip(".")
    return ReadOut(name, words, pair.run, pair.null, pair.excess, log_snr=on_host(path, record.t)[2])


def _layers(record: BandRecord, spectrum: Spectrum, path: GaussianPath) -> Layers | None:
    level = record.log_snr[np.isfinite(record.log_snr)]
    return layers(record, spectrum, path) if len(np.unique(level)) > 1 else None


def _slope(spectrum: Spectrum, path: GaussianPath, t: np.ndarray) -> np.ndarray:
    """``d ln V / d ln kappa`` of the total variance at the times (K,), from a difference of 0.02 in log-SNR; 0 where it is infinite."""
    level = on_host(path, t)[2]
    fine, ends = np.isfinite(level), on_host(path, np.array([1.0, 0.0]))[2]
    at = np.clip(np.where(fine, level, 0.0), max(ends[0], -30.0) + 0.01, min(ends[1], 30.0) - 0.01)
    with jax.enable_x64(True):
        times = [np.asarray(path.time_of(jax.numpy.asarray(at + step)), np.float64) for step in (-0.01, 0.01)]
    low, high = (np.log(spectrum.V(path, time) @ spectrum.count) for time in times)
    return np.where(fine, -2.0 * (high - low) / 0.02, 0.0)
