"""Writes docs/samplers.md and docs/samplers.png: every solver of the catalogue with its measured order, and the peers that it matches.

    make samplers-doc
    python tools/sampler_docs.py NAME ...     measures these solvers alone; the figures of the others are those of the page that is there

Deterministic order: log2 of the errors at N and 2N between log-SNR -3 and 3, on VP, N doubled until two orders in turn agree to 0.15:
on the mixture of tests/samplers/convergence.py against scipy's DOP853, on the stiff Gaussian against its closed form; "interior" from exact
starting values, "shipped" as it comes.  Stochastic: the weak order of the variance on Gaussian data, exact by impulse responses; the strong
order where one is claimed, along one Brownian path.  Peers: every record that tests/oracle translates to the solver, reproduced state by
state to 1e-8.
"""

import dataclasses
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
if __name__ == "__main__":  # small programs by the hundred: what is measured is no time
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from oracle.case import HERE, Bank, Excluded, records  # noqa: E402
from oracle.translate import PEERS, translate  # noqa: E402
from samplers.convergence import HIGH, LOW, error, solve  # noqa: E402
from samplers.exact import Mixture  # noqa: E402
from samplers.impulses import ratio  # noqa: E402

from score_lab.build import ConfigError, refuse  # noqa: E402
from score_lab.paths import VP, LinearFlow  # noqa: E402
from score_lab.samplers import (  # noqa: E402
    CATALOGUE,
    DDIM,
    DDPM,
    GRIDS,
    DPMSolverMultistep,
    DPMSolverPP2M,
    EDMSecond,
    Euler,
    EulerAncestral,
    Heun,
    Kappa,
    Midpoint,
    SASolver,
    StochasticHeun,
    UniformLogSNR,
    ending,
    sample,
)
from score_lab.samplers.as_released import ReadAsV, VInKappa  # noqa: E402
from score_lab.samplers.as_released_noise import SASolverReleased  # noqa: E402

