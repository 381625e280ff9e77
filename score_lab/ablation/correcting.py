"""The axis of corrections: a name of ``mismatch.corrections.CATALOGUE``, an import path, or several of them one around the other.

    word     none | NAME | module:object | module:Class(field=value) | word + word          first the left one, the right one around it
    object   a callable Setting -> Corrected, or something with such a ``make``

A correction is applied to the parts that a section builds (denoiser on its path with guidance, sampler, grid), so it is counted, keyed,
sampled and measured like any other system.  What its constants come from:

    gaussian    the spectrum of the training data alone
    measured    besides, one uncorrected run with a seed of its own, never that of a scored sample, and one pass of the network over forward
                samples of the training data at the grid's levels
    NUMBER      the constant of every correction that has one; the others as they are
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.ablation.counting import blank_of
from score_lab.ablation.keys import code_of_modules
from score_lab.build import build, find, refuse
from score_lab.mismatch import BandRecorder, Spectrum
from score_lab.mismatch.corrections import CATALOGUE, Corrected, CorrectionEntry, Recondition, Setting
from score_lab.mismatch.estimators import SpectralRegression
from score_lab.mismatch.forward import forward_run
from score_lab.mismatch.study import FEWEST
from score_lab.samplers import sample
from score_lab.specs import key_of, spec_of

__all__ = ["CALIBRATIONS", "NONE", "Parts", "assembled", "check_correction", "correction_section", "plain_section"]

NONE = "none"
BLIND = "noise awareness guidance"
"""What asks the network for its answer without a noise label."""
PROBED = "noise level correction"
"""What reads the level of single states with a probe of the training data."""
CALIBRATIONS = ("gaussian", "measured")
FORWARD, CHUNK, REPLICATES = 1000, 250, 20
"""Forward samples of a measured calibration, the most trajectories in one call of its run, and replicates of its record."""


@dataclasses.dataclass(frozen=True)
class Parts:
    """What is sampled: ``start`` gives x_T where the correction is one of the start; ``digest`` of what was trained for it, "" where
    nothing was."""

    denoiser: Any
    sampler: Any
    grid: Any
    start: Any = None
    digest: str = ""


def makers_of(word: str) -> list[tuple[str, Callable[[Setting], Corrected]]]:
    """The corrections of ``word`` in the order in which they are applied; ConfigError for one that is not known, or is made in training."""
    return [(name, _maker(name)) for name in (part.strip() for part in word.split(" + "))]


def _maker(name: str) -> Callable[[Setting], Corrected]:
    if name in CATALOGUE:
        if CATALOGUE[name].make is None:
            refuse("corrections", name, f"one made in sampling: this is of the {CATALOGUE[name].wraps}, {CATALOGUE[name].lives}")
        return CATALOGUE[name].make
    known = [k for k, entry in CATALOGUE.items() if entry.make is not None]
    if ":" not in name:
        refuse("corrections", name, f"{'; '.join(known)}; or 'my_package.my_module:object'", known)
    spec = spec_of(name, "corrections")
    found = find(spec["target"], None, "corrections")
    found = build(spec, None, "corrections") if isinstance(found, type) or len(spec) > 1 else found
    make = getattr(found, "make", found)
    if not callable(make):
        refuse("corrections", name, "a callable Setting -> Corrected, or an object with make")
    return make


def check_correction(word: Any, calibrate: Any) -> None:
    """ConfigError for words that are no correction, and for a calibration that is neither of the three."""
    if not isinstance(word, str) or not word.strip():
        refuse("corrections", word, "the name of a correction, none, or 'my_package.my_module:object'")
    if word != NONE:
        makers_of(word)
    number = isinstance(calibrate, int | float) and not isinstance(calibrate, bool) and np.isfinite(calibrate)
    if not number and calibrate not in CALIBRATIONS:
        refuse("calibrate", calibrate, "gaussian, measured, or a number", CALIBRATIONS)


def correction_section(word: str, calibrate: Any, seeds: Any, n: int) -> dict[str, Any] | None:
    """What a sampling section says of the correction; the seed of a measured calibration is none of ``seeds``.  ConfigError for a run of
    fewer than ``FEWEST`` trajectories."""
    if word == NONE:
        return None
    homes = [CorrectionEntry.__module__ if name in CATALOGUE else maker.__module__ for name, maker in makers_of(word)]
    made = {"names": word, "calibrate": calibrate, "code": code_of_modules(*homes)}
    if calibrate == "measured" and n < FEWEST:
        refuse("n", n, f"at least {FEWEST} trajectories for calibrate = measured: its run has as many")
    return made | ({"seed": int(max(seeds)) + 1_000_003, "n": int(n)} if calibrate == "measured" else {})


def plain_section(section: Mapping[str, Any]) -> dict[str, Any]:
    """``section`` without its correction."""
    return {name: value for name, value in section.items() if name != "correction"}


def assembled(model: Any, section: Mapping[str, Any], blank: bool = False) -> Parts:
    """The parts of ``section`` around the model's denoiser, corrected; with ``blank`` around a denoiser that costs nothing."""
    asked = section.get("correction")
    if asked is None:
        return Parts(*model.assemble(plain_section(section), blank_of(model.denoiser) if blank else model.denoiser))
    key = key_of(dict(section))
    if key not in model.made:
        model.made[key] = _corrected(model, section, asked)
    made = model.made[key]
    return dataclasses.replace(made, denoiser=_emptied(made.denoiser)) if blank else made


def _emptied(denoiser: Any) -> Any:
    """The wrappers around a blank in place of what is innermost."""
    inner = getattr(denoiser, "denoiser", None)
    return blank_of(denoiser) if inner is None else dataclasses.replace(denoiser, denoiser=_emptied(inner))


