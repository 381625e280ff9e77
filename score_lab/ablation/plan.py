"""From a study to the list of what is run: every system at every budget with as many steps as it buys, and the reference solutions.

The reference of a deterministic system is UniPC-3, whose corrected formula has order 4, on levels uniform in log-SNR, from the same start
to the same end as the system's grid, so that the same noise has one solution to be compared with.  It takes 8 times as many steps as the
largest budget has evaluations.  How well it is known is bounded by its distance to that with half the steps, of which its own error is a
fraction (2^-4 in the asymptotic regime); solver errors below that distance are not ranked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from score_lab.ablation.correcting import NONE, assembled, correction_section
from score_lab.ablation.counting import Budget, blank_of, count_nfe, fit
from score_lab.ablation.fitting import (
    LEVELS,
    LOOSEST,
    NOISES,
    Counter,
    Spent,
    fit_evaluations,
    fit_tolerance,
    ready,
    seed_apart,
    tolerances,
)
from score_lab.ablation.keys import code_of, levels_of, versions
from score_lab.ablation.store import Store
from score_lab.ablation.study import Model, Study, System
from score_lab.build import ConfigError, build, find, refuse
from score_lab.mismatch.inversion import on_host
from score_lab.samplers import CATALOGUE
from score_lab.samplers.catalogue import STOCHASTIC
from score_lab.samplers.grids.base import ending
from score_lab.samplers.integrate import chooses_levels
from score_lab.samplers.steps import Steps
from score_lab.specs import counted, key_of, stepped

__all__ = ["Plan", "Run", "planned", "runs_of"]

REFERENCE = {"target": "UniPC", "k": 3}
REACH = 12.0
"""Log-SNRs between which the reference's levels are spread."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One system with a number of steps: what is compiled once and sampled for every seed.

    ``section`` is what ``Model.assemble`` takes; ``keys`` one per seed; ``reason`` is why it cannot be run (then there are no parts);
    ``reference`` the keys of its reference solution, where it is deterministic; ``ending`` where its grid ends, in words ("" for a solver
    that chooses its levels); ``family`` its solver's in ``samplers.CATALOGUE``, "-" for one that is not there.
    """

    system: System
    budget: Budget
    section: Mapping[str, Any]
    keys: tuple[str, ...]
    reason: str = ""
    what: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    deterministic: bool = False
    ending: str = ""
    family: str = "-"
    reference: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Plan:
    """``runs``: the table's rows; ``references``: (run of all its steps, run of half of them for the first chunk), deduplicated."""

    runs: tuple[Run, ...]
    references: tuple[tuple[Run, Run], ...]


