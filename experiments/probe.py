"""The noise-level probe that noise level correction reads, trained on the training data of a workdir when it is first asked for.

    python -m experiments.compare_corrections --workdir runs/digits --corrections 'noise level correction'
    python -m experiments.compare_corrections --config configs/corrections.py --workdir runs/digits --config.probe.steps=3000

It is kept as WORKDIR/probe/HASH.npz (of an exact law: in the output folder) and read from there the next time.  The hash is of what made
it: the examples, the options of ``estimators.train_probe``, its code and the versions of the libraries; no denoiser is in it, so that one
probe serves every path, sampler and guidance.  A probe that fails its calibration is kept too, and refused by name whenever it is read.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.ablation.keys import code_of_modules, versions
from score_lab.evaluation import digest
from score_lab.mismatch.corrections import LevelResidual
from score_lab.mismatch.estimators import Probe, train_probe
from score_lab.paths import VP
from score_lab.specs import key_of

__all__ = ["Kept", "probe_of"]

MEMBERS, LOW, HIGH = 3, -6.0, 6.0
"""Of the ensemble, and the log-SNRs that it is trained on, unless the options say otherwise."""
BATCH, ROUNDS = 256, 20
"""States at once, and rounds of which the median is taken, of the time that a reading costs."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """A trained ``probe``; ``seconds`` that its training, calibration and test took, ``micros`` that one state costs at one call; the
    ``file``."""

    probe: Probe
    seconds: float
    micros: float
    file: Path

    @property
    def note(self) -> str:
        """What it is, whether it passed, and what it costs: one line."""
        p = self.probe
        passed = f"its own contamination test passed at {int(p.passed.sum())} of {len(p.passed)} levels"
        cost = f"in sampling no evaluation of the network, {self.micros:.1f} us a state and call"
        return f"probe of {p.outputs.members} networks, {self.seconds:.0f} s to train; {passed}; {cost}; kept as probe/{self.file.name}"


def probe_of(x0: np.ndarray, folder: Path, options: Mapping[str, Any]) -> Kept:
    """The probe of examples ``x0`` (n, *shape): as ``folder``/probe has it, or trained and written there; ``options`` as of
    ``train_probe``, which raises ConfigError for what does not fit."""
    options = {"members": MEMBERS, "low": LOW, "high": HIGH, **options}
    code = code_of_modules(train_probe.__module__)
    what = {"options": options, "data": digest(np.asarray(x0)), "code": code, "versions": versions()}
    file = Path(folder) / "probe" / f"{key_of(what)[:16]}.npz"
    stored = _stored(file)
    if stored is None:
        steps = f", {options['steps']} steps" if "steps" in options else ""
        told = f"training a noise-level probe of {options['members']} networks on {len(x0)} examples{steps}: {file}"
        print(told, file=sys.stderr, flush=True)
        begun = time.perf_counter()
        probe = train_probe(x0, jax.random.key(0), **options)
        stored = probe.arrays() | {"seconds": np.asarray(time.perf_counter() - begun), "micros": np.asarray(_micros(probe, x0))}
        _write(file, stored)
    probe = Probe.of_arrays(stored, x0.shape[1:], options["members"], options["low"], options["high"])
    return Kept(probe, float(stored["seconds"]), float(stored["micros"]), file)


def _stored(file: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a file; None where it is not there, or was cut off."""
    try:
        with np.load(file) as found:
            return {name: found[name] for name in found.files}
    except (FileNotFoundError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _write(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Whole, by renaming."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    with open(part, "wb") as opened:
        np.savez(opened, **arrays)
    part.replace(file)


def _micros(probe: Probe, x0: np.ndarray) -> float:
    """Microseconds of one reading of one state: the median over calls of BATCH states at once, compiled before."""
    residual, x, t = LevelResidual.of(probe, VP()), jnp.asarray(np.resize(x0, (BATCH, *x0.shape[1:])), jnp.float32), jnp.asarray(0.5)
    read = jax.jit(lambda r, x, t: r(x, t)).lower(residual, x, t).compile()
    spent = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        read(residual, x, t).block_until_ready()
        spent.append(time.perf_counter() - begun)
    return 1e6 * float(np.median(spent)) / BATCH
