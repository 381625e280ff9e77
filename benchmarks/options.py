"""What a run of the benchmarks was asked for, and the solvers that it chose from the catalogue."""

from __future__ import annotations

import dataclasses
from typing import Any

from score_lab.build import refuse
from score_lab.samplers import CATALOGUE

__all__ = ["NETWORKS", "Options"]

NETWORKS = ("mlp", "dit8", "dit32", "unet8", "unet32")


@dataclasses.dataclass(frozen=True)
class Options:
    """``pairs``: interleaved pairs behind every ratio; ``solvers``: parts of names or families of the catalogue; ``peers``: parts of the
    names of peers' runs; ``networks``: those that peers are run on, or that are trained.  Empty: all.  ``batch``: examples of a training
    step; ``toy``: the benchmarks of an accelerator at toy size, on whatever there is."""

    pairs: int = 20
    solvers: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    batch: int = 64
    toy: bool = False

    def check(self) -> None:
        """At least 20 pairs, and solvers that are there."""
        if self.pairs < 20:
            refuse("--pairs", self.pairs, "at least 20")
        if self.batch < 1:
            refuse("--batch", self.batch, "an int of at least 1")
        for word in self.solvers:
            if not _matching(word):
                names = sorted({*CATALOGUE, *(entry.family for entry in CATALOGUE.values())})
                refuse("--solvers", word, f"a name, a family, or a part of one: {'; '.join(names)}", names)
        for name in self.networks:
            if name not in NETWORKS:
                refuse("--networks", name, ", ".join(NETWORKS), NETWORKS)

    def training(self, there: tuple[str, ...]) -> tuple[str, ...]:
        """Of the networks ``there`` those that were chosen."""
        return tuple(name for name in there if not self.networks or name in self.networks)

    def every(self) -> dict[str, Any]:
        """The chosen solvers by name, in the catalogue's order."""
        wanted = {name for word in self.solvers for name in _matching(word)} if self.solvers else set(CATALOGUE)
        return {n: e.sampler for n, e in CATALOGUE.items() if n in wanted}

    def fixed_step(self) -> dict[str, Any]:
        """Those of fixed steps (an adaptive one has ``integrate``: its steps are its own)."""
        return {name: sampler for name, sampler in self.every().items() if not hasattr(sampler, "integrate")}


def _matching(word: str) -> list[str]:
    """The solver of that name; else those whose name or family contains ``word`` (capitals do not matter)."""
    if word in CATALOGUE:
        return [word]
    return [name for name, entry in CATALOGUE.items() if word.lower() in name.lower() or word.lower() in entry.family.lower()]
