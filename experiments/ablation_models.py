"""The models of an ablation, from workdirs and from exact laws: denoiser, what samples are ranked by, and the line to type that draws."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.gamma import exact_table, lacks_table, table_of, with_table
from experiments.launcher import again
from experiments.overrides import NESTED, PARTS
from experiments.probe import probe_of
from experiments.sampling import build_sampling, check_guidance
from experiments.system import examples, sampling_of
from score_lab.ablation import Images, Model, Points, Study, model_digest
from score_lab.build import build, refuse
from score_lab.mismatch import Spectrum
from score_lab.mismatch.study import Examples
from score_lab.objectives import NoiseLabelDropout
from score_lab.specs import literal, plain
from score_lab.training import load

__all__ = ["command_of", "open_models"]

SPECTRUM_N, SPECTRUM_SEED = 20_000, 2_000_003
"""Draws of an exact law of which its spectrum is measured, and their seed."""
DRAWS = 10_000
"""Of an exact law, in place of examples."""


def open_models(study: Study, ranked: bool = True, bands: bool | None = None) -> dict[str, Model]:
    """Every model of the study; ConfigError names what is missing.  ``truth`` of a model is what its samples are ranked by, or its
    ``Examples`` alone (of an exact law: draws of it).  With ``bands`` (by default where there is a correction) its data's spectrum."""
    bands, opened = study.corrected() if bands is None else bands, {}
    for name, spec in study.models.items():
        if not isinstance(spec, Mapping) or ("workdir" in spec) == ("denoiser" in spec):
            refuse(f"models.{name}", spec, "{'workdir': ...}, or {'denoiser': an exact denoiser, 'path': ...}")
        opened[name] = _trained(name, spec, study, ranked, bands) if "workdir" in spec else _exact(name, spec, study, ranked, bands)
    return opened


def _trained(name: str, spec: Mapping[str, Any], study: Study, ranked: bool, bands: bool) -> Model:
    loaded = load(spec["workdir"], ema=spec.get("ema", 0), step=spec.get("step"))
    base, config = sampling_of(loaded), loaded.config
    classes = getattr(loaded.parts.network, "num_classes", loaded.spec.num_classes) or 0
    x, label = examples(loaded, "train")
    spectrum = _spectrum(study, x, len(loaded.spec.shape) == 3) if ranked and bands else None
    truth = _against(name, loaded, study, x, label, spectrum) if ranked else Examples(x, label, loaded.spec.fingerprint)
    described = {key: config.get(key) for key in ("network", "target", "path", "denoiser", "objective")}

    def assemble(section: Mapping[str, Any], denoiser: Any):
        check_guidance(base | section, loaded.parts)
        return build_sampling(base | section, denoiser)

    def command(section: Mapping[str, Any]) -> str:
        return command_of(spec, base, section)

    def fitted(solver: Mapping[str, Any]) -> dict[str, Any]:
        if not lacks_table(solver):
            return dict(solver)
        return with_table(solver, loaded, table_of(loaded, Path(spec["workdir"]), lambda: (x, label)))

    note = f"{spec['workdir']}: {config['network']['target']} trained on {config['path']['target']}, checkpoint {loaded.step}."
    stamp = model_digest(loaded.denoiser, described, loaded.spec.fingerprint)
    data = None if spectrum is None else (x, {"label": label} if classes and label is not None else None)
    blind = isinstance(loaded.parts.objective, NoiseLabelDropout)
    probe = functools.cache(lambda: probe_of(x, Path(spec["workdir"]), study.probe)) if ranked and study.corrected() else None
    return Model(
        name, loaded.denoiser, tuple(loaded.spec.shape), stamp, truth, assemble, classes, base["grid"], note, command, spectrum, data,
        fitted=fitted, blind=blind, probe=probe,
    )  # fmt: skip


def _spectrum(study: Study, x: np.ndarray, images: bool) -> Spectrum:
    """Of training data: radial bands of the DCT for images, every principal axis its own band for points."""
    basis = study.basis or ("dct" if images else "pca")
    if basis == "dct" and not images:
        refuse("basis", basis, f"pca for points {x.shape[1:]}: dct is of images")
    return Spectrum.of(np.asarray(x, np.float32), basis, "each" if basis == "pca" else "radial")


def _against(name: str, loaded: Any, study: Study, x: np.ndarray, label: np.ndarray | None, spectrum: Spectrum | None) -> Images | Points:
    """What samples of a trained network are ranked by: its data."""
    x_test, label_test = examples(loaded, "test")
    images = len(loaded.spec.shape) == 3
    if not images and study.features != "PCA":
        refuse("features", study.features, f"nothing: {name} draws points of shape {loaded.spec.shape}, which have no feature space")
    if images:
        return Images.of(x, label, x_test, label_test, study.features, spectrum)
    return Points.of(x_test, x[: len(x_test)], None, known=False, spectrum=spectrum)