class _Planner:
    """Counts through the store, so that a second run counts nothing."""

    def __init__(self, study: Study, models: Mapping[str, Model], store: Any):
        self.study, self.models, self.store = study, models, store
        self.counters: dict[str, Counter] = {}

    def section(self, system: System, steps: int | None, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The sampling section of ``system``, its solver fitted to the model and with ``changes``."""
        grid = self.models[system.model].grid if system.grid is None else system.grid
        if grid is None:
            raise ConfigError(f"grids: 'own' is refused; allowed: the name of a grid, {system.model} has none of its own")
        sampler = {**self.models[system.model].fitted(system.solver), **(changes or {})}
        section = {"path": system.path, "guidance": system.guidance, "sampler": sampler, "grid": stepped(grid, steps)}
        if system.correction != NONE:
            section["correction"] = correction_section(system.correction, self.study.calibrate, self.study.seeds, self.study.n)
        return section | {name: v for name in ("clip", "extrapolate") if (v := getattr(self.study, name)) is not None}

    def count(self, system: System, steps: int | None, changes: Mapping[str, Any] | None = None) -> float:
        """nfe of ``system``, or the ConfigError that refuses it."""
        model = self.models[system.model]
        blank = blank_of(model.denoiser)
        section = self.section(system, steps, changes)
        code = code_of(*(find(section[part]["target"], "score_lab.samplers", part) for part in ("sampler", "grid")))
        shape = model.shape if "correction" in section else (1,)  # corrections know bands, or pixels
        key = key_of({"count": section, "blank": repr(blank), "code": code, "shape": list(shape), "versions": versions()})
        known = self.store.count(key)
        if known is None:
            try:
                parts = assembled(model, section, blank=True)
                known = (count_nfe(parts.denoiser, parts.sampler, parts.grid, model.cond(1), shape), "")
            except ConfigError as error:
                known = (None, str(error))
            self.store.put_count(key, *known)
        if known[0] is None:
            raise ConfigError(known[1])
        return known[0]

    def run(self, system: System, nfe: int) -> Run:
        """The run of ``system`` within the budget; with its reason where it is refused, or even its fewest steps cost more."""
        grid = self.models[system.model].grid if system.grid is None else system.grid
        try:
            solver = build(ready(system.solver), "score_lab.samplers", "solvers")
            guess = float(solver.calls) * (1 if system.guidance is None else 2)  # calls of some depends on their fields
            fixed = grid is not None and not counted(grid)
            if chooses_levels(solver):
                budget = self.tolerance(system, nfe, solver, None if fixed else LEVELS)
            elif hasattr(solver, "steps_for") and not fixed:
                budget = fit_evaluations(lambda steps, total: self.count(system, steps, {"nfe": total}), solver, nfe)
            else:
                budget = fit(lambda steps: self.count(system, steps), nfe, guess, fixed)
            return self.keyed(system, budget)
        except ConfigError as error:
            what = {"system": dataclasses.asdict(system), "nfe": nfe, "model": self.models[system.model].digest, "n": self.study.n}
            keys = tuple(key_of(what | {"seed": seed}) for seed in self.study.seeds)
            return Run(system, Budget(nfe, None, float("nan")), {}, keys, str(error), what)

    def tolerance(self, system: System, nfe: int, solver: Any, steps: int | None) -> Budget:
        """The tolerance of an adaptive solver for the budget, with what each that is tried costs kept in the store."""
        if system.correction != NONE:
            name = type(solver).__name__
            refuse("corrections", system.correction, f"none: {name} is adaptive, and a correction is set at the grid's steps")
        model, seed = self.models[system.model], seed_apart(self.study.seeds)
        first = self.section(system, steps, tolerances(solver, LOOSEST))
        parts = assembled(model, first)
        code = code_of(parts.denoiser, parts.sampler, parts.grid)
        counter = self.counters.setdefault(key_of({"section": first, "model": model.name}), Counter(model, seed))

        def spend(rtol: float) -> Spent:
            section = self.section(system, steps, tolerances(solver, rtol))
            what = {"spent": section, "model": model.digest, "classes": model.classes, "seed": seed, "noises": NOISES, "code": code,
                    "versions": versions()}  # fmt: skip
            keys = [key_of(what | {"of": name}) for name in ("mean", "error")]
            known = [self.store.count(key) for key in keys]
            if None in known:
                parts = assembled(model, section)
                found = counter(parts.denoiser, parts.sampler, parts.grid)
                for key, value in zip(keys, (found.mean, found.error), strict=True):
                    self.store.put_count(key, value)
                return found
            return Spent(known[0][0], known[1][0])

        return fit_tolerance(spend, nfe, steps, lambda rtol: tolerances(solver, rtol))

    def keyed(self, system: System, budget: Budget, grid: Mapping[str, Any] | None = None, n: int | None = None) -> Run:
        """With its keys: the parts are built once to see their levels and their code."""
        model, n = self.models[system.model], self.study.n if n is None else n
        section = self.section(system, budget.steps, budget.changes) | ({} if grid is None else {"grid": dict(grid)})
        parts = assembled(model, section)
        denoiser, sampler, built = parts.denoiser, parts.sampler, parts.grid
        steps = built.steps(denoiser.path)
        solved = sampler.specialise() if hasattr(sampler, "specialise") else sampler  # what is run: eta = 0 draws nothing
        what = {
            "format": 2,
            "model": model.digest,
            "section": section,
            "levels": levels_of(steps),
            "code": code_of(denoiser, sampler, built),
            "classes": model.classes,
            "shape": list(model.shape),
            "versions": versions(),
        }
        if "correction" in section:
            what |= {"spectrum": model.spectrum.digest, "start": "" if parts.start is None else code_of(parts.start)}
            what |= {"trained": parts.digest} if parts.digest else {}
        # not n: sample i depends on (seed, i) alone, so that a cell is extended
        keys = tuple(key_of(what | {"seed": seed}) for seed in self.study.seeds)
        drawn = bool(solved.stochastic or steps.renoises)
        ends = "" if chooses_levels(solved) else ending(steps, denoiser.path)
        return Run(system, budget, section, keys, "", what | {"n": n}, not drawn, ends, family_of(solved))

    def runs(self) -> list[Run]:
        """Every system at every budget; ConfigError where nothing at all can be run."""
        runs = [self.run(system, nfe) for nfe in self.study.nfe for system in self.study.systems()]
        if all(run.reason for run in runs):
            words = runs[0].system.names()
            raise ConfigError(f"{words['solver']} on {words['grid']}: {runs[0].reason}")
        return runs

    def reference(self, run: Run) -> tuple[Run, Run]:
        """The same noise's solution in ``Study.fine_steps`` steps, and in half of them for one chunk of the first seed."""
        model = self.models[run.system.model]
        parts = assembled(model, run.section)
        denoiser, steps, pair = parts.denoiser, parts.grid.steps(parts.denoiser.path), []
        whole = self.study.fine_steps()
        for count, n in ((whole, None), (whole // 2, min(self.study.chunk, self.study.n))):
            times = levels(steps, denoiser, count)
            grid = {"target": "Times", "values": times}
            system = dataclasses.replace(run.system, solver=REFERENCE, grid=grid, correction=NONE)
            pair.append(self.keyed(system, Budget(len(times) - 1, None, float("nan")), grid, n))
        return pair[0], pair[1]


def family_of(solver: Any) -> str:
    """The family of ``solver`` in the catalogue, by its class and, of given steps, whether it draws noise; "-" for one from elsewhere."""
    same = [entry for entry in CATALOGUE.values() if type(entry.sampler) is type(solver)]
    if same and solver.stochastic and not chooses_levels(solver):
        return STOCHASTIC
    return next((entry.family for entry in same if not entry.sampler.stochastic), same[0].family if same else "-")


def levels(steps: Steps, denoiser: Any, count: int) -> list[float]:
    """``count`` steps from the start of ``steps`` to their end: log-SNRs equally spaced within +-REACH and the trained range, then the ends
    themselves."""
    path, (low, high) = denoiser.path, getattr(denoiser, "log_snr_range", (-np.inf, np.inf))
    first, last = float(steps.t[0]), float(steps.s[-1])
    ends = on_host(path, np.array([first, last]))[2]
    low, high = max(ends[0], low, -REACH), min(ends[1], high, REACH)
    inner = int(ends[0] < low) + int(ends[1] > high)  # an end outside is a step of its own
    spread = np.linspace(low, high, count + 1 - inner)
    with jax.enable_x64(True):
        times = np.asarray(path.time_of(jax.numpy.asarray(spread)), np.float64)
    times = [*([first] if ends[0] < low else []), *times.tolist(), *([last] if ends[1] > high else [])]
    times[0], times[-1] = first, last
    return [float(t) for t in times]


def planned(study: Study, models: Mapping[str, Model], store: Store) -> Plan:
    """The plan; ConfigError where a column cannot rank, or nothing at all can be run: a budget that a solver does not fit is its row's."""
    for model in models.values():
        study.ranked_by(model)
    planner = _Planner(study, models, store)
    runs = planner.runs()
    if not study.fine_steps():
        return Plan(tuple(runs), ())
    found: dict[tuple, tuple[Run, Run]] = {}
    for i, run in enumerate(runs):
        if run.deterministic:
            pair = planner.reference(run)
            pair = found.setdefault(pair[0].keys, pair)
            runs[i] = dataclasses.replace(run, reference=pair[0].keys)
    return Plan(tuple(runs), tuple(found.values()))


def runs_of(study: Study, models: Mapping[str, Model], counts: Any) -> list[Run]:
    """The runs alone, without references or a measure that ranks; ``counts`` remembers evaluations, with ``count(key)`` and
    ``put_count(key, nfe, reason)`` as of ``Store``.  ConfigError where nothing at all can be run: a budget that a solver does not fit is
    its run's.  ConfigError for an adaptive solver, whose calls are at levels of its own."""
    for spec in study.solver_specs():
        if chooses_levels(build(ready(spec), "score_lab.samplers", "solvers")):
            refuse("solvers", spec["target"], "solvers of the grid's steps: an adaptive solver calls the network at levels of its own")
    return _Planner(study, models, counts).runs()
