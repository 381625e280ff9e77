"""What every sampler around a sampler shares: it declares the inner one's facts, and refuses an inner one that cannot take what it does.

A correction that moves the state between two steps is refused around a sampler whose memory holds states (UniPC, SA-Solver, a singlestep
solver on someone else's grid): it would go on from the one that it remembers.  Memories of predictions, of x0, eps or slopes, do not mind.
A sampler from outside the package with a memory says so: ``remembers = "predictions"``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from score_lab.build import refuse
from score_lab.samplers import ERSDE, PLMS, PNDM, AdamsBashforth, DPMSolverMultistep

__all__ = ["Around"]

PREDICTIONS = (AdamsBashforth, DPMSolverMultistep, ERSDE, PLMS, PNDM)
"""The samplers whose carry holds predictions only."""


class Around:
    """Base of a sampler with a field ``sampler``.  ``most_calls``, ``memoryless``: what it can be put around; ``moves_states``: whether it
    changes the state between steps."""

    moves_states = True
    most_calls: int | None = None
    memoryless = False

    @property
    def order(self) -> int:
        """The inner sampler's; a correction whose constants do not vanish with the step size lowers it."""
        return self.sampler.order

    @property
    def calls(self) -> int:
        """The inner sampler's."""
        return self.sampler.calls

    @property
    def memory(self) -> int:
        """The inner sampler's."""
        return self.sampler.memory

    @property
    def remembers(self) -> str:
        """What the inner sampler's memory holds: "predictions", or "states" where it does not say."""
        return remembers(self.sampler)

    @property
    def stochastic(self) -> bool:
        """The inner sampler's."""
        return self.sampler.stochastic

    def specialise(self) -> Any:
        """The wrapper around the inner sampler's cheaper form."""
        inner = self.sampler
        return dataclasses.replace(self, sampler=inner.specialise()) if hasattr(inner, "specialise") else self

    def check(self) -> None:
        """The inner sampler's."""
        if hasattr(self.sampler, "check"):
            self.sampler.check()

    def check_steps(self, steps: Any, path: Any) -> None:
        """Refuses, by name, a sampler that chooses its own levels, or whose memory or number of calls the correction cannot take."""
        self.check()
        mine, inner = type(self).__name__, type(self.sampler).__name__
        if not hasattr(self.sampler, "step"):
            refuse(f"{mine}.sampler", inner, "a sampler with steps: an adaptive solver chooses its own levels")
        if steps.ascends:
            refuse(f"{mine}.sampler", "an encoding", "a grid that runs from noise to data")
        if self.memoryless and self.sampler.memory:
            refuse(f"{mine}.sampler", inner, f"a one-step sampler: it remembers {self.sampler.memory} earlier step(s) at their own levels")
        if self.moves_states and self.sampler.memory and remembers(self.sampler) != "predictions":
            refuse(f"{mine}.sampler", inner, "a sampler that goes on from the state it is handed: this one remembers states")
        if self.most_calls is not None and self.sampler.calls > self.most_calls:
            refuse(f"{mine}.sampler", inner, f"a sampler of {self.most_calls} call a step, as every sample has a level of its own")
        if hasattr(self.sampler, "check_steps"):
            self.sampler.check_steps(steps, path)

    def init(self, x, steps, path):
        """The inner sampler's."""
        return self.sampler.init(x, steps, path)


def remembers(sampler: Any) -> str:
    """"predictions" or "states"."""
    return getattr(sampler, "remembers", "predictions" if isinstance(sampler, PREDICTIONS) or not sampler.memory else "states")
