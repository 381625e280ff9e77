"""What every denoiser around a denoiser shares: it lives on the inner path, is trained where the inner one is, and moves with it."""

from __future__ import annotations

import dataclasses
from typing import Any

from score_lab.paths.base import GaussianPath

__all__ = ["Wrapper"]


class Wrapper:
    """Base of a denoiser with a field ``denoiser``: ``path`` and ``on`` are the inner one's; ``sample`` asks the innermost for its
    range.
    """

    @property
    def path(self) -> GaussianPath:
        """The path of the states."""
        return self.denoiser.path

    def on(self, path: GaussianPath, **kwargs) -> Any:
        """The same wrapper around ``denoiser.on(path)``."""
        return dataclasses.replace(self, denoiser=self.denoiser.on(path, **kwargs))

    def check(self) -> None:
        """A wrapper without hyper-parameters has nothing to refuse."""

    def check_steps(self, steps: Any, path: GaussianPath) -> None:
        """``check`` of this wrapper and of those inside it, on every use."""
        self.check()
        if hasattr(self.denoiser, "check_steps"):
            self.denoiser.check_steps(steps, path)

    def specialise(self) -> Any:
        """The wrapper around the inner denoiser's own cheaper form."""
        inner = self.denoiser
        return dataclasses.replace(self, denoiser=inner.specialise()) if hasattr(inner, "specialise") else self
