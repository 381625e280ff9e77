"""Writes docs/samplers.md and docs/samplers.png: every solver of the catalogue with its measured order, and the peers that it matches.

    make samplers-doc

Deterministic order: log2 of the errors at N and 2N between log-SNR -3 and 3 on the mixture of tests/samplers/convergence.py, on VP, against
scipy's DOP853; "interior" from exact starting values, "shipped" as it comes.  Stochastic: the weak order of the variance on Gaussian data,
exact by impulse responses.  Peers: every record that tests/oracle translates to the solver, reproduced state by state to 1e-8.
"""

import dataclasses
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import jax  # noqa: E402

jax.config.update("jax_enable_x64", True)

import matplotlib  # noqa: E402
import numpy as np  # noqa: E402
from oracle.case import Excluded, records  # noqa: E402
from oracle.translate import PEERS, translate  # noqa: E402
from samplers.convergence import HIGH, LOW, error, solve  # noqa: E402
from samplers.impulses import ratio  # noqa: E402

from score_lab.build import ConfigError  # noqa: E402
from score_lab.paths import VP, LinearFlow  # noqa: E402
from score_lab.samplers import CATALOGUE, GRIDS, UniformLogSNR, ending  # noqa: E402

NS = (10, 20, 40, 80, 160)
HEAD = """# Samplers

Made by `make samplers-doc` from the code and a measured run; do not edit. One contract (`score_lab/samplers/base.py`), one compiled
scan, any path. `python -m experiments.ablate_samplers --workdir runs/x` compares them on your network.
How they rank at 5, 10, 20, 50 evaluations on two models: [rankings.md](rankings.md).

- order: as declared by the code. interior: measured from exact starting values on a mixture; stiff: the same on a Gaussian of standard
  deviations 1 and 0.05. shipped: measured as it comes, with its own start (a
  multistep solver starts at first order, so what it reaches is min(order, 2)). Stochastic solvers: weak order of the variance, exact.
- calls: network evaluations a step, at most. Guided passes count two.
- peers: whose states are reproduced to 1e-8 in float64 (`make oracle`), under their name.

![Error against NFE](samplers.png)

"""
COLUMNS = ("solver", "in code", "order", "interior", "stiff", "shipped", "calls", "peers", "source", "when to use it")


GRIDS_HEAD = """
## Grids

A grid is the list of levels that the steps go through, on whatever path is sampled; `grid.steps(path)` gives it, `ending` says where it
ends. Those that carry another grid go around any of them. `Timesteps` and `TimestepList` are a beta table's own levels.
`dpm_fast(nfe)` gives a solver (`DPMFast`, which goes on any grid of as many steps) and its grid, together of exactly `nfe` evaluations.

| grid | in code | source | ends, on VP | on a linear flow | when to use it |
| --- | --- | --- | --- | --- | --- |
"""


CAPS = {"final_orders", "orders", "uncorrected", "lower_order_final", "s_noise"}
"""Fields that say how a run starts and ends, not which solver it is."""


def kind(sampler) -> tuple:
    """What tells solvers apart: the class and its fields but for CAPS."""
    fields = [f.name for f in dataclasses.fields(sampler) if f.name not in CAPS]
    return type(sampler).__name__, tuple((name, repr(getattr(sampler, name))) for name in fields)


def written(sampler) -> str:
    """The solver as one would write it: the fields that are not as they are by default."""
    fields = [f for f in dataclasses.fields(sampler) if getattr(sampler, f.name) != f.default or f.default is dataclasses.MISSING]
    values = {f.name: getattr(sampler, f.name) for f in fields}
    shown = [f"{name}={written(v) if dataclasses.is_dataclass(v) else repr(v)}" for name, v in values.items()]
    return f"{type(sampler).__name__}({', '.join(shown)})"


def peers() -> dict[tuple, set[str]]:
    """``kind -> {"peer Class"}`` from the translations."""
    found: dict[tuple, set[str]] = {}
    for peer in PEERS:
        for record in records(peer).values():
            case = translate(record)
            if not isinstance(case, Excluded):
                found.setdefault(kind(case.sampler), set()).add(record.key.replace(":", " "))
    return found


def grids() -> str:
    """The table of grids."""

    def end(grid, path) -> str:
        try:
            return ending(grid.steps(path), path)
        except ConfigError:
            return f"has levels that {type(path).__name__} has not"

    rows = []
    for name, entry in GRIDS.items():
        ends = " | ".join(end(entry.grid, path) for path in (VP(), LinearFlow()))
        rows.append(f"| {name} | `{written(entry.grid)}` | {entry.paper} | {ends} | {entry.use} |")
    return GRIDS_HEAD + "\n".join(rows) + "\n"


