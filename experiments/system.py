"""From a loaded workdir and a ``sampling`` section to what ``sample`` takes: the denoiser on its path with guidance, the sampler and the grid."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from score_lab.build import build, refuse
from score_lab.guidance import CFG
from score_lab.samplers.base import Sampler
from score_lab.samplers.grids import Grid
from score_lab.targets import loses_signal

STEPLESS = ("Times",)


@dataclasses.dataclass(frozen=True)
class System:
    """What ``sample`` takes, and how it is called in a table."""

    denoiser: Any
    sampler: Sampler
    grid: Grid

    @property
    def name(self) -> str:
        """For example ``Heun on LinearFlow``."""
        return f"{type(self.sampler).__name__} on {type(self.denoiser.path).__name__}"


def system(loaded: Any, sampling: dict[str, Any]) -> System:
    """Builds the system that ``sampling`` describes around ``loaded.denoiser``; ConfigError names the field that does not fit."""
    denoiser = loaded.denoiser
    clip = bool(sampling.get("clip") or False)
    path = build(sampling["path"], "score_lab.paths", "sampling.path") if sampling.get("path") else denoiser.path
    denoiser = denoiser.on(path, clip=clip) if sampling.get("path") else dataclasses.replace(denoiser, clip=clip)
    sampler = build(sampling["sampler"], "score_lab.samplers", "sampling.sampler")
    grid = build(_started(sampling["grid"], denoiser), "score_lab.samplers", "sampling.grid")
    guidance = dict(sampling.get("guidance") or {})
    if guidance:
        spec = {"target": "CFG"} | guidance
        denoiser = build(spec, "score_lab.guidance", "sampling.guidance", denoiser=denoiser)
    return System(denoiser, sampler, grid)


def _started(spec: dict[str, Any], denoiser: Any) -> dict[str, Any]:
    """A grid for a network that says nothing of x0 at zero SNR starts at its lowest trained log-SNR, where nothing else is said."""
    spec = {"target": spec} if isinstance(spec, str) else dict(spec)
    low = denoiser.log_snr_range[0]
    trained_on = denoiser.trained_on if denoiser.trained_on is not None else denoiser.path
    if spec["target"] in ("UniformTime", "UniformLogSNR") and np.isfinite(low) and loses_signal(denoiser.target, trained_on):
        spec.setdefault("start", max(low, float(denoiser.path.log_snr(np.ones(())))))
    return spec


def conditions(spec: Any, n: int, labels: Any, guided: bool = False) -> dict[str, np.ndarray] | None:
    """``{"label": (n,)}`` for a data set of ``spec.num_classes``: all classes in turn, or the given labels in turn; None where there are none."""
    classes = spec.num_classes
    if labels is None and not classes:
        if guided:
            refuse("sampling.guidance", "classifier-free guidance", "a network that was trained with labels; this one has none")
        return None
    if not classes:
        refuse("--labels", labels, "nothing: the network was trained without labels")
    chosen = list(range(classes)) if labels in (None, "all") else [int(v) for v in np.atleast_1d(labels)]
    for label in chosen:
        if not -1 <= label < classes:
            refuse("--labels", label, f"0 to {classes - 1}, -1 for none, or all")
    return {"label": np.resize(np.asarray(chosen, np.int32), n)}


def guided(denoiser: Any) -> bool:
    """Whether classifier-free guidance is part of the denoiser."""
    return isinstance(denoiser, CFG)
