"""From a configuration and a command line to what is recorded: runs with equal counted budgets, the data's spectrum, and the questions."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from experiments.ablation_parts import study_fields
from experiments.counting import Line
from score_lab.ablation import Model, Run, Study
from score_lab.ablation.keys import code_of, code_of_modules, versions
from score_lab.ablation.running import reason_of
from score_lab.build import build, refuse
from score_lab.mismatch.spectrum import BASES
from score_lab.mismatch.study import (
    FEWEST,
    Measured,
    Recording,
    Records,
    Subject,
    estimator_of,
    measure_of,
    measured,
    read_outs_of,
    spectrum_of,
)
from score_lab.specs import key_of, spec_of, split

__all__ = ["Questions", "announced", "asked", "folder_of", "homes_of", "measure_all", "notes_of", "recordings", "subjects"]

LISTS = ("estimators", "read_outs", "measures")
RECORDING = ("score_lab.mismatch.bands", "score_lab.mismatch.forward", "score_lab.mismatch.estimators.residual")
"""The modules whose code decides what a record holds."""
AT_ONCE = 2
"""Runs at once: one compiles while another samples."""


@dataclasses.dataclass(frozen=True)
class Questions:
    """What is asked of every run: ``estimators`` by name or import path, the ``basis`` of the bands ("": dct of images, pca of points),
    papers' ``read_outs``, ``measures`` by import path, ``replicates`` of the bootstrap."""

    estimators: tuple = ("SpectralRegression", "TotalVariance", "DenoiserResidual", "MaximumLikelihood")
    basis: str = ""
    read_outs: tuple = ("P1", "P4")
    measures: tuple = ()
    replicates: int = 200

    def check(self) -> None:
        """ConfigError for a name that is not there."""
        if self.basis and self.basis not in BASES:
            refuse("basis", self.basis, ", ".join(BASES), tuple(BASES))
        if self.replicates < 20:
            refuse("replicates", self.replicates, "at least 20 of the bootstrap; 200 is usual")
        read_outs_of(self.read_outs, self.built())
        self.functions()

    def built(self) -> tuple[Any, ...]:
        """The estimators."""
        return tuple(estimator_of(spec_of(e, "estimators")) for e in self.estimators)

    def functions(self) -> dict[str, Callable]:
        """The measures by name."""
        return dict(measure_of(name) for name in self.measures)

    def basis_of(self, shape: tuple[int, ...]) -> str:
        """For states of ``shape``."""
        return self.basis or ("dct" if len(shape) == 3 else "pca")


def asked(config: Any, given: Mapping[str, Any]) -> tuple[Study, Questions]:
    """The axes and the questions: the configuration with the command line on top; ConfigError names what does not fit."""
    fields = study_fields(config, given)
    fields |= {name: tuple(split(given[name])) for name in LISTS if given.get(name) is not None}
    fields |= {name: given[name] for name in ("basis", "replicates", "chunk") if given.get(name) is not None}
    own = [f.name for f in dataclasses.fields(Questions)]
    questions = build({"target": f"{__name__}:Questions", **{n: v for n, v in fields.items() if n in own}}, field="config")
    rest = {name: value for name, value in fields.items() if name not in own}
    if type(rest.get("n", FEWEST)) is int and rest.get("n", FEWEST) < FEWEST:
        enough = "no interval says anything with fewer, and 1000 or more tell the variance to a few per cent"
        refuse("--n", rest["n"], f"at least {FEWEST} trajectories: {enough}")
    study = build({"target": "score_lab.ablation.study:Study", "reference_steps": 0, **rest}, field="config")
    if study.corrected():
        words = "; ".join(study.corrections)
        refuse("corrections", words, "none here, where every run is as it is: experiments.compare_corrections has them, before and after")
    return study, questions


def announced(study: Study, questions: Questions) -> str:
    """What is about to be done, before anything is opened: runs, trajectories, evaluations of the network, and where it is written.

    The runs that a budget or a path refuses are among them; an evaluation of a run comes with one of forward samples at the same call."""
    systems, n = len(study.systems()), study.n * len(study.seeds)
    runs, calls = systems * len(study.nfe), systems * sum(study.nfe)
    what = f"{runs} runs ({systems} systems at {', '.join(map(str, study.nfe))} NFE) of {n} trajectories"
    spent = f"at most {2 * calls * n:,} evaluations, half of them of forward samples"
    return f"{', '.join(study.models)}: {what}; {spent}; read by {', '.join(map(str, questions.estimators))}; into {folder_of(study)}"