def _corrected(model: Any, section: Mapping[str, Any], asked: Mapping[str, Any]) -> Parts:
    if model.spectrum is None:
        refuse("corrections", asked["names"], f"a model whose data's spectrum is known: {model.name} has none")
    parts = Parts(*model.assemble(plain_section(section), model.denoiser))
    number = asked["calibrate"] if asked["calibrate"] not in CALIBRATIONS else None
    applied: list[str] = []
    for name, make in makers_of(asked["names"]):
        told = {"number": number}
        if asked["calibrate"] == "measured":
            told |= _measured_once(model, parts, section, asked, applied)
        if name == PROBED and model.probe is not None:
            kept = model.probe()
            told["probe"], model.said[name] = kept.probe, kept.note
        if name == BLIND and model.blind is False:
            refuse("corrections", name, f"a network trained with NoiseLabelDropout: {model.name} was never without its noise label")
        made = make(Setting(parts.denoiser, parts.sampler, parts.grid, model.spectrum, **told))
        if not isinstance(made, Corrected):
            refuse("corrections", f"{name} gives {type(made).__name__}", "a callable Setting -> Corrected")
        if isinstance(made.sampler, Recondition) and "effective" in told and idle(made.sampler):
            flags = ", ".join(dict.fromkeys(str(flag) for flag in told["effective"].delta.flag))
            refuse("corrections", f"{name}, measured", f"a run whose states tell a level that is another: spectral regression says {flags}")
        start = parts.start if made.start is None else made.start
        trained = told["probe"].digest if "probe" in told else parts.digest
        parts = Parts(made.denoiser, made.sampler, parts.grid if made.grid is None else made.grid, start, trained)
        applied.append(name)
    return parts


def _measured_once(
    model: Any, parts: Parts, section: Mapping[str, Any], asked: Mapping[str, Any], applied: Sequence[str]
) -> dict[str, Any]:
    """``measured`` of ``parts``, those of ``section`` with the corrections ``applied`` so far: one run for all that are made from there."""
    key = key_of({"measured": plain_section(section), "applied": list(applied), "seed": asked["seed"], "n": asked["n"]})
    if key not in model.made:
        model.made[key] = measured(model, parts, asked["seed"], asked["n"])
    return model.made[key]


def measured(model: Any, parts: Parts, seed: int, n: int) -> dict[str, Any]:
    """The fields of a ``Setting`` that one run of ``parts``, all of its ``n`` trajectories, and one pass over forward samples fill."""
    denoiser, sampler = (part.specialise() if hasattr(part, "specialise") else part for part in (parts.denoiser, parts.sampler))
    spectrum: Spectrum = model.spectrum
    steps, path = parts.grid.steps(denoiser.path), denoiser.path
    recorder = BandRecorder.of(spectrum, jax.random.key(seed), REPLICATES)

    @jax.jit
    def draw(denoiser, sampler, steps, recorder, index, cond):
        key = jax.random.key(seed)
        shape, x_T = ((len(index), *model.shape), None) if parts.start is None else (None, parts.start.x_T(path, steps, key, index=index))
        done = sample(denoiser, sampler, steps, shape, key, x_T=x_T, index=index, cond=cond, recorder=recorder)
        return done.x, done.record

    x, records, cond = [], [], model.cond(n)
    for first in range(0, n, CHUNK):
        rows = np.arange(first, min(first + CHUNK, n))
        given = None if cond is None else {name: jnp.asarray(v[rows]) for name, v in cond.items()}
        drawn, record = draw(denoiser, sampler, steps, recorder, jnp.asarray(rows, jnp.int32), given)
        x.append(np.asarray(drawn))
        records.append(jax.tree.map(np.asarray, record))
    record = recorder.collect(recorder.merge(records))
    reading = SpectralRegression().read(record, spectrum, path)
    found = {"record": record, "last": last_ratios(np.concatenate(x), spectrum, path, steps), "effective": reading, "t": record.t}
    if model.forward_data is not None:
        x0, cond = model.forward_data
        t = np.unique(np.concatenate([np.asarray(steps.t), np.asarray(steps.s)]))
        t = np.concatenate([t[:1] + 0.25 * (t[1] - t[0]) if t[0] == 0 else t[:1], t[1:]])
        keep = np.unique(np.linspace(0, len(x0) - 1, min(FORWARD, len(x0))).astype(int))
        given = None if cond is None else {name: jnp.asarray(v[keep]) for name, v in cond.items()}
        seen = forward_run(denoiser, x0[keep], t[::-1], recorder, jax.random.key(seed + 1), cond=given)
        found["forward"] = recorder.collect(seen)
    return found


def idle(correction: Recondition) -> bool:
    """Whether a re-conditioning leaves every step as it is."""
    return bool((np.asarray(correction.gain) == 1).all() and (np.asarray(correction.shift) == 0).all())


def last_ratios(x: np.ndarray, spectrum: Spectrum, path: Any, steps: Any) -> np.ndarray:
    """``ln R_b`` (B,) of samples x (n, *shape) at the grid's last level; NaN for a band without variance."""
    end = np.asarray(steps.s)[-1:]
    alpha = float(path.alpha(jnp.asarray(end[0])))
    c = spectrum.basis.analyse(jnp.asarray(x - alpha * spectrum.mean, jnp.float32))
    v = np.asarray(spectrum.energies(c), np.float64).mean(axis=0) / spectrum.count
    V = spectrum.V(path, end)[0]
    return np.log(np.divide(v, V, out=np.full_like(v, np.nan), where=V > 0))
