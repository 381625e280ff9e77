"""What experiments.digits makes of a trained workdir: the table of paths and samplers, the look at the mismatch, pictures, and one page."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.counting import Line
from experiments.launcher import again
from experiments.system import System, examples, labels_of, sampling_of, system
from score_lab.build import refuse
from score_lab.evaluation import Reference, Table
from score_lab.mismatch import DataMoments, Look, NormRecorder, first_look
from score_lab.mismatch.study.words import READ_IT, looked
from score_lab.report import Page, save_film, save_loss, save_mismatch, save_overview, save_samples
from score_lab.samplers import StateRecorder, sample, sample_chunked
from score_lab.training import Loaded, Parts, load
from score_lab.training.metrics import read_metrics

__all__ = ["Gallery", "check_labelled"]

CHUNK = 125
"""Samples in one compiled call of the table: what keeps a small network in a CPU's cache."""
AT_ONCE = 2
"""Cells that are sampled side by side: one compiles while another runs."""
FILM = 4
"""Samples on the film."""


def check_labelled(parts: Parts) -> None:
    """Refuses data that are no labelled images, and a network that is not told their labels."""
    if len(parts.spec.shape) != 3 or not parts.spec.num_classes:
        refuse(
            "config.data.target",
            parts.config["data"]["target"],
            f"labelled images: these have shape {parts.spec.shape} and {parts.spec.num_classes} classes",
        )
    if not getattr(parts.network, "num_classes", parts.spec.num_classes):
        refuse("config.network.num_classes", 0, f"{parts.spec.num_classes}, the classes of the data: the table asks for samples by label")


