"""What a decomposition leaves behind: a table, pictures, and one page that says first what causes the mismatch.

    table.csv      one row per run, part and band        table.json     the same, with coverage and the sentences
    parts.png      the parts with their intervals        coverage.png   where training looked, and where sampling asks
    report.html    all of it, in words
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score_lab.evaluation import Estimate, Table, strict_json
from score_lab.mismatch import Coverage, Curve, Decomposition
from score_lab.mismatch.cube import PARTS, fitted_order
from score_lab.mismatch.gain_and_noise import LocalError
from score_lab.report.mismatch import save_coverage, save_decomposition
from score_lab.report.mismatch.decomposition import MEANING
from score_lab.report.page import Page

__all__ = ["PREDICTED", "TRUNCATION", "Part", "error_table", "rows_of", "table_of", "words_of", "write"]

PREDICTED = "discretisation of a Gaussian"
"""The row of the surrogate: a Gaussian with the data's spectrum and its exact denoiser, by the oracle."""
KNOWN = 0.02
"""The standard error of a gain that is told in words."""
TRUNCATION = "truncation, on top"
"""The row of what stopping at the last level leaves, where the run does not end at data."""
_COLUMNS = ("run", "nfe", "steps", "part", "band", "value", "low", "high", "flag")
READ_IT = (
    "ln R is the logarithm of the variance of the last states over that of training: 0 is no mismatch, -0.1 a tenth too little. The parts "
    "add up to the whole; the interaction is what causes do together and no one of them alone.",
    "Intervals are of paired differences: the same trajectory has the same noise in every run that is compared. A part whose interval "
    "holds 0 cannot be told from nothing.",
    "Coverage is no part of the sum: it says whether the network was asked where it had been trained.",
)


@dataclasses.dataclass(frozen=True)
class Part:
    """One run taken apart: ``nfe`` counted; ``predicted`` (B + 1,) the surrogate's discretisation, the total last, or None and ``why``;
    ``coverage`` where a training law is known; ``error``: the model's, by level, where an exact denoiser is."""

    name: str
    nfe: float
    found: Decomposition
    predicted: np.ndarray | None = None
    why: str = ""
    coverage: Coverage | None = None
    error: LocalError | None = None

    @property
    def title(self) -> str:
        """For example ``DDIM, 10 NFE``."""
        return f"{self.name}, {self.nfe:g} NFE"


def rows_of(part: Part) -> list[dict[str, Any]]:
    """One flat dict per part and band ("total" the last); the surrogate's have no interval: they are exact."""
    head = {"run": part.name, "nfe": part.nfe, "steps": part.found.N}
    rows = [head | {k: v if isinstance(v, str | int) else float(v) for k, v in row.items()} for row in part.found.rows()]
    for name, values in _exact(part).items():
        bands = [*range(len(values) - 1), "total"]
        for band, value in zip(bands, values.tolist(), strict=True):
            rows.append(head | {"part": name, "band": band, "value": value, "low": value, "high": value, "flag": "exact"})
    return rows


def _exact(part: Part) -> dict[str, np.ndarray]:
    """The rows that are no estimates: what the surrogate loses, and truncation where there is one."""
    left = part.found.truncation
    found = {} if part.predicted is None else {PREDICTED: part.predicted}
    return found | ({TRUNCATION: left} if left is not None and (left != 0).any() else {})


