"""Which peers a solver of the catalogue matches: those whose records tests/oracle translates to it, under their names there.

A record counts for every solver that gives the same states (``same``), and for one of other options with these named (``differences``).
"""

import dataclasses

from oracle.case import HERE, Excluded, records
from oracle.translate import PEERS, translate

from score_lab.samplers import (
    CATALOGUE,
    DDIM,
    DDPM,
    DPMSolverMultistep,
    DPMSolverPP2M,
    EDMSecond,
    Euler,
    EulerAncestral,
    Heun,
    Kappa,
    Midpoint,
    SASolver,
)
from score_lab.samplers.as_released import ReadAsV, VInKappa
from score_lab.samplers.as_released_noise import SASolverReleased

CAPS = {"final_orders", "orders", "uncorrected", "lower_order_final", "draws", "max_steps", "dropped", "stride", "kappa_min", "kappa_max",
        "nfe"}  # fmt: skip
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
        if name == "variable" and (hasattr(ours, "integrate") or isinstance(ours, EDMSecond)):  # the family of both is in any variable
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
