"""The table that ``AnalyticDPM`` reads, measured on the training data of a workdir when a command line gives none.

    python -m experiments.sample --workdir runs/flow --sampler=AnalyticDPM --steps 10
    python -m experiments.ablate_samplers --workdir runs/flow --solvers 'DDIM(eta=1), AnalyticDPM'

It is kept as WORKDIR/gamma/STEP-HASH.json and read from there the next time.  The hash is of what it depends on: the checkpoint and its
average, the data, the levels and how many examples.  Gamma is a function of log-SNR, so one table serves every path; it is that of the
network with its labels, without guidance.  Of an exact denoiser it is measured on draws of its law, at the same levels.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from score_lab.samplers import measure_gamma
from score_lab.samplers.analytic_dpm import lacks_table
from score_lab.training import Loaded

__all__ = ["exact_table", "lacks_table", "table_of", "with_table"]

LEVELS, WIDEST = 16, 12.0
"""Levels of the table, evenly spread over the trained log-SNRs within +-WIDEST."""
EXAMPLES, BATCH = 1024, 128


def with_table(spec: Mapping[str, Any], loaded: Loaded, table: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """``spec`` with ``table`` (by default one that is good for checking only); pictures in [-1, 1] have ``half_range`` 1 unless given."""
    bound = {"half_range": 1.0} if len(loaded.spec.shape) == 3 else {}
    return {**bound, **spec, **(table or {"log_snrs": [0.0], "gamma": [0.5]})}


def table_of(loaded: Loaded, workdir: Path, data: Callable[[], tuple]) -> dict[str, list[float]]:
    """``{"log_snrs": [...], "gamma": [...]}`` of the loaded network, read from the workdir, or measured on ``data()``, (x0, label or
    None), and written there."""
    levels = _levels(loaded.denoiser)
    about = {
        "step": loaded.step, "ema": loaded.ema, "data": loaded.spec.fingerprint, "network": _digest(loaded.denoiser.params),
        "log_snrs": levels.tolist(), "examples": EXAMPLES,
    }  # fmt: skip
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    file = workdir / "gamma" / f"{loaded.step}-{name}.json"
    if file.is_file():
        table = json.loads(file.read_text())
    else:
        table = about | {"gamma": _measured(loaded, levels, *data())}
        file.parent.mkdir(exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(table, indent=1))
        part.replace(file)
        print(f"measured Gamma at {LEVELS} levels: {file}", file=sys.stderr)
    return {"log_snrs": table["log_snrs"], "gamma": table["gamma"]}


def exact_table(denoiser: Any, x0: np.ndarray, cond: Mapping[str, np.ndarray] | None = None) -> dict[str, list[float]]:
    """The table of an exact denoiser from draws ``x0`` (n, *shape) of its law, with their labels; E |eps|^2 of a mixture has no closed
    form."""
    levels = _levels(denoiser)
    return {"log_snrs": levels.tolist(), "gamma": measure_gamma(denoiser, x0, levels, jax.random.key(0), cond=cond)[1].tolist()}


def _levels(denoiser: Any) -> np.ndarray:
    """Just inside the log-SNRs that the denoiser's path (of training) has and the network was trained on."""
    noise, data = (float(v) for v in denoiser.path.log_snr(np.array([1.0, 0.0], np.float32)))
    low, high = (float(v) for v in getattr(denoiser, "log_snr_range", (-np.inf, np.inf)))
    low, high = max(low, noise, -WIDEST), min(high, data, WIDEST)
    edge = 1e-3 * (high - low)
    return np.round(np.linspace(low + edge, high - edge, LEVELS), 4)


def _measured(loaded: Loaded, levels: np.ndarray, x0: np.ndarray, label: np.ndarray | None) -> list[float]:
    """The mean over at most EXAMPLES examples, spread evenly, BATCH at a time: each in as many batches as the others."""
    size = min(BATCH, len(x0))
    rows = np.unique(np.linspace(0, len(x0) - 1, min(EXAMPLES, len(x0))).astype(np.int64))
    rows = rows[: len(rows) // size * size].reshape(-1, size)
    classes = getattr(loaded.parts.network, "num_classes", 0)
    key, found = jax.random.key(0), []
    for k, chosen in enumerate(rows):
        index = np.arange(k * size, (k + 1) * size, dtype=np.int32)
        cond = {"label": label[chosen].astype(np.int32)} if classes and label is not None else None
        found.append(measure_gamma(loaded.denoiser, x0[chosen], levels, key, index=index, cond=cond)[1])
    return np.mean(np.asarray(found, np.float64), axis=0).tolist()


def _digest(params: Any) -> str:
    """Of every parameter's bytes: a run begun anew in the same folder is another network."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]
