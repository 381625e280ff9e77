"""From a workdir and a command line to what ``sample`` takes: the denoiser on its path with guidance, the sampler, the grid, the labels."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from experiments import overrides
from experiments.gamma import lacks_table, table_of, with_table
from experiments.sampling import build_sampling, check_guidance, completed, options_of, section_of, with_steps
from score_lab.build import build, refuse
from score_lab.data import DataSpec
from score_lab.data.source import gather
from score_lab.samplers.chunks import bytes_of
from score_lab.specs import literal
from score_lab.training import Loaded, load
from score_lab.training.options import data_options

__all__ = ["System", "add_options", "average_of", "examples", "labels_of", "open_system", "sampling_of", "step_of", "system"]


@dataclasses.dataclass(frozen=True)
class System:
    """A denoiser, a sampler and a grid, with what the command line says of the samples."""

    denoiser: Any
    sampler: Any
    grid: Any
    sampling: dict[str, Any]
    spec: DataSpec
    cond: dict[str, np.ndarray] | None = None
    n: int = 64
    seed: int = 0
    chunk: int | str = 256
    step: int = 0
    ema: float | None = None

    @property
    def name(self) -> str:
        """For example ``Heun on LinearFlow``."""
        return f"{type(self.sampler).__name__} on {type(self.denoiser.path).__name__}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that every launcher around a workdir shares; parts are overridden as ``--sampler=NAME --sampler.FIELD=VALUE``."""
    parser.add_argument("--workdir", required=True, help="a run of experiments.train")
    parser.add_argument("--n", type=int, help="samples")
    parser.add_argument("--seed", type=int, help="of the samples")
    parser.add_argument("--labels", help="all (default), one, or some as 3,8; -1 is no label")
    parser.add_argument("--steps", help="num_steps of the grid")
    parser.add_argument("--clip", action="store_true", help="outside the trained log-SNR range, tell the network the nearest trained level")
    parser.add_argument("--extrapolate", action="store_true", help="outside the trained log-SNR range, tell the network the true level")
    parser.add_argument("--chunk", type=literal, help="samples in one compiled call, or the memory that it may take: 2GiB")
    parser.add_argument("--ema", help="decay or width of the average to use, or none for the parameters themselves")
    parser.add_argument("--step", help="checkpoint to use: a step, or best (default: the newest)")
    parser.epilog = (
        "parts: --path=VP --sampler='DDIM(eta=0.5)' or --sampler=DDIM --sampler.eta=0.5 --grid=Karras "
        "--grid.num_steps=20 --guidance.scale=2 (any field)"
    )


def open_system(args: argparse.Namespace, changes: list[tuple[str, Any]]) -> tuple[System, Loaded]:
    """The workdir's denoiser and its ``sampling`` section with the command line on top, and the run that was loaded; ConfigError names what
    does not fit."""
    for name, least in (("n", 1), ("chunk", 1), ("seed", 0)):
        value = getattr(args, name)
        if isinstance(value, str):
            bytes_of(value, f"--{name}")
        elif value is not None and (type(value) is not int or value < least):
            refuse(f"--{name}", value, f"a whole number, at least {least}" + (", or memory as 2GiB" if name == "chunk" else ""))
    loaded = open_workdir(args)
    given = {name: getattr(args, name) for name in ("n", "seed", "chunk") if getattr(args, name) is not None}
    before = sampling_of(loaded)
    given |= {name: True for name in ("clip", "extrapolate") if getattr(args, name)}
    sampling = overrides.apply(before, changes, {"path": loaded.config["path"]}) | given
    sampling["grid"] = completed(sampling["grid"] or {}, before["grid"])
    if args.steps is not None:
        sampling["grid"] = with_steps(sampling["grid"], whole("--steps", args.steps))
    options, spec = options_of(sampling), sampling["sampler"]
    if lacks_table(spec):  # whatever is wrong is told before anything is measured
        system(loaded, sampling | {"sampler": with_table(spec, loaded)})
        table = table_of(loaded, Path(args.workdir), lambda: examples(loaded, "train"))
        sampling["sampler"] = with_table(spec, loaded, table)
    run = system(loaded, sampling)
    classes = getattr(loaded.parts.network, "num_classes", loaded.spec.num_classes)
    cond = labels_of(classes, options.n, args.labels)
    chunk = options.chunk if isinstance(options.chunk, str) else min(options.chunk, options.n)
    return dataclasses.replace(run, cond=cond, n=options.n, seed=options.seed, chunk=chunk), loaded


def open_workdir(args: argparse.Namespace) -> Loaded:
    """``load(--workdir)`` with --ema and --step."""
    return load(args.workdir, ema=average_of(args.ema), step=step_of(args.step))


def average_of(text: str | None) -> Any:
    """What ``load`` takes as ``ema`` for one word of --ema."""
    ema = 0 if text is None else literal(text.capitalize() if text.lower() == "none" else text)
    if not (ema is None or type(ema) in (int, float)):
        refuse("--ema", text, "a decay or width as 0.05, a position as 0, or none for the parameters themselves")
    return ema


def step_of(text: str | None) -> Any:
    """What ``load`` takes as ``step`` for --step."""
    step = literal(text or "None")
    return step if type(step) is int or step is None else text  # load says which there are


def whole(name: str, text: str) -> int:
    """A whole number from the command line."""
    value = literal(str(text))
    return value if type(value) is int else refuse(name, text, "a whole number")


def sampling_of(loaded: Loaded) -> dict[str, Any]:
    """The configuration's ``sampling`` section over the defaults, every part a dict."""
    return section_of(loaded.config)


def system(loaded: Loaded, sampling: dict[str, Any]) -> System:
    """The system that ``sampling`` describes around ``loaded.denoiser``, checked."""
    check_guidance(sampling, loaded.parts)
    denoiser, sampler, grid = build_sampling(sampling, loaded.denoiser)
    return System(denoiser, sampler, grid, sampling, loaded.spec, step=loaded.step, ema=loaded.ema)


def labels_of(classes: int, n: int, asked: str | None = None) -> dict[str, np.ndarray] | None:
    """``{"label": (n,)}``: all classes in turn, or the labels asked for in turn; None for a network without labels (``classes`` 0)."""
    if not classes:
        return None if asked in (None, "all") else refuse("--labels", asked, "nothing: the network was trained without labels")
    chosen = list(range(classes)) if asked in (None, "all") else [literal(v) for v in str(asked).split(",")]
    for label in chosen:
        if type(label) is not int or not -1 <= label < classes:
            refuse("--labels", label, f"0 to {classes - 1}, -1 for no label, or all")
    return {"label": np.resize(np.asarray(chosen, np.int32), n)}


def examples(loaded: Loaded, split: str, most: int = 10_000) -> tuple[np.ndarray, np.ndarray | None]:
    """``x0`` (n, *shape) and labels (n,) or None of a split of the run's data, at most ``most``, evenly spread."""
    source = build(data_options(loaded.config)[0], "score_lab.data", "config.data")
    records = source(split)
    rows = np.unique(np.linspace(0, len(records) - 1, min(most, len(records))).astype(np.int64))
    batch = source.preprocess(gather(records, rows))
    return np.asarray(batch["x0"]), np.asarray(batch["label"]) if "label" in batch else None
