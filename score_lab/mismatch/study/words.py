"""What was found of one run, in sentences for someone who has not read the papers (``conclusions``: of all runs together).

A number is called real where its interval, which holds for all calls at once, excludes 0 after that of forward samples is taken off.
"More noise" means a lower log-SNR than the network was told.  Two read-outs of one state that are both real and point opposite ways are
said to disagree: then the states are not those of any one level, and a single effective level hides it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from score_lab.mismatch.estimators import Effective
from score_lab.mismatch.look import Look
from score_lab.mismatch.replicates import Curve
from score_lab.mismatch.study.measuring import Measured

__all__ = [
    "READ_IT", "bands_of", "disagreements", "findings", "looked", "ratio_words", "sign_of", "unreadable", "variance_verdict",
]  # fmt: skip

READ_IT = (
    "R is the variance of the sampler's states over the variance that the path has at the level that the network is told: 1 is what it was "
    "trained on. Below 1 the states have lost variance, above 1 they have too much. The effective log-SNR is the level whose forward "
    "samples the states are most like, by one estimator or another; below the level told means noisier than told.",
    "Grey is the same read-out on as many forward samples of the training data: what a sampler without any mismatch would show.",
)
"""How to read any figure of the mismatch; the same words on every page."""


BLIND = (
    " At {} of {} calls R cannot be turned into an effective log-SNR (the states' variance fits no level of the path, or many alike): "
    "read R itself there, or see what the other estimators of experiments.snr_mismatch say."
)


def ratio_words(ratio: float) -> str:
    """Three digits after the point, or three in all of what has run away: ``0.838``, ``6130``."""
    return f"{ratio:.3f}" if not ratio >= 100 else f"{float(f'{ratio:.3g}'):.0f}" if ratio < 1e6 else f"{ratio:.2g}"


def variance_verdict(name: str, level: float, ratio: float, low: float, high: float, null: float) -> str:
    """One sentence on R at the last call: ``low``, ``high`` its interval with that of forward samples, which read ``null``, taken into
    account (of R / null, times null)."""
    where = f"the last call (log-SNR {level:.3g})" if np.isfinite(level) else "the last call"
    told, ends = ratio_words(ratio), f"[{ratio_words(low)}, {ratio_words(high)}]"
    said = f"{name}: at {where} the states have {told} {ends} of the variance that the network was trained on"
    what = "variance is lost" if high < null else "there is too much variance" if low > null else "which cannot be told from no mismatch"
    return f"{said} (forward samples read {null:.3f}): {what}."


def findings(m: Measured) -> list[str]:
    """Of one run, the most important first."""
    name = m.subject.name
    lines = _broken(m)
    if (m.total.run.flag != "ok").all():
        return [*lines, f"{name}: no call can be read."]
    if m.total.excess.flag[m.last] == "ok":
        lines.append(_verdict(m))
    lines += [_calls(m), *_bands(m), *disagreements(m), *_effective(m), *unreadable(m), _share(m), *_mean(m), *_layers(m), *_seeds(m)]
    return [line for line in [*lines, _precision(m)] if line]


def _broken(m: Measured) -> list[str]:
    bad, n = m.recorded.invalid, m.record.n
    if not bad:
        return []
    several = len(m.seeds) > 1
    names = ", ".join(f"{i} of seed {s}" if several else str(i) for s, i in bad[:10]) + (", ..." if len(bad) > 10 else "")
    calls = int((m.record.invalid > 0).sum())
    return [
        f"{m.subject.name}: {len(bad)} of {n} trajectories are not finite (index {names}); they are not averaged away: {calls} of "
        f"{len(m.log_snr)} calls have no number."
    ]


def _verdict(m: Measured) -> str:
    k, null = m.last, float(np.exp(m.total.null.value[m.last]))
    low, high = (float(np.exp(v[k])) * null for v in (m.total.excess.low, m.total.excess.high))
    return variance_verdict(m.subject.name, float(m.log_snr[k]), float(np.exp(m.total.run.value[k])), low, high, null)


def sign_of(c: Curve) -> np.ndarray:
    """(K,) -1, 0 or 1: the interval is below 0, holds it (or there is none), is above."""
    ok = c.flag == "ok"
    return np.where(ok & (c.high < 0), -1, np.where(ok & (c.low > 0), 1, 0))


def _calls(m: Measured) -> str:
    real, K = sign_of(m.total.excess), len(m.log_snr)
    ok = m.total.excess.flag == "ok"
    if not real.any():
        return f"Total variance: at none of its {K} calls does the interval over trajectories exclude what forward samples read."
    size = np.where(ok, np.abs(m.total.excess.value), -1.0)
    k = int(np.argmax(size))
    return (
        f"Total variance: at {int((real != 0).sum())} of {K} calls the interval over trajectories excludes what forward samples read "
        f"({int((real < 0).sum())} with less, {int((real > 0).sum())} with more); it is furthest at log-SNR {m.log_snr[k]:.3g}, "
        f"R = {ratio_words(float(np.exp(m.total.run.value[k])))}."
    )


def bands_of(rows: Sequence[int]) -> str:
    """``0 to 3, 7`` for 0, 1, 2, 3, 7."""
    parts, rows = [], sorted(rows)
    for row in rows:
        if parts and row == parts[-1][1] + 1:
            parts[-1][1] = row
        else:
            parts.append([row, row])
    return ", ".join(str(a) if a == b else f"{a} to {b}" if b > a + 1 else f"{a}, {b}" for a, b in parts)


def _bands(m: Measured) -> list[str]:
    B, k = len(m.bands), m.last
    if B < 2:
        return []
    real = np.array([sign_of(p.excess)[k] for p in m.bands])
    kinds = [(word, np.flatnonzero(real == s).tolist()) for s, word in ((-1, "lost"), (1, "in excess"))]
    parts = [f"{word} in {bands_of(rows)}" for word, rows in kinds if rows]
    if not parts:
        return [f"By band, at the last call: none of the {B} bands can be told from forward samples."]
    size = np.array([abs(p.excess.value[k]) if p.excess.flag[k] == "ok" else -1.0 for p in m.bands])
    worst = int(np.argmax(size))
    opposite = " The total hides it: bands that lose and bands that gain cancel." if len(parts) == 2 else ""
    return [
        f"By band, at the last call (0 is the coarsest of {B}): variance is {', '.join(parts)}; furthest in band {worst}, "
        f"R = {ratio_words(float(np.exp(m.bands[worst].run.value[k])))}.{opposite}"
    ]


_FLAT = 0.005
"""|d ln V / d ln kappa| below which more noise is neither more nor less variance."""


def _says(m: Measured) -> dict[str, tuple[np.ndarray, list[str]]]:
    """Read-out -> (+1 more noise than told, -1 less, 0 nothing that is real; and its number in words), call by call."""
    found = {}
    for name in m.effective:
        beyond = m.level(name).excess
        real = -sign_of(beyond)
        text = [f"{-d / 2:+.2g} in ln kappa" for d in beyond.value]
        found[name] = (real, text)
    K = len(m.log_snr)
    real, text = found.get("total variance", (np.zeros(K, int), [""] * K))
    plain = sign_of(m.total.excess) * np.where(np.abs(m.slope) > _FLAT, np.sign(m.slope), 0).astype(int)
    silent = real == 0  # it tells no level there: the ratio itself, as people read it
    if "total variance" in m.effective:  # more than any level has: neither more nor less noise
        plain = np.where(m.effective["total variance"].flag == "beyond the path", 0, plain)
    ratios = [f"R = {np.exp(v):.3g}" for v in m.total.run.value]
    found["total variance"] = (np.where(silent, plain, real), [r if s else t for r, t, s in zip(ratios, text, silent, strict=True)])
    found["norm of the predicted noise"] = (sign_of(m.gap), [f"{np.exp(v):.3g} times that of forward samples" for v in m.gap.value])
    return found


def disagreements(m: Measured) -> list[str]:
    """A sentence where two read-outs of the same states disagree in sign: at how many calls, and the plainest of them."""
    says = _says(m)
    signs = np.array([real for real, _ in says.values()])
    more, less = (signs > 0).sum(axis=0), (signs < 0).sum(axis=0)
    at = np.flatnonzero((more > 0) & (less > 0) & ~m.inner)
    if not len(at):
        return []
    k = int(at[np.argmax(np.minimum(more, less)[at] * 100 + (more + less)[at])])

    def group(sign: int) -> str:
        return ", ".join(f"{name} ({text[k]})" for name, (real, text) in says.items() if real[k] == sign)

    return [
        f"Estimators disagree in sign at {len(at)} of {len(m.log_snr)} calls. At log-SNR {m.log_snr[k]:.3g}, less noise than told by "
        f"{group(-1)}; more noise than told by {group(1)}. These states are not those of any one noise level: read the ratios by band, and "
        "take no single number, and no published sign, for the mismatch."
    ]


def _effective(m: Measured) -> list[str]:
    lines = []
    for name, e in m.effective.items():
        pair = m.level(name)
        ok, real, told = e.flag == "ok", sign_of(pair.excess), pair.excess.flag == "ok"
        if not ok.any():
            continue
        line = f"Level by {name}: told at {int(ok.sum())} of {len(ok)} calls"
        if not told.any():
            lines.append(f"{line}, and at none of them of forward samples too: nothing of it can be called real.")
            continue
        rows = np.flatnonzero(told)
        k = int(rows[np.argmax(np.abs(pair.excess.value[rows]))])
        beyond, null = pair.excess, pair.null.value[k]
        side = "noisier" if beyond.value[k] < 0 else "cleaner"
        lines.append(
            f"{line}, {int((real != 0).sum()) or 'none'} of them with an interval that excludes what forward samples read; furthest at "
            f"log-SNR {m.log_snr[k]:.3g}, where the states are {abs(beyond.value[k]):.2g} nats of log-SNR {side} than forward samples "
            f"[{beyond.low[k]:+.2g}, {beyond.high[k]:+.2g}], which read {null:+.2g} off the level told."
        )
    return lines


def unreadable(m: Measured) -> list[str]:
    """For each estimator: at how many calls it tells no level, why, and how many trajectories it would take."""
    return [line for name, e in m.effective.items() if (line := _silent(name, e, m.log_snr))]


def _silent(name: str, e: Effective, level: np.ndarray) -> str:
    parts = []
    for flag in dict.fromkeys(f for f in e.flag if f not in ("ok", "not finite")):
        rows = np.flatnonzero(e.flag == flag)
        where = _range(level[rows])
        if flag != "unidentifiable":
            parts.append(f"{len(rows)} {flag}{where} ({e.words[rows[0]]})")
            continue
        needed = np.full(len(rows), np.inf) if e.needed is None else e.needed[rows]
        more = np.sort(needed[np.isfinite(needed)])
        none = int((~np.isfinite(needed)).sum())
        words = []
        if len(more):
            ends = list(dict.fromkeys(map(_amount, (more[0], more[-1]))))
            amount = " to ".join(ends)
            words.append(f"{amount} trajectories would tell {len(more)} of them")
        if none:
            words.append(f"no number of them would tell {none}")
        parts.append(f"{len(rows)} unidentifiable{where} ({'; '.join(words)})")
    return f"No level by {name} at {int((e.flag != 'ok').sum())} of {len(level)} calls: {'; '.join(parts)}." if parts else ""


def _amount(n: float) -> str:
    """Two digits of a number of trajectories: ``5,400``."""
    return "over a billion" if n > 1e9 else f"{float(f'{n:.2g}'):,.0f}"


def _range(levels: np.ndarray) -> str:
    fine = levels[np.isfinite(levels)]
    if not len(fine):
        return " at infinite log-SNR"
    return f" at log-SNR {fine[0]:.3g}" if len(fine) == 1 else f" between log-SNR {fine.min():.3g} and {fine.max():.3g}"


def _share(m: Measured) -> str:
    s = m.share
    if not np.isfinite(s.value):
        return f"Curve: {s.words}."
    off = 1 - s.value
    return (
        f"Curve: {s.value:.0%} [{s.low:.0%}, {s.high:.0%}] of the mismatch of second moments is a wrong level, which other times or labels "
        f"could repair; the other {off:.0%} is off the forward curve, and no re-timing reaches it."
    )


def _mean(m: Measured) -> list[str]:
    k, gain = m.last, m.gain
    if gain.run.flag[k] != "ok" or gain.excess.flag[k] != "ok":
        return []
    if gain.run.high[k] - gain.run.low[k] > 1:
        return []  # the mean is too small to be told from its error
    real = sign_of(gain.excess)[k]
    what = {-1: "too little of the data's mean", 1: "too much of the data's mean", 0: "the data's mean, within its error"}[int(real)]
    interval = f"[{gain.run.low[k]:.3f}, {gain.run.high[k]:.3f}]"
    return [f"Mean: at the last call the states hold {what}: {gain.run.value[k]:.3f} {interval} of it."]


def _layers(m: Measured) -> list[str]:
    if m.layers is None or len(m.bands) < 2:
        return []
    half = m.layers.half
    ok = half.flag == "ok"
    if ok.sum() < 2:
        return []
    rows = np.flatnonzero(ok)
    shift = np.nanmedian(m.layers.shift.value[rows])
    return [
        f"Layers: {len(rows)} of {len(ok)} bands are half resolved among the levels seen, between log-SNR {half.value[rows].min():.3g} and "
        f"{half.value[rows].max():.3g}; their median is {abs(shift):.2g} nats {'earlier' if shift < 0 else 'later'} than for a Gaussian of "
        "this spectrum."
    ]


def _seeds(m: Measured) -> list[str]:
    if len(m.seeds) < 2:
        return []
    last = np.exp([v[m.last] for v in m.seeds.values()])
    return [f"Seeds of noise: R at the last call is {', '.join(f'{v:.3f}' for v in last)} for the {len(last)} seeds, each of its own."]


def _precision(m: Measured) -> str:
    k, n = m.last, m.record.n
    se = m.total.run.se[k]
    if not np.isfinite(se) or not se > 0:
        return ""
    need = int(np.ceil(n * (2 * se / 0.01) ** 2))
    more = f"; 1 % would take about {need}" if need > n else ""
    return f"Precision: {n} trajectories tell R at the last call to {200 * se:.2g} % (two standard errors){more}."


def looked(name: str, look: Look) -> str:
    """The same in short, of a first look: the last call, where R is furthest from 1, and the calls at which no level is read from it."""
    r, null = look.sampler, look.null
    if not np.isfinite(r.ratio).any():
        return f"{name}: {len(r.invalid)} of {r.n} trajectories are not finite, the first at index {r.invalid[0]}; no call can be read."
    centre = np.log(r.ratio[-1])
    half = np.hypot(*(0.5 * np.log(one.high[-1] / one.low[-1]) for one in (r, null)))  # independent
    verdict = variance_verdict(name, r.log_snr[-1], r.ratio[-1], *np.exp([centre - half, centre + half]), null.ratio[-1])
    worst, blind = int(np.nanargmax(np.abs(np.log(r.ratio)))), int((r.flag != "ok").sum())
    return (
        f"{verdict} R is furthest from 1 at log-SNR {r.log_snr[worst]:.3g}: {r.ratio[worst]:.3f} "
        f"[{r.low[worst]:.3f}, {r.high[worst]:.3f}]." + (BLIND.format(blind, len(r.ratio)) if blind else "")
    )
