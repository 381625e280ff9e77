"""What is to be compared: the axes, checked, and the systems that they span.

    systems = models x paths x guidance x grids x solvers (each with every varied field) x corrections;   cells = systems x nfe x seeds
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from score_lab import guidance
from score_lab.ablation.correcting import NONE, check_correction
from score_lab.ablation.fitting import check_adaptive, ready
from score_lab.ablation.spaces import check_features
from score_lab.ablation.truth import RANKABLE
from score_lab.build import build, find, refuse
from score_lab.samplers.integrate import chooses_levels
from score_lab.specs import counted, name_of, spec_of, stepped, vary

__all__ = ["Model", "Study", "System"]

LEAST_N = 20
"""Below it no interval says anything."""
SOLVER = ("init", "step", "order", "calls", "memory")
"""What a solver of given steps has."""
INTEGRATOR = ("integrate", "order", "calls", "memory", "stochastic")
"""What one has that chooses its own."""
ALIASES = {"dpm_fast": "DPMFast"}
"""Functions that give a solver with its grid, and the solver alone, which goes on any."""
PROBE = ("low", "high", "members", "steps", "batch", "learning_rate", "held_out", "points", "replicates")
"""Options of the noise-level probe that a configuration may set."""
LEAST_REFERENCE = 16
"""Steps of a reference solution: half of them still have somewhere to start."""


@dataclasses.dataclass(frozen=True)
class Model:
    """Something that is sampled: a trained network or an exact denoiser, and what its samples are measured against.

    Attributes:
      name: for tables.
      denoiser: on its own path.
      shape: of one sample.
      digest: of everything in the denoiser.
      truth: see ``score_lab.ablation.truth``.
      assemble: (sampling section, denoiser) -> (denoiser on its path with guidance, sampler, grid), or ConfigError.
      classes: how many labels are asked for in turn; 0: none.
      grid: its own grid's specification, None if it has none.
      note: one line for the page.
      command: sampling section -> the line to type that draws from it, "" where there is none (an exact denoiser has no workdir).
      spectrum: of the training data, where there are corrections; None: none can be applied.
      forward_data: x0 (n, *shape) and its labels' dict or None, of which a measured calibration makes forward samples.
      blind: whether the network was trained with its noise label dropped now and then; None: not known, or no network.
      probe: a noise-level probe of the training data, trained when it is first called for, with a ``note`` of its cost
        (``experiments.probe.Kept``); None: no correction by one can be made.
      made: what was corrected already, by the key of its section.
      said: one line on what was trained for a correction, by its name.
      fitted: a solver's specification -> the same with what has to be measured on this model first (Gamma of ``AnalyticDPM``).
    """

    name: str
    denoiser: Any
    shape: tuple[int, ...]
    digest: str
    truth: Any
    assemble: Callable[[Mapping[str, Any], Any], tuple[Any, Any, Any]]
    classes: int = 0
    grid: Mapping[str, Any] | None = None
    note: str = ""
    command: Callable[[Mapping[str, Any]], str] = lambda section: ""
    spectrum: Any = None
    forward_data: tuple[np.ndarray, Any] | None = None
    blind: bool | None = None
    probe: Callable[[], Any] | None = None
    made: dict = dataclasses.field(default_factory=dict, compare=False, repr=False)
    said: dict = dataclasses.field(default_factory=dict, compare=False, repr=False)
    fitted: Callable[[Mapping[str, Any]], dict[str, Any]] = dict

    def cond(self, n: int) -> dict[str, np.ndarray] | None:
        """The labels of samples 0..n-1: all classes in turn."""
        return {"label": np.resize(np.arange(self.classes, dtype=np.int32), n)} if self.classes else None


@dataclasses.dataclass(frozen=True)
class System:
    """One combination of the axes; specifications, and None for what is the model's own (path, grid) or absent (guidance).  ``whole``: the
    axes on which another part of the study has the same short name, so that this one is named with its module.  ``correction``: the words
    of ``correcting``."""

    model: str
    path: Mapping[str, Any] | None
    guidance: Mapping[str, Any] | None
    grid: Mapping[str, Any] | None
    solver: Mapping[str, Any]
    whole: tuple[str, ...] = ()
    correction: str = NONE

    def names(self) -> dict[str, str]:
        """The words for each axis."""
        return {
            "model": self.model,
            "path": name_of(self.path, whole="path" in self.whole),
            "guidance": _scale(self.guidance, whole="guidance" in self.whole),
            "grid": name_of(self.grid, whole="grid" in self.whole),
            "solver": name_of(self.solver, whole="solver" in self.whole),
            "correction": self.correction,
        }


def _scale(spec: Mapping[str, Any] | None, whole: bool = False) -> str:
    if spec is not None and set(spec) == {"target", "scale"} and spec["target"] == "CFG":
        return f"{spec['scale']!r}" if whole else f"{spec['scale']:g}"
    return name_of(spec, "1", whole)


@dataclasses.dataclass(frozen=True)
class Study:
    """The axes and the numbers of one ablation; words or specifications (see ``specs``).

    Attributes:
      models: name -> {"workdir": ...} or {"denoiser": exact denoiser, "path": ...}.
      solvers, grids, paths: "own" is the model's own grid or path.
      guidance: scales (1: none), or guidance parts.
      corrections: words of ``correcting``: none, names of the catalogue of corrections, import paths; "A + B" is both.
      calibrate: what their constants come from: "gaussian" (the spectrum), "measured" (one run of another seed), or a number.
      probe: options of ``mismatch.estimators.train_probe``, for the correction that reads one: steps, members, low, high, ...
      basis: of the spectrum; empty: dct for images, pca (every axis a band) for points.
      vary: "solver.FIELD" or "grid.FIELD" -> values; parts without the field appear once.
      nfe: budgets of network evaluations per sample, counted.
      seeds: of noise; sample i of seed s starts from the same noise in every cell.
      n: samples of each seed.
      chunk: samples in one compiled call.
      features: the space of Frechet distance and KID of images: PCA (32 components), PCA(components=K), Pixels, or the import path of a
        function (n, *shape) -> (n, k); see ``spaces``.
      rank_by: the column that ranks; empty: frechet for images, energy for points.
      alpha: of the family of all pairs at one budget.
      least_difference: the resolution: a pair is distinguishable only if its difference is more than this share of the better value, or of
        what perfect samples may read (the upper end of the floor's interval), whichever is more.  With common noise an interval can be
        narrower than any use or the truth's own sample can vouch for, down to rounding; 1 % is below what a choice of sampler is made
        for.  0: intervals alone decide.
      repeats: bootstrap draws.
      reference_steps: of the same noise's solution that solver error is measured from (a guided step costs two evaluations); None: 8 times
        the largest budget; 0: none.
      clip, extrapolate: outside the trained range, as in ``config.sampling``; None: as the workdir's configuration says.
      output: the folder; empty: WORKDIR/ablation.
    """

    models: dict
    solvers: tuple
    grids: tuple = ("own",)
    paths: tuple = ("own",)
    guidance: tuple = (1.0,)
    vary: dict = dataclasses.field(default_factory=dict)
    corrections: tuple = (NONE,)
    calibrate: Any = "gaussian"
    probe: dict = dataclasses.field(default_factory=dict)
    basis: str = ""
    nfe: tuple = (5, 10, 20, 35, 50)
    seeds: tuple = (0, 1, 2)
    n: int = 1000
    chunk: int = 125
    features: Any = "PCA"
    rank_by: str = ""
    alpha: float = 0.05
    least_difference: float = 0.01
    repeats: int = 200
    reference_steps: int | None = None
    clip: bool | None = None
    extrapolate: bool | None = None
    output: str = ""

    def check(self) -> None:
        """Raises ConfigError for an empty axis, a number out of range, and a part that does not exist."""
        for axis in ("models", "solvers", "grids", "paths", "guidance", "corrections", "nfe", "seeds"):
            if not getattr(self, axis):
                refuse(axis, getattr(self, axis), "at least one")
        for axis, least in (("nfe", 1), ("seeds", 0)):
            for value in getattr(self, axis):
                if type(value) is not int or value < least or getattr(self, axis).count(value) > 1:
                    refuse(axis, value, f"whole numbers from {least}, each once")
        for name, least in (("n", LEAST_N), ("chunk", 1), ("repeats", 20)):
            if getattr(self, name) < least:
                refuse(name, getattr(self, name), f"a whole number, at least {least}")
        check_features(self.features)
        for word in self.corrections:
            check_correction(word, self.calibrate)
        for name in self.probe:
            if name not in PROBE:
                refuse("probe", name, f"options of train_probe: {', '.join(PROBE)}", PROBE)
        if self.basis not in ("", "dct", "pca"):
            refuse("basis", self.basis, "dct, pca, or nothing: dct for images, pca for points", ("dct", "pca"))
        if not 0 < self.alpha < 1:
            refuse("alpha", self.alpha, "between 0 and 1")
        if not 0 <= self.least_difference < 1:
            refuse("least_difference", self.least_difference, "from 0 (intervals alone decide) to below 1, a share of the better value")
        if self.reference_steps is not None and self.reference_steps != 0 and self.reference_steps < LEAST_REFERENCE:
            refuse("reference_steps", self.reference_steps, f"0 (none), at least {LEAST_REFERENCE}, or None (8 times the largest budget)")
        for spec in self.solver_specs():
            find(spec["target"], "score_lab.samplers", "solvers.target", SOLVER)
            solver = build(ready(spec), "score_lab.samplers", "solvers")
            if chooses_levels(solver):
                check_adaptive(spec, solver)
            build(ready(spec), "score_lab.samplers", "solvers", needs=INTEGRATOR if chooses_levels(solver) else SOLVER)
        for spec in filter(None, self.grid_specs()):
            find(spec["target"], "score_lab.samplers", "grids.target", ("steps",))
            build(stepped(spec, 16) if counted(spec) else spec, "score_lab.samplers", "grids", needs=("steps",))
        for part, spec in zip(self.guidance, map(_guidance, self.guidance), strict=True):
            if isinstance(part, str) and spec is not None and ":" not in spec["target"] and not hasattr(guidance, spec["target"]):
                known = ", ".join(guidance.__all__)
                refuse("guidance", part, f"numbers (1: none), none, or a part of score_lab.guidance: {known}", guidance.__all__)
            if spec is not None:
                find(spec["target"], "score_lab.guidance", "guidance")
        for spec in filter(None, self.path_specs()):
            build(spec, "score_lab.paths", "paths", needs=("alpha", "sigma", "time_of"))

    def corrected(self) -> bool:
        """Whether there is a correction on the axis, so that spectra are needed."""
        return any(word != NONE for word in self.corrections)

    def fine_steps(self) -> int:
        """Steps of the reference solution; 0: none."""
        return max(LEAST_REFERENCE, 8 * max(self.nfe)) if self.reference_steps is None else self.reference_steps

    def solver_specs(self) -> list[dict[str, Any]]:
        """The solvers with every varied field of theirs."""
        return self._varied("solver", [_aliased(spec_of(s, "solvers")) for s in self.solvers])

    def grid_specs(self) -> list[dict[str, Any] | None]:
        """The grids, None for the model's own, with every varied field of theirs."""
        own = [None] if "own" in self.grids else []
        return own + self._varied("grid", [spec_of(g, "grids") for g in self.grids if g != "own"])

    def path_specs(self) -> list[dict[str, Any] | None]:
        """The paths, None for the model's own."""
        return [None if p in ("own", None) else spec_of(p, "paths") for p in self.paths]

    def ranked_by(self, model: Model) -> str:
        """The column that ranks the samplers of ``model``; ConfigError for one that it does not have."""
        known = [c for c in RANKABLE if c in (*model.truth.columns, "solver_error")]
        if self.rank_by and self.rank_by not in known:
            refuse("rank_by", self.rank_by, ", ".join(known), known)
        return self.rank_by or model.truth.columns[0]

    def _varied(self, part: str, specs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for name, values in self.vary.items():
            axis, _, field = name.partition(".")
            if axis not in ("solver", "grid") or not field:
                refuse("vary", name, "solver.FIELD or grid.FIELD", ("solver", "grid"))
            if axis == part:
                specs = vary(specs, field, values)
        return _once(specs)

    def systems(self) -> list[System]:
        """Every combination, each once, in the order of the axes."""
        axes = (self.models, self.path_specs(), [_guidance(g) for g in self.guidance], self.grid_specs(), self.solver_specs())
        words = tuple(dict.fromkeys(self.corrections))
        systems = [System(*parts, correction=word) for parts in itertools.product(*axes) for word in words]
        short: dict[tuple[str, str], list[Any]] = {}
        for system in systems:
            for axis, name in system.names().items():
                found = short.setdefault((axis, name), [])
                if getattr(system, axis) not in found:
                    found.append(getattr(system, axis))

        def shared(system: System) -> tuple[str, ...]:
            return tuple(axis for axis, name in system.names().items() if len(short[axis, name]) > 1)

        return [dataclasses.replace(system, whole=shared(system)) for system in systems]


def _aliased(spec: dict[str, Any]) -> dict[str, Any]:
    return {**spec, "target": ALIASES.get(spec["target"], spec["target"])}


def _guidance(part: Any) -> dict[str, Any] | None:
    if isinstance(part, int | float) and not isinstance(part, bool):
        return None if part == 1 else {"target": "CFG", "scale": float(part)}
    return None if part in (None, "none") else spec_of(part, "guidance")


def _once(specs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [spec for i, spec in enumerate(specs) if spec not in specs[:i]]