PAGE = ROOT / "docs" / "samplers.md"
NS = (10, 20, 40, 80, 160)
FLOOR = 1e-12
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
- peers: whose states are reproduced to 1e-8 in float64 (`make oracle`; an adaptive solver's to its tolerance), under their name there, and
  the options with which ours is the same where they are not those of the row; -: none of the peers that were tried has it.

![Error against NFE](samplers.png)

"""
MEASURED = ("interior", "shipped", "stiff", "stiff shipped", "weak", "strong")
COLUMNS = ("solver", "in code", "family", "source", "order", *MEASURED, "calls", "stochastic", "peers", "when to use it")


GRIDS_HEAD = """
## Grids

A grid is the list of levels that the steps go through, on whatever path is sampled; `grid.steps(path)` gives it, `ending` says where it
ends. Those that carry another grid go around any of them. `Timesteps` and `TimestepList` are a beta table's own levels.
`dpm_fast(nfe)` gives a solver (`DPMFast`, which goes on any grid of as many steps) and its grid, together of exactly `nfe` evaluations.

| grid | in code | source | ends, on VP | on a linear flow | when to use it |
| --- | --- | --- | --- | --- | --- |
"""


CAPS = {"final_orders", "orders", "uncorrected", "lower_order_final", "draws", "max_steps", "dropped", "stride", "kappa_min", "kappa_max"}
"""Fields that say how a run starts and ends, or where it is cut, not which solver it is."""
OPTIONS = {
    "k", "eta", "s_noise", "temperature", "multiplier", "r", "alpha", "rtol", "atol", "solver",
    "tau", "h_init", "pcoeff", "icoeff", "dcoeff", "accept_safety", "predictor", "corrector",
}  # fmt: skip
"""Fields whose other values are the same solver with other options."""
READ = {ReadAsV: "as released, eps read as v", VInKappa: "as released, v turned into eps after it is extrapolated"}
"""What a peer's own variables are."""
SWITCHES = {"independent", "as_released", "at_data", "together"}
"""Those of them that are switched."""
STRONG = ("Euler-Maruyama, SiT's sigma", "stochastic Heun")
"""Those whose strong order 1 is claimed (score_lab/samplers/sde.py)."""
HIGHER = {"UniPC": 1.0, "Midpoint": 1.0}
"""How much more than declared a class may be measured to have; the page's head says why."""


def same(sampler) -> list:
    """``sampler`` and those of other classes that give the same states: as what a record counts."""
    found = [sampler]
    if isinstance(sampler, Euler) and sampler.variable == Kappa():
        found.append(DDIM())
    if isinstance(sampler, DDIM) and not sampler.stochastic and sampler.stride is None:
        found.append(Euler(Kappa()))
    if isinstance(sampler, DDPM) and sampler.variance == "beta_tilde" or isinstance(sampler, EulerAncestral) and sampler.eta == 1:
        found += [DDIM(1.0), DDPM(), EulerAncestral()]
    if isinstance(sampler, DDIM) and sampler.eta == 1:
        found += [DDPM(), EulerAncestral()]
    if isinstance(sampler, DPMSolverMultistep) and sampler.k < 3:
        found[0] = sampler = dataclasses.replace(sampler, as_released=None)  # what is released otherwise is the third order
        if sampler.k == 2 and not sampler.stochastic and sampler.solver == "midpoint" and type(sampler.form).__name__ == "DataPrediction":
            found.append(DPMSolverPP2M())
    if isinstance(sampler, DPMSolverPP2M):
        found.append(DPMSolverMultistep(2))
    if isinstance(sampler, EDMSecond) and sampler.variable == Kappa() and sampler.alpha in (0.5, 1):
        found.append(Heun(Kappa()) if sampler.alpha == 1 else Midpoint(Kappa()))
    if isinstance(sampler, SASolverReleased):
        found.append(SASolver(sampler.predictor, sampler.corrector - 1))
    return found


def differences(ours, theirs) -> list[str] | None:
    """``["option=value"]`` of theirs that ours has otherwise; None if they are not the same solver."""
    if type(ours) is not type(theirs) or ours.stochastic != theirs.stochastic:
        return None
    other = [f.name for f in dataclasses.fields(ours) if f.name not in CAPS and getattr(ours, f.name) != getattr(theirs, f.name)]
    said = []
    for name in other:
        a, b = getattr(ours, name), getattr(theirs, name)
        if name == "variable" and hasattr(ours, "integrate"):
            said.append(f"variable={b!r}")
        elif name == "variable" and type(a) is type(b):
            said += differences_of_parts(a, b)
        elif name == "variable" and type(b) in READ:
            said.append(READ[type(b)])
        elif name == "k" and isinstance(ours, DPMSolverMultistep):  # 2M and 3M are names of their own
            return None
        elif name in OPTIONS and not isinstance(a, bool | None) or name in SWITCHES:
            said.append(f"{name}={b:g}" if isinstance(b, float) else f"{name}={b!r}")
        else:
            return None
    return said


def differences_of_parts(a, b) -> list[str]:
    """The fields of a variable that are otherwise."""
    return [f"{f.name}={getattr(b, f.name)!r}" for f in dataclasses.fields(a) if getattr(a, f.name) != getattr(b, f.name)]


def written(sampler) -> str:
    """The solver as one would write it: the fields that are not as they are by default."""
    fields = [f for f in dataclasses.fields(sampler) if getattr(sampler, f.name) != f.default or f.default is dataclasses.MISSING]
    values = {f.name: getattr(sampler, f.name) for f in fields}
    shown = [f"{name}={written(v) if dataclasses.is_dataclass(v) else repr(v)}" for name, v in values.items()]
    return f"{type(sampler).__name__}({', '.join(shown)})"


def held() -> list[tuple]:
    """``(sampler, "peer Class")`` of every record that is reproduced: those of the table, and those drawn besides."""
    found = {}
    for folder in (HERE, HERE / "drawn", HERE / "drawn" / "end", HERE / "drawn" / "more"):
        for peer in PEERS:
            for record in records(peer, folder).values() if (folder / f"{peer}.npz").exists() else ():
                case = translate(record)
                if isinstance(case, Excluded) or isinstance(case.sampler, str):
                    continue
                name = "RK45" if peer == "scipy_ode" else record.key.partition(":")[2]
                made = getattr(case.sampler, "inner", case.sampler)  # of EDM's rounding
                released = isinstance(made, SASolverReleased)
                found.update({(repr(s), name): (s, f"{peer} {name}", released) for s in same(made)})
    return list(found.values())


ROWS = [s for entry in CATALOGUE.values() for s in same(entry.sampler)]
"""What the rows hold, and what gives the same states."""


def also(sampler, found: list[tuple]) -> str:
    """The peers' names, each with the options that are the nearest to the row's; another order only where no row has it."""
    names: dict[str, list[str]] = {}
    for theirs, name, released in found:
        said = differences(sampler, theirs)
        if said is None:
            continue
        if any(v.startswith("k=") for v in said) and any(differences(s, theirs) == [] for s in ROWS):
            continue
        said = ["with its second-order term, SASolverReleased"] if released else said
        if name not in names or (len(said), any("k=" in v for v in said)) < (len(names[name]), any("k=" in v for v in names[name])):
            names[name] = said
    return ", ".join(name + (f" ({', '.join(said)})" if said else "") for name, said in sorted(names.items())) or "-"


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


def asymptotic(sampler, problem: str, exact_start: bool) -> str:
    """The order where doubling N does not change it by more than 0.15; before the errors are float64's own."""
    n, orders, last = 20 if sampler.order > 3 else 40, [], None
    while n <= 5120:
        now = error(sampler, VP(), n, problem, exact_start=exact_start)
        if last is not None and (now > FLOOR or not orders):
            orders.append(np.log2(last / now))
        if now <= FLOOR or (len(orders) > 1 and abs(orders[-1] - orders[-2]) < 0.15):
            break
        last, n = now, 2 * n
    return f"{orders[-1]:.2f}"


def deterministic(sampler) -> dict[str, str]:
    """The four orders; of a solver without history the start is no other."""
    found = {"interior": asymptotic(sampler, "mixture", True), "stiff": asymptotic(sampler, "stiff", True)}
    if not sampler.memory:
        return found | {"shipped": found["interior"], "stiff shipped": found["stiff"]}
    return found | {"shipped": asymptotic(sampler, "mixture", False), "stiff shipped": asymptotic(sampler, "stiff", False)}


def strong(sampler) -> str:
    """From 32 to 128 steps, the median of |x_N - x| over 256 paths of the mixture, on increments that refine one Brownian path in t,
    against 2048 steps of stochastic Heun."""
    path, fine = LinearFlow(), 2048
    grid = lambda n: UniformLogSNR(n, LOW, HIGH, to_data=False).steps(path)  # noqa: E731
    h = np.asarray(grid(fine).t - grid(fine).s)
    dW = np.random.default_rng(2).standard_normal((fine, 256, 2)) * np.sqrt(h)[:, None, None]
    x_T = jnp.asarray(np.random.default_rng(3).standard_normal((256, 2)))

    def run(s, n):
        sums = dW.reshape(n, fine // n, 256, 2).sum(1) / np.sqrt(h.reshape(n, -1).sum(1))[:, None, None]
        return np.asarray(sample(Mixture(path), s, grid(n), x_T=x_T, noise=Bank(jnp.asarray(sums), jnp.arange(n)[:, None])).x)

    truth = run(StochasticHeun(sampler.multiplier), fine)
    coarse, finer = (np.median(np.abs(run(sampler, n) - truth)) for n in (32, 128))
    return f"{0.5 * np.log2(coarse / finer):.2f}"


def weak(sampler) -> str:
    """The order of the variance's error on Gaussian data of three widths, between 40 and 80 steps: the least."""
    one, two = (np.abs(ratio(VP(), sampler, UniformLogSNR(k, LOW, HIGH, to_data=False), draws_per_step=2) - 1) for k in (40, 80))
    moved = one > 1e-9
    return f"{np.log2(one[moved] / two[moved]).min():.2f}" if moved.any() else "exact"


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


def applies(sampler, name: str) -> tuple[str, ...]:
    """The measured columns that a solver has."""
    if hasattr(sampler, "integrate") or sampler.order == 0:
        return ()
    return (("weak", "strong") if name in STRONG else ("weak",)) if sampler.stochastic else MEASURED[:4]


def measured(name: str) -> dict[str, str]:
    """Its orders; "adaptive" or "-" where there is none."""
    s = CATALOGUE[name].sampler
    found = {column: "adaptive" if hasattr(s, "integrate") else "-" for column in MEASURED}
    wanted = applies(s, name)
    if "weak" in wanted:
        return found | {"weak": weak(s)} | ({"strong": strong(s)} if "strong" in wanted else {})
    return found | deterministic(s) if wanted else found


def amiss(name: str, row: dict[str, str]) -> list[str]:
    """The columns whose figure is not what the solver declares: more than 0.2 below, or 0.5 above (a class of ``HIGHER``: more)."""
    s = CATALOGUE[name].sampler
    wrong = []
    for column in applies(s, name):
        if row[column] == "exact":
            continue
        least = 1 if column == "strong" else s.order if column in ("interior", "stiff", "weak") else min(s.order, 2)
        most = (1 if column == "strong" else s.order) + 0.5 + HIGHER.get(type(s).__name__, 0.0)
        found = float(row[column]) if re.fullmatch(r"-?[0-9.]+", row[column]) else float("nan")
        if not least - 0.2 <= found <= most:
            wrong.append(column)
    return wrong


def main(names: tuple[str, ...]) -> None:
    """Measures, writes, and says where a measured order is not what is declared."""
    jax.config.update("jax_enable_x64", True)
    for name in names:
        if name not in CATALOGUE:
            refuse("NAME", name, "a solver of the catalogue", CATALOGUE)
    known = rows(PAGE.read_text()) if names else {}
    found, errors, lines, low, family = held(), {}, [], [], None
    for name, entry in sorted(CATALOGUE.items(), key=lambda item: item[1].family):
        if entry.family != family:
            family = entry.family
            lines += [f"\n## {family[0].upper()}{family[1:]}\n", "| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
        old = known.get(name, {})
        kept = bool(names) and name not in names and all(column in old for column in MEASURED)
        row = facts(name) | ({c: old[c] for c in MEASURED} if kept else measured(name)) | {"peers": also(entry.sampler, found)}
        if wrong := amiss(name, row):
            low.append(f"{name} ({', '.join(wrong)})")
        if not names and not (hasattr(entry.sampler, "integrate") or entry.sampler.stochastic or entry.sampler.order == 0):
            nfe, e = np.array([solve(entry.sampler, VP(), k) for k in NS]).T[::-1]
            errors[name] = (family, nfe, e)
        lines.append("| " + " | ".join(row[column] for column in COLUMNS) + " |")
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
