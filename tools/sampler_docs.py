"""Writes docs/samplers.md and docs/samplers.png: every solver of the catalogue with its measured order, and the peers that it matches.

    make samplers-doc
    python tools/sampler_docs.py NAME ...     measures these solvers alone; the figures of the others are those of the page that is there
    python tools/sampler_docs.py --text       measures nothing: the words and the peers are written anew, every figure and the picture stay

What is measured: sampler_orders.py; which peers: sampler_peers.py, every record that tests/oracle translates to the solver, reproduced
state by state to 1e-8.
"""

import dataclasses
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT), str(ROOT / "tools")]
if __name__ == "__main__":  # small programs by the hundred: what is measured is no time
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import jax  # noqa: E402
import numpy as np  # noqa: E402
from doc_tables import head, line_of  # noqa: E402
from sampler_orders import MEASURED, amiss, measured  # noqa: E402
from sampler_peers import also, held  # noqa: E402
from samplers.convergence import solve  # noqa: E402

from score_lab.build import ConfigError, refuse  # noqa: E402
from score_lab.paths import VP, LinearFlow  # noqa: E402
from score_lab.samplers import CATALOGUE, GRIDS, ending  # noqa: E402

PAGE = ROOT / "docs" / "samplers.md"
NS = (10, 20, 40, 80, 160)
HEAD = """# Samplers

Made by `make samplers-doc` from the code and a measured run; do not edit. One contract (`score_lab/samplers/base.py`), one compiled
scan, any path. `python -m experiments.ablate_samplers --workdir runs/x` compares them on your network.
How they rank at 5, 10, 20, 50 evaluations on two models: [rankings.md](rankings.md).

- order: as declared by the code. interior: measured from exact starting values on a mixture; shipped: as it comes, with its own start (a
  multistep solver starts at first order, so what it reaches is min(order, 2)). stiff, stiff shipped: the same two on a Gaussian of standard
  deviations 1 and 0.05. weak: a stochastic solver's order of the variance, exact; strong: along one Brownian path, where it is claimed
  (those of strong order 1). Two orders are measured higher than declared, and why: a UniPC's corrector adds one to what its predictor,
  which is what is declared, has (Zhao et al. 2023, theorem 3.1); the midpoint rule in kappa has the exact third-order term
  too where the data are Gaussian, `q^3 / 2 - q / (2 c)` of `c = kappa^2 + s^2, q = kappa / c`.
- calls: network evaluations a step, at most. Guided passes count two.
- peers: whose states are reproduced to 1e-8 in float64 (an adaptive solver's to its tolerance), under their name there, and the options
  with which ours is the same where they are not those of the row; -: none of the peers that were tried has it. `make oracle` compares the
  records of `tests/fixtures/oracle`; those drawn besides (all there are of SASolverScheduler, DPMSolverSDEScheduler,
  KDPM2DiscreteScheduler, KDPM2AncestralDiscreteScheduler) `make test` and `make test-slow`, or `make oracle RECORDS=` of `drawn`,
  `drawn/end`, `drawn/learned` or `drawn/more` there.

![Error against NFE](samplers.png)

"""
COLUMNS = ("solver", "in code", "family", "source", "order", *MEASURED, "calls", "stochastic", "peers", "when to use it")
GRIDS_HEAD = """
## Grids

A grid is the list of levels that the steps go through, on whatever path is sampled; `grid.steps(path)` gives it, `ending` says where it
ends. Those that carry another grid go around any of them. `Timesteps` and `TimestepList` are a beta table's own levels.
`dpm_fast(nfe)` gives a solver (`DPMFast`, which goes on any grid of as many steps) and its grid, together of exactly `nfe` evaluations.

| grid | in code | source | ends, on VP | on a linear flow | when to use it |
| --- | --- | --- | --- | --- | --- |
"""


def written(sampler) -> str:
    """The solver as one would write it: the fields that are not as they are by default."""
    fields = [f for f in dataclasses.fields(sampler) if getattr(sampler, f.name) != f.default or f.default is dataclasses.MISSING]
    values = {f.name: getattr(sampler, f.name) for f in fields}
    shown = [f"{name}={written(v) if dataclasses.is_dataclass(v) else repr(v)}" for name, v in values.items()]
    return f"{type(sampler).__name__}({', '.join(shown)})"


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


def draw(errors: dict[str, tuple[str, np.ndarray, np.ndarray]]) -> None:
    """One panel a family: error against NFE, log-log."""
    import matplotlib

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


def cells(line: str) -> list[str]:
    """The cells of a row of a table in Markdown."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def rows(text: str) -> dict[str, dict[str, str]]:
    """``solver -> {column: cell}`` of the tables of solvers in the page."""
    found, head = {}, []
    for line in text.partition("\n## Grids")[0].splitlines():
        if line.startswith("| solver"):
            head = cells(line)
        elif line.startswith("| ") and head and not line.startswith("| ---"):
            made = dict(zip(head, cells(line), strict=True))
            found[made["solver"]] = made
    return found


def facts(name: str) -> dict[str, str]:
    """What a row says that nothing is measured for."""
    entry = CATALOGUE[name]
    s = entry.sampler
    return {
        "solver": name, "in code": f"`{written(s)}`", "family": entry.family, "source": entry.paper, "order": str(s.order),
        "calls": str(s.calls), "stochastic": "yes" if s.stochastic and getattr(s, "eta", None) != 0 else "no", "when to use it": entry.use,
    }  # fmt: skip


def main(names: tuple[str, ...]) -> None:
    """Measures, writes, and says where a measured order is not what is declared; of ("--text",) it measures nothing."""
    jax.config.update("jax_enable_x64", True)
    text = names == ("--text",)
    names = () if text else names
    for name in names:
        if name not in CATALOGUE:
            refuse("NAME", name, "a solver of the catalogue", CATALOGUE)
    known = rows(PAGE.read_text()) if names or text else {}
    found, errors, lines, low, family = held(), {}, [], [], None
    for name, entry in sorted(CATALOGUE.items(), key=lambda item: item[1].family):
        if entry.family != family:
            family = entry.family
            lines += [f"\n## {family[0].upper()}{family[1:]}\n", *head(COLUMNS)]
        old = known.get(name, {})
        kept = (bool(names) or text) and name not in names and all(column in old for column in MEASURED)
        row = facts(name) | ({c: old[c] for c in MEASURED} if kept else measured(name)) | {"peers": also(entry.sampler, found)}
        if wrong := amiss(name, row):
            low.append(f"{name} ({', '.join(wrong)})")
        if not names and not text and not (hasattr(entry.sampler, "integrate") or entry.sampler.stochastic or entry.sampler.order == 0):
            nfe, e = np.array([solve(entry.sampler, VP(), k) for k in NS]).T[::-1]
            errors[name] = (family, nfe, e)
        lines.append(line_of(row[column] for column in COLUMNS))
        print(lines[-1], flush=True)
        jax.clear_caches()  # a process holds some thousand compiled programs, and this makes more
    if errors:
        draw(errors)
    PAGE.write_text(HEAD + "\n".join(lines).strip() + "\n" + grids())
    if low:
        sys.exit(f"measured not to be what is declared: {'; '.join(low)}")


if __name__ == "__main__":
    try:
        main(tuple(sys.argv[1:]))
    except ConfigError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