def recordings(study: Study, questions: Questions, models: Mapping[str, Model], records: Records) -> dict[str, Recording]:
    """For each model: its data's spectrum, measured once and stored, and how its runs are recorded."""
    estimators, found = questions.built(), {}
    kept = [type(e).__module__ for e in estimators if hasattr(e, "recorder") or getattr(e, "in_scan", False)]
    code = code_of_modules(*RECORDING, *kept)
    for name, model in models.items():
        basis = questions.basis_of(model.shape)
        label = f"{name}_{basis}" if len(models) > 1 else basis
        file = records.folder / f"spectrum_{''.join(c if c.isalnum() or c in '_-' else '-' for c in label)}.npz"
        spectrum = spectrum_of(model.truth.x, basis, file, model.truth.what)
        found[name] = Recording(spectrum, study.n, study.seeds, estimators, records, study.chunk, questions.replicates, code)
    return found


def subjects(study: Study, models: Mapping[str, Model], runs: Sequence[Run]) -> list[Subject | Run]:
    """What is recorded, in the order of ``runs``; a run that cannot be made stays what it is, with its reason."""
    systems = [run.system.names() for run in runs]
    varying = [axis for axis in systems[0] if axis == "solver" or len({s[axis] for s in systems}) > 1]
    return [run if run.reason else _subject(study, models[run.system.model], run, varying) for run in runs]


def _subject(study: Study, model: Model, run: Run, varying: Sequence[str]) -> Subject:
    denoiser, sampler, grid = model.assemble(run.section, model.denoiser)
    plain, *_ = model.assemble({**run.section, "guidance": None}, model.denoiser)
    told = {name: run.section.get(name) for name in ("path", "guidance", "clip", "extrapolate")}
    system = key_of({"model": model.digest, "told": told, "code": code_of(denoiser), "classes": model.classes, "versions": versions()})
    names, budget = run.system.names(), run.budget
    words = [names["solver"], *(f"{axis} {names[axis]}" for axis in varying if axis != "solver")]
    axes = {axis: names[axis] for axis in varying} | {"NFE": f"{budget.nfe:g}", "steps": budget.steps or "-"}
    return Subject(
        f"{', '.join(words)}, {budget.nfe:g} NFE", axes, denoiser, plain, sampler, grid.steps(denoiser.path), tuple(model.shape),
        model.truth, run.keys, system, model.cond, f"{names['solver']}: {budget.note}" if budget.note else "",
    )  # fmt: skip


def measure_all(
    todo: Sequence[Subject | Run], by: Mapping[str, Recording], models: Sequence[str], questions: Questions
) -> tuple[list[Measured], list[str]]:
    """The measured runs, and a line for each that failed; two at once, with a progress line."""
    functions, failed, found = questions.functions(), [], []
    start, line = time.time(), Line()

    def one(subject: Subject, model: str) -> Measured | str:
        try:
            return measured(by[model], subject, questions.read_outs, functions)
        except Exception as error:  # noqa: BLE001 - one run's failure is its result
            if functions and str(error).startswith("measures"):
                raise
            return f"{subject.name}: {reason_of(error)}"

    with ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = [None if isinstance(s, Run) else pool.submit(one, s, model) for s, model in zip(todo, models, strict=True)]
        for i, (subject, job) in enumerate(zip(todo, jobs, strict=True)):
            done = f"{subject.system.names()['solver']} at {subject.budget.budget} NFE: {subject.reason}" if job is None else job.result()
            (failed if isinstance(done, str) else found).append(done)
            left = (time.time() - start) / (i + 1) * (len(todo) - i - 1)
            line(f"measured {i + 1}/{len(todo)}, {left:.0f} s left", last=i + 1 == len(todo))
    return found, failed


def notes_of(study: Study, models: Mapping[str, Model], by: Mapping[str, Recording], todo: Sequence[Any]) -> Iterator[str]:
    """What the page's numbers stand on."""
    yield from (model.note for model in models.values())
    for name, recording in by.items():
        s = recording.spectrum
        yield (
            f"{name}: {len(s.variance)} bands of the {s.d} values of a state, their variance measured on {s.n} examples; {study.n} "
            f"trajectories of each of the seeds {', '.join(map(str, study.seeds))}, {recording.replicates} bootstrap replicates"
        )
    yield from dict.fromkeys(s.note for s in todo if isinstance(s, Subject) and s.note)


def homes_of(study: Study) -> list[Path]:
    """The workdirs, where other reports of the same models may be."""
    return [Path(m["workdir"]) for m in study.models.values() if "workdir" in m]


def folder_of(study: Study) -> Path:
    """Where it is written."""
    return Path(study.output) if study.output else next(Path(m["workdir"]) / "mismatch" for m in study.models.values() if "workdir" in m)