class Gallery:
    """A trained workdir with its data, and what was found so far."""

    def __init__(self, workdir: Path, loaded: Loaded, n: int, short: bool):
        self.workdir, self.loaded, self.n, self.short = workdir, loaded, n, short
        self.train, self.test = examples(loaded, "train"), examples(loaded, "test")
        self.reference = Reference.fit(*self.train, *self.test)
        self.moments = DataMoments.of(self.train[0])
        self.table = Table(self.reference.criteria(), self.reference.describe())
        self.label = labels_of(loaded.parts.network.num_classes, n)["label"]
        self.samples: dict[str, np.ndarray] = {}
        self.seconds: dict[tuple[str, str], float] = {}
        self.looks: dict[str, Look] = {}
        self.film: Any = None

    @classmethod
    def open(cls, workdir: Path, n: int, short: bool = False) -> Gallery:
        """The newest checkpoint of ``workdir``; its data are read and the classifier is fitted."""
        return cls(workdir, load(workdir), n, short)

    def system(self, path: dict | None, sampler: dict, grid: dict, steps: int) -> System:
        """The system of a cell: the one network on ``path`` (None: its own)."""
        sampling = sampling_of(self.loaded) | {
            "path": path,
            "sampler": sampler,
            "grid": grid | {"num_steps": steps},
            "guidance": None,
        }
        return system(self.loaded, sampling)

    def draw(self, run: System, n: int, recorder: Any = None, seed: int = 0):
        """``n`` samples of all classes in turn, in one compiled call."""
        return sample(
            run.denoiser, run.sampler, run.grid, (n, *self.loaded.spec.shape), jax.random.key(seed),
            cond={"label": self.label[:n]}, recorder=recorder,
        )  # fmt: skip

    def sample_table(self, paths: dict, samplers: dict, grid: dict, same: dict) -> None:
        """One row per path and sampler from the one network, with a progress line; ``same[path, sampler]`` is another name of a sampler
        of the table, drawn once."""
        cells = [(path, name) for path in paths for name in samplers]

        def drawn(path: str, name: str):
            (spec, steps), begun = samplers[name], time.time()
            run = self.system(paths[path], spec, grid, steps)
            samples = sample_chunked(
                run.denoiser, run.sampler, run.grid, (self.n, *self.loaded.spec.shape), jax.random.key(0),
                cond={"label": self.label}, chunk=min(CHUNK, self.n),
            )  # fmt: skip
            self.seconds[path, name] = time.time() - begun
            return samples

        once = [f"{name} on {path} is {other} to the last step: drawn once" for (path, name), other in same.items()]
        self.table.notes = [*self.table.notes, *once]
        start, line = time.time(), Line()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            runs = {cell: pool.submit(drawn, *cell) for cell in cells if cell not in same}
            for k, (path, name) in enumerate(cells):
                samples = runs[path, same.get((path, name), name)].result()
                self.samples.setdefault(path, samples.x)
                names = {"path": path, "sampler": name, "NFE": round(float(np.mean(samples.nfe))), "n": self.n}
                self.table.add(names, self.reference.measure(samples.x, self.label))
                left = (time.time() - start) / (k + 1) * (len(cells) - k - 1)
                line(f"sampling {k + 1}/{len(cells)}: {name} on {path}, {left:.0f} s left", last=k + 1 == len(cells))
        print(
            f"\none network, trained on {type(self.loaded.denoiser.path).__name__}, sampled on every path\n\n{self.table.text()}\n",
            flush=True,
        )
        print(self.times(paths, samplers), flush=True)

    def times(self, paths: dict, samplers: dict) -> str:
        """One line: what every cell that was drawn took, by sampler, in the order of the paths."""
        by = {name: [f"{self.seconds[path, name]:.1f}" for path in paths if (path, name) in self.seconds] for name in samplers}
        spent = ", ".join(f"{name} {' '.join(seconds)}" for name, seconds in by.items())
        return f"seconds for a cell's {self.n} samples, compiled and drawn, {AT_ONCE} cells at a time: {spent}"

    def look_at_mismatch(self, samplers: dict, looks: tuple, grid: dict) -> None:
        """The variance ratio and effective log-SNR per network call on the network's own path, and the film of the second look."""
        n = min(256 if self.short else 512, self.n, len(self.train[0]))
        print(
            f"the SNR mismatch, call by call, {n} trajectories on {type(self.loaded.denoiser.path).__name__} "
            "(R: variance of the states over the path's)"
        )

        def look(name: str, steps: int) -> tuple[int, Look]:
            run = self.system(None, samplers[name][0], grid, steps)
            samples = self.draw(run, n, NormRecorder(self.moments.mean))
            return round(float(np.mean(samples.nfe))), first_look(samples.record, run.denoiser.path, self.moments, self.train[0])

        with ThreadPoolExecutor(AT_ONCE) as pool:
            film = pool.submit(lambda: self.draw(self.system(None, samplers["DDIM"][0], grid, 50), FILM, StateRecorder(FILM)))
            for (name, _), (nfe, found) in zip(looks, pool.map(look, *zip(*looks, strict=True)), strict=True):
                self.looks[f"{name}, {nfe} NFE"] = found
                print("  " + looked(f"{name}, {nfe} NFE", found), flush=True)
            self.film = film.result()

    def write(self) -> Path:
        """Pictures, the table as CSV and JSON, the samples, and the page; returns the page's file."""
        at, path = self.workdir, self.loaded.denoiser.path
        (at / "table.csv").write_text(self.table.csv())
        (at / "table.json").write_text(self.table.json())
        np.savez(at / "samples.npz", label=self.label, **self.samples)
        own = type(path).__name__
        panels = {f"{name} (trained on)" if name == own else name: x for name, x in self.samples.items()}
        samples = save_samples(at / "samples.png", panels, self.label, title="one network, sampled on every path: a row per class")
        final = np.asarray(self.film.x)
        film = save_film(
            at / "film.png", self.film.record, path, final, title="from noise to digit: states, and what the network makes of them"
        )
        save_overview(at / "overview.png", panels, self.label, self.film.record, path, final)
        looks = save_mismatch(at / "snr_mismatch.png", self.looks, own)
        loss = save_loss(at / "loss.png", read_metrics(at))
        page = Page(
            "score_lab: digits",
            f"{self.loaded.step} steps of {self.loaded.config['network']['target']} on {own}; one network, any path, any sampler.",
        )
        page.section("Samples").picture(samples, "Samples by class, the same network on every path")
        page.section("From noise to digit").picture(film, "DDIM, 50 steps: the state above, the network's prediction of the digit below")
        page.section("What they are worth").table(self.table)
        words = [looked(name, found) for name, found in self.looks.items()]
        page.section("Do the states have the noise level that the network is told?", *READ_IT, *words).picture(
            looks, "The SNR mismatch, call by call"
        )
        page.section("Loss").picture(loss, "Training and held-out loss")
        page.commands(
            [
                again("digits", ["--workdir", str(at)]),
                again("snr_mismatch", ["--workdir", str(at), "--solvers", "DDIM", "--nfe", "5,10,50"]),
            ]
        )
        return page.write(at / "report.html")