def deterministic(sampler) -> tuple[str, str, str, np.ndarray, np.ndarray]:
    """Interior order on the mixture and on the stiff Gaussian and the shipped order, between 40 and 80 steps (fourth order: 20 and 40 of
    a one-step solver, 80 and 160 with history; stiff: twice as many), and NFE and the shipped errors at NS."""
    n = 40 if sampler.order < 4 else 80 if sampler.memory else 20
    errors, nfe = np.array([solve(sampler, VP(), k) for k in NS]).T
    k = NS.index(n)
    interior = shipped = np.log2(errors[k] / errors[k + 1])
    if sampler.memory:
        coarse, fine = (error(sampler, VP(), m, exact_start=True) for m in (n, 2 * n))
        interior = np.log2(coarse / fine)
    coarse, fine = (error(sampler, VP(), m, "stiff", exact_start=True) for m in (2 * n, 4 * n))
    return f"{interior:.2f}", f"{np.log2(coarse / fine):.2f}", f"{shipped:.2f}", nfe, errors


def weak(sampler) -> str:
    """The order of the variance's error on Gaussian data of three widths, between 40 and 80 steps: the least."""
    one, two = (np.abs(ratio(VP(), sampler, UniformLogSNR(k, LOW, HIGH, to_data=False), draws_per_step=2) - 1) for k in (40, 80))
    moved = one > 1e-9
    return f"{np.log2(one[moved] / two[moved]).min():.2f}" if moved.any() else "exact"


def draw(errors: dict[str, tuple[str, np.ndarray, np.ndarray]]) -> None:
    """One panel a family: error against NFE, log-log."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    families = sorted({family for family, _, _ in errors.values()})
    figure, axes = plt.subplots(1, len(families), figsize=(5.2 * len(families), 7.6), sharey=True, squeeze=False, layout="constrained")
    for axis, family in zip(axes[0], families, strict=True):
        mine = {name: (nfe, e) for name, (f, nfe, e) in errors.items() if f == family}
        for k, (name, (nfe, e)) in enumerate(mine.items()):
            axis.loglog(nfe, e, label=name, color=plt.cm.tab20(k % 20), marker="osD^v"[k // 20 % 5], ms=3, lw=1)
        nfe = np.array([10.0, 320.0])
        for p in (1, 2, 3):
            axis.loglog(nfe, 0.3 * (nfe / 10.0) ** -p, color="0.8", lw=0.8, zorder=0)
            axis.annotate(f"order {p}", (320.0, 0.3 * 32.0**-p), fontsize=7, color="0.5", ha="right")
        axis.set_title(family)
        axis.set_xlabel("NFE")
        axis.legend(fontsize=7, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.11))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("mean distance to the exact solution")
    figure.savefig(ROOT / "docs" / "samplers.png", dpi=110)


def main() -> None:
    """Measures, writes, and says where a measured order is below what is declared."""
    matched, errors, lines, low = peers(), {}, [], []
    family = None
    for name, entry in sorted(CATALOGUE.items(), key=lambda item: item[1].family):
        s = entry.sampler
        if entry.family != family:
            family = entry.family
            lines += [f"\n## {family[0].upper()}{family[1:]}\n", "| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
        if hasattr(s, "integrate"):
            interior = stiff = shipped = "adaptive"
        elif s.order == 0:
            interior = stiff = shipped = "-"
        elif s.stochastic:
            interior, stiff, shipped = "-", "-", weak(s)
        else:
            interior, stiff, shipped, nfe, e = deterministic(s)
            errors[name] = (family, nfe, e)
            if min(float(interior), float(stiff)) < s.order - 0.2 or float(shipped) < min(s.order, 2) - 0.2:
                low.append(name)
        if s.stochastic and shipped not in ("exact", "adaptive", "-") and float(shipped) < s.order - 0.2:
            low.append(name)
        also = ", ".join(sorted(matched.get(kind(s), ()))) or "-"
        facts = f"{s.order} | {interior} | {stiff} | {shipped} | {s.calls}"
        lines.append(f"| {name} | `{written(s)}` | {facts} | {also} | {entry.paper} | {entry.use} |")
        print(lines[-1], flush=True)
    draw(errors)
    (ROOT / "docs" / "samplers.md").write_text(HEAD + "\n".join(lines).strip() + "\n" + grids())
    if low:
        sys.exit(f"measured below what is declared: {', '.join(low)}")


if __name__ == "__main__":
    main()