def table_of(parts: Sequence[Part]) -> Table:
    """One row per run and part: ln R in total, and of the coarsest, the middle and the finest band."""
    notes = [
        "ln R of the last states (0: no mismatch, -0.1: a tenth too little variance); the parts add up; 95 % over trajectories",
        "0 inside an interval: that part cannot be told from nothing",
    ]
    table = Table(notes=notes)
    for part in parts:
        d, bands = part.found, len(part.found.whole.value) - 1
        at = {"total": bands} | ({"coarsest band": 0, f"band {bands // 2}": bands // 2, "finest band": bands - 1} if bands > 2 else {})
        head = {"run": part.name, "NFE": f"{part.nfe:g}", "steps": d.N}
        for name, c in ({"whole": d.whole} | {n: d.parts[n] for n in PARTS if not _nothing(d.parts[n])}).items():
            table.add(head | {"part": name}, {column: _estimate(c, b, d.cube.n) for column, b in at.items()})
        for name, values in _exact(part).items():
            table.add(head | {"part": name}, {column: Estimate(*(float(values[b]),) * 3, 0, (), "exact") for column, b in at.items()})
    return table


def error_table(part: Part) -> Table:
    """The model's error against the exact denoiser at every level of the run: gain, and noise as a share of the MMSE."""
    e = part.error
    bands = len(e.gain)
    at = {0: "coarsest", bands // 2: f"band {bands // 2}", bands - 1: "finest"} if bands > 2 else {b: f"band {b}" for b in range(bands)}
    table = Table(notes=["gain: E<D, D*> / E<D*, D*>, 1 is right; noise: what of D does not go with D*, over the MMSE, 0 is right"])
    for k, level in enumerate(e.log_snr):
        found = {f"{what}, {name}": _estimate(c[b], k, 0) for what, c in (("gain", e.gain), ("noise", e.noise)) for b, name in at.items()}
        table.add({"run": part.name, "log-SNR": f"{level:.2f}"}, found)
    return table


def _model_words(e: LocalError) -> str:
    """Of the levels and bands where the gain's standard error is at most KNOWN: elsewhere D* says next to nothing."""
    gains, errors, noises = (np.concatenate(v) for v in ([c.value for c in e.gain], [c.se for c in e.gain], [c.value for c in e.noise]))
    good = np.isfinite(gains) & np.isfinite(noises) & (errors <= KNOWN)
    if not good.any():
        return f"  model: no level of the run tells its gain to {KNOWN:g}"
    gain, noise = (f"{v[good].min():.3g} to {v[good].max():.3g}" for v in (gains, noises))
    where = f"where the gain is known to {KNOWN:g} ({good.sum()} of {len(good)} levels and bands)"
    return f"  model: gain {gain} and independent noise {noise} of the MMSE, {where}"


def _nothing(c: Curve) -> bool:
    return bool((c.value == 0).all() and (c.se == 0).all())


def _estimate(c: Curve, b: int, n: int) -> Estimate:
    if c.flag[b] != "ok":
        return Estimate.missing(n, (), str(c.flag[b]))
    return Estimate(float(c.value[b]), float(c.low[b]), float(c.high[b]), n)


def words_of(part: Part) -> list[str]:
    """What was found, in sentences."""
    d = part.found
    shown = {name: c for name, c in d.parts.items() if not _nothing(c)}
    real = {name: c for name, c in shown.items() if c.flag[-1] == "ok" and not c.low[-1] <= 0 <= c.high[-1]}
    lines = [f"{part.title} ({d.N} steps): ln R = {_said(d.whole)} in total."]
    if real:
        first = max(real, key=lambda name: abs(real[name].value[-1]))
        rest = [f"{name} {_said(c)}" for name, c in real.items() if name != first]
        lines[0] += f" Most of it is {first} ({MEANING[first]}), {_said(real[first])}" + (f"; also {', '.join(rest)}." if rest else ".")
    else:
        lines[0] += f" No part can be told from nothing with {d.cube.n} trajectories."
    blind = [name for name in shown if name not in real]
    if blind and real:
        lines.append(f"  not told from nothing: {', '.join(blind)}")
    if part.predicted is not None:
        low, high = d.parts["discretisation"].low[-1], d.parts["discretisation"].high[-1]
        inside = "inside" if low <= part.predicted[-1] <= high else "outside"
        change = f"{'lose' if part.predicted[-1] < 0 else 'gain'} {abs(part.predicted[-1]):.3g}"
        lines.append(f"  a Gaussian of this spectrum would {change} by discretisation: {inside} the measured interval")
    elif part.why:
        lines.append(f"  no prediction from the spectrum: {part.why}")
    if part.error is not None:
        lines.append(_model_words(part.error))
    if _nothing(d.parts["guidance"]):
        lines.append("  not guided: the parts telescope, there is no interaction")
    if d.truncation is not None and d.truncation[-1] > 0:
        lines.append(f"  truncation: stopping at the last level leaves {d.truncation[-1]:+.3g} on top of it, against the data's variance")
    order = float(fitted_order({k: d.cube["plain", "true", k][-1:, 0] for k in d.cube.steps})[0])
    if np.isfinite(order) and abs(order - d.cube.order) > 0.5:
        lines.append(f"  order measured in the last three runs {order:.1f}, taken {d.cube.order:g}: the limit of many steps is uncertain")
    return [*lines, f"  coverage: {part.coverage.words()}"] if part.coverage is not None else lines


def _said(c: Curve) -> str:
    return f"{c.value[-1]:.3g} [{c.low[-1]:.3g}, {c.high[-1]:.3g}]"


def write(folder: Path, parts: Sequence[Part], notes: Sequence[str], commands: Sequence[str]) -> Path:
    """Everything above into ``folder``; returns the page's file."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for part in parts for row in rows_of(part)]
    with open(folder / "table.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    covered = {part.title: part.coverage for part in parts if part.coverage is not None}
    said = {part.title: words_of(part) for part in parts}
    whole = {"rows": rows, "words": said, "notes": list(notes), "coverage": {name: c.records() for name, c in covered.items()}}
    (folder / "table.json").write_text(strict_json(whole))
    page = Page("What causes the mismatch of a sampler's states?", " ".join(notes))
    page.section("What was found", *(line.strip() for lines in said.values() for line in lines))
    page.section("Every part").table(table_of(parts))
    for part in (p for p in parts if p.error is not None):
        page.section(f"The model's gain and noise at the levels of {part.title}").table(error_table(part))
    page.section("How to read the pictures", *READ_IT)
    file = save_decomposition(folder / "parts.png", {p.title: p.found for p in parts})
    page.picture(file, "The whole and its parts, in total and by band")
    if covered:
        some = next(iter(covered.values()))
        file = save_coverage(folder / "coverage.png", {n: c.log_snr for n, c in covered.items()}, (some.grid, some.density))
        page.picture(file, "Training density of log-SNR, and the levels at which sampling asks the network")
    return page.commands(commands).write(folder / "report.html")
