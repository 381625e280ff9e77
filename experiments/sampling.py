"""The ``sampling`` section of a configuration, and the denoiser, sampler and grid that it describes, checked before anything is compiled.

    config.sampling = {sampler, grid, path, guidance, n, seed, chunk, clip, extrapolate}

``sampler`` and ``grid`` are specifications ``{"target": ..., **fields}``; ``path`` (None: the path of training) is what is sampled on;
``guidance`` (None: none) is classifier-free guidance unless it names another target, or a list of such, the innermost first; the rest is
``SamplingOptions``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from experiments.overrides import NESTED, PARTS, named
from score_lab.build import ConfigError, build, find, makes, nearest, refuse
from score_lab.samplers.chunks import bytes_of
from score_lab.samplers.loop import check_run
from score_lab.specs import innermost, stepped, takes
from score_lab.targets import loses_signal
from score_lab.training import Parts

__all__ = ["SamplingOptions", "build_sampling", "check_guidance", "check_sampling", "completed", "options_of", "section_of", "with_steps"]

DEFAULT = {"sampler": {"target": "Heun"}, "grid": {"target": "UniformLogSNR", "num_steps": 25}}
"""Where a configuration does not say."""
KINDS = {
    "path": ("score_lab.paths", ("alpha", "sigma", "time_of")),
    "sampler": ("score_lab.samplers", ("order", "calls", "memory", "stochastic")),
    "grid": ("score_lab.samplers", ("steps",)),
    "guidance": ("score_lab.guidance", ("__call__", "on")),
}
"""Where a part of this kind is looked for, and what it has."""
MOST_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
    """The numbers of ``config.sampling``.

    Attributes:
      n: samples.
      seed: of the samples: sample i depends on it and i alone.
      chunk: samples in one compiled call, or the memory that it may take, as "2GiB".
      clip: outside the trained log-SNR range the network is told the nearest trained level, in place of an error.
      extrapolate: outside the trained range it is told the true level, in place of an error (EDM's sigma = 80).
    """

    n: int = 64
    seed: int = 0
    chunk: int | str = 256
    clip: bool = False
    extrapolate: bool = False

    def check(self) -> None:
        """Raises ConfigError naming the first field out of its range."""
        if isinstance(self.chunk, str):
            bytes_of(self.chunk, "chunk")
        for name, least in (("n", 1), ("chunk", 1), ("seed", 0)):
            if not isinstance(getattr(self, name), str) and getattr(self, name) < least:
                refuse(name, getattr(self, name), f"a whole number, at least {least}")
        if self.seed > MOST_SEED:
            refuse("seed", self.seed, f"a whole number, 0 to {MOST_SEED}")


def section_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config["sampling"]`` over the defaults, every part a dict or None; ConfigError for a key that nobody reads."""
    known = (*PARTS, *(field.name for field in dataclasses.fields(SamplingOptions)))
    section = DEFAULT | dict(config.get("sampling") or {})
    for name, value in section.items():
        if name not in known:
            refuse(f"config.sampling.{name}", value, f"{', '.join(known)}{nearest(name, known)}")
        if name in PARTS and isinstance(value, (bool, int, float) if name == "guidance" else (bool, int, float, list, tuple)):
            refuse(f"config.sampling.{name}", value, "a section {'target': NAME, **fields}, or NAME alone")
    return section | {part: named(section[part], f"config.sampling.{part}") for part in PARTS if isinstance(section.get(part), str)}


def options_of(section: Mapping[str, Any]) -> SamplingOptions:
    """The checked numbers of a section."""
    numbers = {name: value for name, value in section.items() if name not in PARTS}
    return build({"target": f"{__name__}:SamplingOptions", **numbers}, field="config.sampling")


def build_sampling(section: Mapping[str, Any], denoiser: Any) -> tuple[Any, Any, Any]:
    """``(denoiser, sampler, grid)``: the network on its path with guidance; ConfigError for parts that do not exist or do not go
    together.
    """
    options = options_of(section)
    if section.get("path"):
        denoiser = denoiser.on(_built("path", section["path"]))
    known = {field.name for field in dataclasses.fields(denoiser)}  # an exact denoiser has no range to leave
    denoiser = dataclasses.replace(denoiser, **{name: getattr(options, name) for name in ("clip", "extrapolate") if name in known})
    for part in ("sampler", "grid"):
        if not section[part]:
            refuse(f"sampling.{part}", section[part], f"the name of a {part} in score_lab.samplers, or 'my_package.my_module:Name'")
    sampler, grid = _built("sampler", section["sampler"]), _built("grid", _started(section["grid"], denoiser))
    for spec in wrappers(section):
        denoiser = _built("guidance", spec, denoiser=denoiser)
    check_run(denoiser, sampler, grid.steps(denoiser.path), denoiser.path)
    return denoiser, sampler, grid


def _built(part: str, spec: Mapping[str, Any], **context: Any) -> Any:
    """``build`` of one part; ConfigError for the name of one of another kind, with the flag of that kind."""
    room, needs = KINDS[part]
    _check_kind(part, spec.get("target") if isinstance(spec, Mapping) else None)
    for name in NESTED:
        if isinstance(spec, Mapping) and name in spec and _no_part(spec[name]):
            refuse(f"sampling.{part}.{name}", spec[name], "a section {'target': NAME, **fields}")
    return build(spec, room, f"sampling.{part}", needs=needs, **context)


def _no_part(value: Any) -> bool:
    """Whether ``value`` is neither the specification of a part nor an object that may be one."""
    return value is None or isinstance(value, (bool, int, float, str, list, tuple)) or isinstance(value, Mapping) and "target" not in value


def _check_kind(part: str, name: Any) -> None:
    """Refuses the name of a part of another kind."""
    if isinstance(name, str):
        kinds = [other for other, (home, has) in KINDS.items() if makes(_looked_up(name, home), has)]
        if kinds and part not in kinds:
            refuse(f"sampling.{part}.target", name, f"a {part}, and {name} is a {kinds[0]}: --{kinds[0]}={name}")


def _looked_up(name: str, room: str) -> Any:
    """What ``name`` is in ``room``, or None."""
    try:
        return find(name, room)
    except ConfigError:
        return None


def check_sampling(parts: Parts) -> None:
    """Refuses a ``config.sampling`` that could not be sampled with the network that ``parts`` is going to train."""
    section = section_of(parts.config)
    check_guidance(section, parts)
    if not hasattr(parts.objective, "path"):  # a learned path is not known yet
        build_sampling(section, parts.denoiser({"network": None, "objective": None}))


def check_guidance(section: Mapping[str, Any], parts: Parts) -> None:
    """Refuses guidance of a network without labels, or of one that has never seen an example without its label."""
    spec = next((w for w in wrappers(section) if w["target"] == "CFG" and w.get("scale", 1.0) != 1.0), None)
    if spec is None:
        return
    if not getattr(parts.network, "num_classes", parts.spec.num_classes):
        refuse("sampling.guidance.scale", spec["scale"], "1 (no guidance): the network has no labels (config.network.num_classes = 0)")
    if getattr(parts.objective, "label_dropout", None) == 0.0:
        refuse(
            "sampling.guidance.scale",
            spec["scale"],
            "1 (no guidance): the network has only seen labelled examples (config.objective.label_dropout = 0)",
        )


def with_steps(grid: Mapping[str, Any], num_steps: int) -> dict[str, Any]:
    """``grid`` with that many steps; of a grid around a grid (Churn), the inner one.  ConfigError for a grid that has no num_steps."""
    inner = innermost(grid)
    if not _takes(inner, "num_steps"):
        refuse("--steps", num_steps, f"nothing: {inner.get('target')} has no num_steps")
    return stepped(grid, num_steps)


def completed(grid: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """``grid``, named on the command line, with as many steps as the grid that it replaces where nothing says how many."""
    inner = innermost(grid)
    if "num_steps" in inner or not _takes(inner, "num_steps"):
        return dict(grid)
    return stepped(grid, innermost(before).get("num_steps", DEFAULT["grid"]["num_steps"]))


def _takes(grid: Mapping[str, Any], field: str) -> bool:
    """Whether the grid that is named has this field."""
    if "target" not in grid:
        return False  # refused when it is built
    _check_kind("grid", grid["target"])
    return takes(grid, field, "sampling.grid.target")


def wrappers(section: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``section["guidance"]`` as a list of specifications, the innermost first."""
    guidance = section.get("guidance") or []
    return [{"target": "CFG"} | dict(spec) for spec in (guidance if isinstance(guidance, (list, tuple)) else [guidance])]


def _started(spec: Mapping[str, Any], denoiser: Any) -> dict[str, Any]:
    """A network that says nothing of x0 at zero SNR starts at its lowest trained log-SNR, where the grid does not say otherwise."""
    if isinstance(spec.get("grid"), Mapping):
        return {**spec, "grid": _started(spec["grid"], denoiser)}
    low, end = denoiser.log_snr_range[0], float(denoiser.path.log_snr(jnp.ones(())))
    if end < low and _takes(spec, "start") and loses_signal(denoiser.target, denoiser.path):
        return {"start": low} | dict(spec)
    return dict(spec)
