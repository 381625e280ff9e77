"""From a configuration to the cubes of a decomposition: the network or the misspecified exact denoiser, its data, and what is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ablation_models import DRAWS
from experiments.counting import Line
from experiments.sampling import build_sampling, check_guidance
from experiments.system import examples, sampling_of
from score_lab.ablation.counting import blank_of, count_nfe, fit
from score_lab.ablation.keys import code_of, levels_of, model_digest, versions
from score_lab.build import ConfigError, build, refuse
from score_lab.evaluation import digest
from score_lab.mismatch import NormRecorder, Spectrum, covered, cube, decompose, variance_ratios, visited
from score_lab.mismatch.gain_and_noise import local_error
from score_lab.mismatch.inversion import on_host
from score_lab.mismatch.spectrum import BASES
from score_lab.mismatch.study import Records, spectrum_of
from score_lab.report.mismatch.decomposition_page import Part
from score_lab.samplers import sample
from score_lab.samplers.steps import steps_of
from score_lab.specs import literal, name_of, plain, spec_of, split, stepped
from score_lab.training import load

__all__ = ["Asked", "Setting", "opened", "taken_apart"]


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the command line asks for: ``solvers`` and evaluations ``nfe``, the ``basis`` of the bands (None: the data's), ``own`` path and
    grid (None: the network's), ``guidance``, the ``numbers`` n, most, seed, chunk and replicates, and the ``folder`` of the results."""

    solvers: list[dict[str, Any]]
    nfe: list[int]
    basis: str | None
    own: dict[str, dict[str, Any] | None]
    guidance: dict[str, Any] | None
    numbers: dict[str, int]
    folder: Path


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is taken apart: ``denoiser``, the ``exact`` one of the same data or None, data ``x0`` (n, *shape) with ``cond``, the ``section``
    that samples; ``law``: of training, (TimeLaw, path, log_snr_range, examples) or None."""

    asked: Asked
    denoiser: Any
    exact: Any
    x0: np.ndarray
    cond: dict[str, np.ndarray] | None
    spectrum: Spectrum
    section: dict[str, Any]
    stamp: str
    law: tuple | None
    notes: list[str]


def opened(config: Any, given: Mapping[str, Any]) -> Setting:
    """The configuration with the command line on top; ConfigError names what does not fit."""
    fields = {name: plain(value) for name, value in config.items()} | {name: v for name, v in given.items() if v is not None}
    model = {"workdir": fields["workdir"]} if fields.get("workdir") else fields["model"]
    numbers = {name: fields[name] for name in ("n", "most", "seed", "chunk", "replicates")}
    for name, least in (("n", 20), ("most", 4), ("seed", 0), ("chunk", 1), ("replicates", 20)):
        if type(numbers[name]) is not int or numbers[name] < least:
            refuse(f"--{name}", numbers[name], f"a whole number, at least {least}")
    words = fields["nfe"] if isinstance(fields["nfe"], list | tuple) else split(str(fields["nfe"]))
    nfe = [literal(str(v)) for v in words]
    if not nfe or any(type(v) is not int or v < 1 for v in nfe):
        refuse("--nfe", fields["nfe"], "whole numbers, at least 1, with commas")
    solvers = fields["solvers"] if isinstance(fields["solvers"], list | tuple) else split(fields["solvers"])
    specs = [spec_of(s, "--solvers") for s in solvers] or refuse("--solvers", fields["solvers"], "at least one sampler")
    if fields["basis"] and fields["basis"] not in BASES:
        refuse("--basis", fields["basis"], ", ".join(BASES), tuple(BASES))
    guidance = None if fields["guidance"] == 1 else {"target": "CFG", "scale": fields["guidance"]}
    own = {name: None if fields[name] in ("own", None) else spec_of(fields[name], f"--{name}") for name in ("path", "grid")}
    folder = Path(fields["output"] or Path(model.get("workdir", "runs/decomposition")) / "decomposition")
    if folder.exists() and not folder.is_dir():
        refuse("--output", str(folder), "a folder, or a name that does not exist yet")
    asked = Asked(specs, nfe, fields["basis"], own, guidance, numbers, folder)
    return _trained(model, asked) if "workdir" in model else _exact(model, asked)


def _trained(model: Mapping[str, Any], asked: Asked) -> Setting:
    n = asked.numbers["n"]
    loaded = load(model["workdir"], ema=model.get("ema", 0), step=model.get("step"))
    section = sampling_of(loaded) | {"guidance": asked.guidance} | {k: spec for k, spec in asked.own.items() if spec is not None}
    check_guidance(section, loaded.parts)
    x, label = examples(loaded, "train")
    if n > len(x):
        refuse("--n", n, f"at most {len(x)}, the training examples that make as many true starts")
    classes = getattr(loaded.parts.network, "num_classes", loaded.spec.num_classes)
    cond = {"label": np.asarray(label[:n], np.int32)} if classes and label is not None else None
    law, config = getattr(loaded.parts.objective, "time_law", None), loaded.config
    seen = int(loaded.step * config["data"]["batch_size"])
    trained = None if law is None else (law, loaded.denoiser.path, loaded.denoiser.log_snr_range, seen)
    notes = [
        f"{model['workdir']}: {config['network']['target']} trained on {config['path']['target']}, checkpoint {loaded.step}.",
        "No exact denoiser is known: the network's part holds what these trajectories are by chance.",
    ]
    described = {name: config.get(name) for name in ("network", "target", "path", "denoiser", "objective")}
    stamp = model_digest(loaded.denoiser, described, loaded.spec.fingerprint)
    return Setting(asked, loaded.denoiser, None, x[:n], cond, _spectrum(x, asked), section, stamp, trained, notes)


def _exact(model: Mapping[str, Any], asked: Asked) -> Setting:
    own, n = asked.own, asked.numbers["n"]
    if "denoiser" not in model:
        refuse("model", model, "{'workdir': ...}, or {'denoiser': an exact denoiser, 'path': ..., 'wrong': {'eta': ..., 'tau': ...}}")
    if asked.guidance is not None:
        refuse("--guidance", asked.guidance["scale"], "1 (no guidance): the exact denoiser is told no labels")
    path = build(model.get("path", {"target": "VP"}), "score_lab.paths", "model.path", needs=("alpha", "sigma", "time_of"))
    described = {k: np.asarray(v, np.float32) if isinstance(v, list | tuple) else v for k, v in model["denoiser"].items() if k != "labels"}
    exact = build(described, "score_lab.analytic", "model.denoiser", needs=("posterior", "sample"), path=path)
    if own["grid"] is None:
        refuse("--grid", "own", "the name of a grid: an exact denoiser has none of its own")
    x = np.asarray(exact.sample(jax.random.key(asked.numbers["seed"] + 1), jnp.arange(max(DRAWS, n))))
    spectrum = _spectrum(x, asked)
    wrong = build({"target": "Misspecified", **model.get("wrong", {})}, "score_lab.analytic", "model.wrong", denoiser=exact,
                  mean=jnp.asarray(spectrum.mean, jnp.float32))  # fmt: skip
    notes = [f"An exact {model['denoiser']['target']} on {type(path).__name__} in place of a network, wrong by gain {1 + wrong.eta:g} and "
             f"noise of deviation {wrong.tau:g}: the network's part is that, and chance stands for itself."]  # fmt: skip
    stamp = model_digest(wrong, plain(model))
    section = {"path": own["path"], "grid": own["grid"], "guidance": None}
    return Setting(asked, wrong, exact, x[:n], None, spectrum, section, stamp, None, notes)


def _spectrum(x: np.ndarray, asked: Asked) -> Spectrum:
    basis = asked.basis or ("dct" if x.ndim == 4 else "pca")
    asked.folder.mkdir(parents=True, exist_ok=True)
    return spectrum_of(x, basis, asked.folder / f"spectrum_{basis}.npz")


def taken_apart(setting: Setting, records: Records, spec: Mapping[str, Any], budget: int) -> Part:
    """One solver at one budget: its decomposition, what the Gaussian surrogate predicts, and the levels that it visits."""
    own, numbers = setting.section["grid"], setting.asked.numbers

    def assembled(k: int | None, denoiser: Any = setting.denoiser, **changes: Any) -> tuple[Any, Any, Any]:
        return build_sampling({**setting.section, "sampler": spec, "grid": stepped(own, k), **changes}, denoiser)

    name, blank = name_of(spec), blank_of(setting.denoiser)
    one = None if setting.cond is None else {"label": np.zeros(1, np.int32)}

    def counted(k: int | None) -> float:
        return count_nfe(*assembled(k, blank), one)

    N = fit(counted, budget, 1.0 if setting.section["guidance"] is None else 2.0).steps
    if numbers["most"] < 4 * N:
        refuse("--most", numbers["most"], f"at least 4 N = {4 * N}: the limit of many steps is extrapolated from N, 2 N, 4 N ...")
    denoiser, sampler, grid = assembled(N)
    free = assembled(N, guidance=None)[0]
    exact = None if setting.exact is None else setting.exact.on(denoiser.path)
    same = {
        "model": setting.stamp, "spec": plain(spec), "data": digest(setting.x0), "spectrum": setting.spectrum.digest,
        **{k: numbers[k] for k in ("seed", "replicates", "n")}, "versions": versions(),
        "told": {part: plain(setting.section.get(part)) for part in ("path", "guidance", "clip", "extrapolate")},
        "code": code_of(sampler, denoiser, cube),
    }  # fmt: skip

    def kept(cell: tuple[str, str, int], make: Callable[[], np.ndarray]) -> np.ndarray:
        what = {**same, "cell": list(cell), "levels": levels_of(steps_of(assembled(cell[2])[2], denoiser.path))}
        return records.kept(what, lambda: {"log_ratio": make()})["log_ratio"]

    found = decompose(
        denoiser, sampler, lambda k: assembled(k)[2], setting.x0, setting.spectrum, jax.random.key(numbers["seed"]), N=N,
        N_max=numbers["most"], plain=None if setting.section["guidance"] is None else free, exact=exact, cond=setting.cond,
        replicates=numbers["replicates"], chunk=numbers["chunk"], kept=kept, progress=partial(_say, Line(), f"{name}, {N} steps"),
    )  # fmt: skip
    predicted, why = _predicted(sampler, lambda k: assembled(k)[2], denoiser.path, setting.spectrum, found)
    told = visited(sample(assembled(N, blank)[0], sampler, grid, (1, *setting.x0.shape[1:]), jax.random.key(0), cond=one,
                          recorder=NormRecorder()).record)  # fmt: skip
    covers = None
    if setting.law is not None:
        law, path, levels, seen = setting.law
        covers = covered(law, path, told, log_snr_range=levels, examples=seen)
    return Part(name, count_nfe(*assembled(N, blank), one), found, predicted, why, covers, _error(setting, denoiser, exact, grid))


def _error(setting: Setting, denoiser: Any, exact: Any, grid: Any) -> Any:
    """The model's gain and noise at the levels of the run that hold signal and noise; None where no exact denoiser is known."""
    if exact is None:
        return None
    t = np.asarray(steps_of(grid, denoiser.path).t, np.float64)
    alpha, sigma, _ = on_host(denoiser.path, t)
    key = jax.random.key(setting.asked.numbers["seed"] + 2)
    return local_error(denoiser, exact, setting.x0, t[(alpha > 1e-3) & (sigma > 0)], setting.spectrum, key,
                       replicates=setting.asked.numbers["replicates"])  # fmt: skip


def _predicted(sampler, grid, path, spectrum, found) -> tuple[np.ndarray | None, str]:
    """The discretisation (B + 1,) of a Gaussian with this spectrum and its exact denoiser, the total last; or None and the reason."""
    try:
        at = {k: variance_ratios(sampler, grid(k), path, spectrum)[-1] for k in {found.N, *found.cube.steps[-2:]}}
    except ConfigError as error:
        return None, str(error)
    V = spectrum.V(path, np.asarray([float(steps_of(grid(found.N), path).s[-1])]))[0] * spectrum.count
    whole = {k: np.append(v, np.log((V * np.exp(v)).sum() / V.sum())) for k, v in at.items()}
    coarse, fine = found.cube.steps[-2:]
    return whole[found.N] - cube.richardson(whole[coarse], whole[fine], coarse, fine, found.cube.order), ""


def _say(line: Line, name: str, done: int, of: int) -> None:
    line(f"{name}: cell {done}/{of}", last=done == of)