def _exact(name: str, spec: Mapping[str, Any], study: Study, ranked: bool, bands: bool) -> Model:
    path = build(spec.get("path", {"target": "VP"}), "score_lab.paths", f"models.{name}.path", needs=("alpha", "sigma", "time_of"))
    described = dict(spec["denoiser"])
    arrays = {key: np.asarray(value, np.float32) for key, value in described.items() if isinstance(value, list | tuple) and key != "labels"}
    if described.get("labels") is not None:
        arrays["labels"] = np.asarray(described["labels"], np.int32)
    denoiser = build({**described, **arrays}, "score_lab.analytic", f"models.{name}.denoiser", needs=("posterior", "sample"), path=path)
    classes = int(arrays["labels"].max()) + 1 if "labels" in arrays else 0
    base: dict[str, Any] = {"path": None, "guidance": None}
    spectrum = data = probe = None
    if ranked and bands:  # of draws of the law, as many as a data set has
        labels = {"label": np.resize(np.arange(classes, dtype=np.int32), SPECTRUM_N)} if classes else None
        index = jax.numpy.arange(SPECTRUM_N, dtype=jax.numpy.int32)
        drawn = np.asarray(denoiser.sample(jax.random.key(SPECTRUM_SEED), index, labels))
        spectrum, data = _spectrum(study, drawn, drawn.ndim == 4), (drawn, labels)
        probe = functools.cache(lambda: probe_of(drawn, Path(study.output), study.probe)) if study.output else None
    truth = _known(denoiser, study, classes, spectrum) if ranked else _drawn(denoiser, classes)
    shape = tuple(np.shape(truth.data if ranked else truth.x)[1:])
    note = f"{name}: exact {described['target']} on {type(path).__name__}: no network, so that every error is the sampler's."

    def assemble(section: Mapping[str, Any], denoiser: Any):
        return build_sampling(base | section, denoiser)

    @functools.cache
    def table() -> dict[str, list[float]]:
        drawn = _drawn(denoiser, classes)
        return exact_table(denoiser, drawn.x, None if drawn.label is None else {"label": drawn.label})

    def fitted(solver: Mapping[str, Any]) -> dict[str, Any]:
        return {**solver, **table()} if lacks_table(solver) else dict(solver)

    stamp = model_digest(denoiser, plain(spec))
    return Model(
        name, denoiser, shape, stamp, truth, assemble, classes, None, note, spectrum=spectrum, forward_data=data, fitted=fitted, probe=probe
    )  # fmt: skip


def _known(denoiser: Any, study: Study, classes: int, spectrum: Spectrum | None) -> Points:
    """As many draws of the law as are sampled, to be ranked by."""
    cond = {"label": np.concatenate([np.resize(np.arange(classes), study.n)] * len(study.seeds)).astype(np.int32)} if classes else None
    return Points.exact(denoiser, study.n * len(study.seeds), cond, spectrum=spectrum)


def _drawn(denoiser: Any, classes: int) -> Examples:
    """``DRAWS`` draws of the law, of all classes in turn."""
    label = np.resize(np.arange(classes, dtype=np.int32), DRAWS) if classes else None
    x = denoiser.sample(jax.random.key(1_000_003), jax.numpy.arange(DRAWS, dtype=jax.numpy.int32), {"label": label} if classes else None)
    return Examples(np.asarray(x), label)


def command_of(spec: Mapping[str, Any], base: Mapping[str, Any], section: Mapping[str, Any]) -> str:
    """The line to type that draws from the workdir of ``spec`` what ``section`` says over the workdir's own section ``base``."""
    words = ["--workdir", str(spec["workdir"])]
    words += [f"--{name}={spec[name]}" for name in ("ema", "step") if spec.get(name) is not None]
    words += [f"--{name}" for name in ("clip", "extrapolate") if section.get(name) and not base.get(name)]
    for part in PARTS:
        if section.get(part):
            words += [f"--{name}={value}" for name, value in _flags(part, section[part])]
        elif base.get(part):
            words.append(f"--{part}=none")
    return again("sample", words)


def _flags(name: str, spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    """``{"target": "Heun", "variable": {"target": "T"}}`` -> ``[("sampler", "Heun"), ("sampler.variable", "T")]``, names first."""
    found = [(name, str(spec.get("target", "CFG")))]
    for field, value in spec.items():
        if isinstance(value, Mapping) and "target" in value:
            (_, target), *rest = _flags(f"{name}.{field}", value)
            found += [(f"{name}.{field}" + ("" if field in NESTED else ".target"), target), *rest]
        elif field != "target":
            text = str(value)
            found.append((f"{name}.{field}", text if literal(text) == value else repr(value)))
    return found
