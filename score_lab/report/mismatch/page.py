"""What a study of the mismatch leaves behind: a table, every call's numbers, pictures, and one page that says first what was found.

    table.csv      one row per run
    calls.csv      one row per run, call and quantity, of the run, of forward samples, and the difference
    table.json     the table, the findings, and the calls
    *.png          pictures        report.html   all of it, in words
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score_lab.evaluation import Estimate, Table, strict_json
from score_lab.mismatch import Curve
from score_lab.mismatch.study import Measured
from score_lab.mismatch.study.conclusions import cannot, compared, several_models
from score_lab.mismatch.study.measuring import beyond
from score_lab.mismatch.study.words import READ_IT, disagreements, findings
from score_lab.report.mismatch import save_as_drawn, save_effective, save_layers, save_log_ratios, save_read_outs
from score_lab.report.mismatch.as_drawn import AS_DRAWN
from score_lab.report.mismatch.found import save_found
from score_lab.report.page import Page

__all__ = ["calls_of", "siblings", "table_of", "write"]

CALLS = ("run", "call", "t", "log_snr", "n", "quantity", "value", "low", "high", "flag", "null", "excess", "excess_low", "excess_high")
"""The columns of calls.csv."""
AT_ONCE = 8
"""Runs in one picture."""
SIBLINGS = {"decomposition": "What causes it: prior, steps, model, guidance", "corrections": "What corrections change, and quality"}
"""Folders of a workdir that hold a report of the same mismatch, and what it says."""


def table_of(runs: Sequence[Measured]) -> Table:
    """One row per run; levels in nats of log-SNR, effective less told (below 0: noisier than told)."""
    estimators = list(dict.fromkeys(name for m in runs for name in m.effective))
    table = Table(notes=_legend(estimators))
    for m in runs:
        n, real = m.record.n, m.total.excess
        apart = (real.flag == "ok") & ((real.low > 0) | (real.high < 0))
        name = {**m.subject.axes, "n": n, "not finite": len(m.recorded.invalid), "real": f"{int(apart.sum())}/{len(apart)}"}
        invalid = tuple(i for _, i in m.recorded.invalid)
        measures = {"R last": _at(m, m.total.run, m.last, np.exp, invalid), "eps2": _furthest(m, m.gap, np.exp, invalid)}
        for column in estimators:
            if column in m.effective:
                measures |= _level(m, column, invalid)
        measures["on curve"] = Estimate(m.share.value, m.share.low, m.share.high, n, invalid, m.share.words)
        for column, read in m.extra.items():
            measures[column] = _furthest(m, read.value, lambda v: v, invalid)
        table.add(name | {"disagree": "yes" if disagreements(m) else "-"}, measures)
    return table


def _legend(estimators: Sequence[str]) -> list[str]:
    return [
        "R last: variance of the states over that of training at the last call (1: no mismatch); real: calls at which the interval of R "
        "excludes what forward samples read; eps2: energy of the predicted noise over that of forward samples, where it is furthest from 1",
        f"{', '.join(estimators) or 'estimators'}: effective less nominal log-SNR in nats where it is furthest from that of forward "
        "samples (below 0: noisier than told; nan: no level can be told at any call), their own beside it (null), and the difference "
        "(excess); on curve: share of the mismatch that is a wrong level, which re-timing could repair",
        "disagree: two estimators of the same states say opposite things; intervals are over trajectories, for all calls at once",
    ]  # fmt: skip


def _at(m: Measured, c: Curve, k: int, scale: Any, invalid: tuple[int, ...]) -> Estimate:
    if c.flag[k] != "ok":
        return Estimate.missing(m.record.n, invalid, str(c.flag[k]))
    where = f"at log-SNR {m.log_snr[k]:.3g}"
    return Estimate(*(float(scale(v[k])) for v in (c.value, c.low, c.high)), m.record.n, invalid, where)


def _level(m: Measured, name: str, invalid: tuple[int, ...]) -> dict[str, Estimate]:
    """M3 of the run, of forward samples, and the difference, at the call at which the difference is furthest from 0; of the run alone,
    where it is furthest, if no call has a difference."""
    pair, same = m.level(name), lambda v: v
    ok = (pair.excess.flag == "ok") & np.isfinite(pair.excess.value)
    if not ok.any():
        missing = _furthest(m, pair.excess, same, invalid)
        return {name: _furthest(m, pair.run, same, invalid), f"{name}, null": missing, f"{name}, excess": missing}
    k = int(np.argmax(np.where(ok, np.abs(pair.excess.value), -1.0)))
    parts = {name: pair.run, f"{name}, null": pair.null, f"{name}, excess": pair.excess}
    return {column: _at(m, c, k, same, invalid) for column, c in parts.items()}


def _furthest(m: Measured, c: Curve, scale: Any, invalid: tuple[int, ...]) -> Estimate:
    ok = (c.flag == "ok") & np.isfinite(c.value)
    if not ok.any():
        return Estimate.missing(m.record.n, invalid, "; ".join(dict.fromkeys(map(str, c.flag))))
    return _at(m, c, int(np.argmax(np.where(ok, np.abs(c.value), -1.0))), scale, invalid)


def calls_of(m: Measured) -> Iterator[dict[str, Any]]:
    """One flat dict per call and quantity: ``value``, ``low``, ``high``, ``flag`` of the run, ``null`` of forward samples, and the excess
    with its interval where there is one."""
    none = Curve(*(np.full(len(m.log_snr), np.nan) for _ in range(4)), np.full(len(m.log_snr), "-", object), np.zeros((len(m.log_snr), 0)))
    quantities = {"ln R": (m.total.run, m.total.null, m.total.excess)}
    quantities |= {f"ln R band {b}": (p.run, p.null, p.excess) for b, p in enumerate(m.bands)} if len(m.bands) > 1 else {}
    quantities |= {"mean leak": (m.leak.run, m.leak.null, m.leak.excess)}
    quantities |= {"mean gain": (m.gain.run, m.gain.null, m.gain.excess), "ln eps2 gap": (m.gap, none, m.gap)}
    told = {"log-SNR told": m.fed, "cosine of eps and state": m.cosine, "eps times state, over d sigma": m.stein}
    quantities |= {name: (p.run, p.null, p.excess) for name, p in told.items()}
    pairs = {f"delta log-SNR, {n}": m.level(n) for n in m.effective}
    pairs |= {f"{word}, {n}": p for n in m.effective for word, p in m.gains(n).items()}
    pairs |= {"KL nominal": beyond(m.kl.nominal, m.kl_null.nominal), "KL off the curve": beyond(m.kl.off, m.kl_null.off)}
    quantities |= {name: (p.run, p.null, p.excess) for name, p in pairs.items()}
    quantities |= {name: (r.value, r.null, r.excess) for name, r in m.extra.items()}
    quantities |= {f"{r.name}: {r.what}": (r.value, r.null, r.excess) for r in m.read_outs if r.name != "P3"}
    for k in range(len(m.log_snr)):
        head = {"run": m.subject.name, "call": k, "t": float(m.record.t[k]), "log_snr": float(m.log_snr[k]), "n": m.record.n}
        for name, (run, null, excess) in quantities.items():
            own = {"value": run.value[k], "low": run.low[k], "high": run.high[k], "flag": str(run.flag[k]), "null": null.value[k]}
            own |= {"excess": excess.value[k], "excess_low": excess.low[k], "excess_high": excess.high[k]}
            yield head | {"quantity": name} | {n: v if isinstance(v, str) else float(v) for n, v in own.items()}
    level = np.unique(m.record.log_snr)
    for r in m.read_outs:
        if r.name == "P3":  # of forward samples of these levels, not of a call
            for k, value in enumerate(r.value.value):
                own = {"value": float(value), "low": float(r.value.low[k]), "high": float(r.value.high[k]), "flag": str(r.value.flag[k])}
                head = {"run": m.subject.name, "log_snr": float(level[k]), "n": m.record.n, "quantity": f"P3: {r.what}"}
                yield head | own | {"null": float(r.null.value[k])}


def write(
    folder: Path, runs: Sequence[Measured], failed: Sequence[str], notes: Sequence[str], trained: int, commands: Sequence[str],
    homes: Sequence[Path] = (),
) -> Path:  # fmt: skip
    """Everything above into ``folder``; returns the page's file.  It links the other reports of the workdirs ``homes`` that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    table = table_of(runs)
    table.notes = [*table.notes, *notes]
    (folder / "table.csv").write_text(table.csv())
    calls = [row for m in runs for row in calls_of(m)]
    with open(folder / "calls.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, CALLS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(calls)
    said = {m.subject.name: findings(m) for m in runs}
    words = {"found": compared(runs), "cannot be concluded": cannot(runs, trained), "failed": list(failed), "runs": said}
    (folder / "table.json").write_text(strict_json(json.loads(table.json()) | {"findings": words, "calls": calls}))
    page = Page("Do a sampler's states have the noise level that the network is told?", " ".join(notes[:1]))
    page.section("What was found", *compared(runs), *several_models(runs), *(f"Failed: {line}" for line in failed))
    page.section("What cannot be concluded", *cannot(runs, trained))
    if others := siblings(folder, homes):
        page.section("Of the same model").links(others)
    page.section("Every run").table(table)
    page.section("How to read the pictures", *READ_IT)
    for file, caption in pictures(folder, runs):
        page.picture(file, caption)
    for m in runs:
        page.section(m.subject.name, *said[m.subject.name])
    page.commands(commands)
    return page.write(folder / "report.html")


def siblings(folder: Path, homes: Sequence[Path]) -> list[tuple[str, str]]:
    """(words, where) of every report of ``SIBLINGS`` that is in a workdir of ``homes``, as seen from a page in ``folder``."""
    found = []
    for home in homes:
        for name, words in SIBLINGS.items():
            if (file := home / name / "report.html").is_file():
                whose = f", {home.name}" if len(homes) > 1 else ""
                found.append((words + whose, Path(os.path.relpath(file, folder)).as_posix()))
    return found


def pictures(folder: Path, runs: Sequence[Measured]) -> Iterator[tuple[Path, str]]:
    """File and caption of every picture: all runs together, then level by estimator, bands, layers, and papers' read-outs."""
    parts = together(runs)
    whose = [f"{p[0].subject.name} to {p[-1].subject.name}" if len(parts) > 1 else "All runs" for p in parts]
    for i, part in enumerate(parts):
        words = f"{whose[i]}: variance of the states, how far off the level is, and where in the spectrum"
        yield save_found(folder / f"found_{i}.png", part), words
    for i, name in enumerate(dict.fromkeys(name for m in runs for name in m.effective)):
        for j, part in enumerate(parts):
            told = {m.subject.name: (m.log_snr, m.effective[name], m.effective_null[name]) for m in part if name in m.effective}
            if told:
                words = f"{whose[j]}: the level that the states are of, by {name}"
                yield save_effective(folder / f"effective_{i}{_numbered(j)}.png", told), words
    if max(len(m.bands) for m in runs) > 1:
        for j, part in enumerate(parts):
            bands = {m.subject.name: (m.log_snr, *_runs_and_nulls(m)) for m in part}
            words = f"{whose[j]}: ln R of every band over the levels: where in the spectrum, and when"
            yield save_log_ratios(folder / f"log_ratios{_numbered(j)}.png", bands), words
        yield from _layers(folder, runs)
    for j, part in enumerate(parts):
        read = {m.subject.name: [*m.read_outs, *m.extra.values()] for m in part if m.read_outs or m.extra}
        if read:
            words = f"{whose[j]}: what papers plot, beside what a perfect sampler would show"
            yield save_read_outs(folder / f"read_outs{_numbered(j)}.png", read), words
        published = {name: kept for name, found in read.items() if (kept := [r for r in found if r.name in AS_DRAWN])}
        if published:
            words = f"{whose[j]}: the same as the papers draw it, against time"
            yield save_as_drawn(folder / f"as_drawn{_numbered(j)}.png", published), words


def together(runs: Sequence[Measured]) -> list[list[Measured]]:
    """The runs of one picture: as they come, ``AT_ONCE`` at most, and no budget broken in two where it fits."""
    budgets: list[list[Measured]] = []
    seen: set[tuple] = set()
    for m in runs:
        own = tuple((k, v) for k, v in m.subject.axes.items() if k not in ("NFE", "steps"))
        if not budgets or own in seen or len(budgets[-1]) == AT_ONCE:
            budgets.append([])
            seen = set()
        budgets[-1].append(m)
        seen.add(own)
    found: list[list[Measured]] = []
    for part in budgets:
        if found and len(found[-1]) + len(part) <= AT_ONCE:
            found[-1] = [*found[-1], *part]
        else:
            found.append(part)
    return found


def _numbered(i: int) -> str:
    return f"_{i}" if i else ""


def _runs_and_nulls(m: Measured) -> tuple[list[Curve], Curve, list[Curve], Curve]:
    return [p.run for p in m.bands], m.total.run, [p.null for p in m.bands], m.total.null


def _layers(folder: Path, runs: Sequence[Measured]) -> Iterator[tuple[Path, str]]:
    """Of forward samples (what the network resolves), and of the run that has the most calls (what its states do)."""
    with_layers = [m for m in runs if m.layers is not None and m.layers_null is not None]
    if with_layers:
        m = max(with_layers, key=lambda m: len(m.log_snr))
        found = {"forward samples": m.layers_null, m.subject.name: m.layers}
        words = "Coarse to fine: when each band of the spectrum is resolved"
        if m.subject.cond(1) is not None:
            words += "; the network is told labels, and what a label tells is resolved even in pure noise"
        yield save_layers(folder / "layers.png", found), words
