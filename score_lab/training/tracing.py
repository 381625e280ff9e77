"""``config.training.profile = N``: a JAX trace of N steps in WORKDIR/profile, and the slowest parts of them in the terminal.

The first dispatch is compiled and is not traced; the N steps after it are, in whole dispatches (fewer where the run ends before).  What is
computed does not change.  The trace can be looked at with TensorBoard's profile plugin or in Perfetto; which line of our source an
instruction comes from is read in the compiled program, which is compiled a second time for that.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from score_lab.cost.hlo import sources
from score_lab.cost.trace import Parts, newest_trace, slowest, times_by_instruction
from score_lab.training.metrics import say
from score_lab.types import PyTree

__all__ = ["Traced", "words"]


class Traced:
    """``dispatch`` with a trace of ``steps`` steps, from its second call on, in ``folder``; a context, which ends one that is under way.

    Args:
      left: steps of the run from here on.
      steps: to trace; 0 is none, and ``dispatch`` alone.
    """

    def __init__(self, dispatch: Callable, folder: Path, steps: int, left: int):
        self._dispatch, self._folder, self._steps, self._left = dispatch, folder, steps, left
        self._calls, self._done, self._under_way = 0, 0, False
        self._text = ""

    def __call__(self, state: PyTree, batches: PyTree) -> tuple[PyTree, dict[str, jax.Array]]:
        """``dispatch(state, batches)``."""
        if self._steps == 0 or self._done >= self._steps:
            return self._dispatch(state, batches)
        if self._calls and not self._under_way:
            self._begin(state, batches)
        state, figures = self._dispatch(state, batches)
        count = len(figures["loss"])
        self._calls += 1
        self._left -= count
        if not self._under_way:
            jax.block_until_ready(figures)
            return state, figures
        self._done += count
        if self._done >= self._steps or self._left <= 0:
            jax.block_until_ready((state, figures))
            self._end()
        return state, figures

    def __enter__(self) -> Traced:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._under_way:
            self._end()

    def _begin(self, state: PyTree, batches: PyTree) -> None:
        self._text = self._dispatch.lower(state, batches).compile().as_text()
        self._folder.mkdir(parents=True, exist_ok=True)
        jax.profiler.start_trace(str(self._folder))
        self._under_way = True

    def _end(self) -> None:
        jax.profiler.stop_trace()
        self._under_way, self._steps = False, self._done
        file = newest_trace(self._folder)
        if file is None:
            return
        for line in words(slowest(times_by_instruction(file), sources(self._text)), self._done):
            say(line)
        say(f"{file}: the trace of {self._done} steps")


def words(parts: Parts, steps: int) -> list[str]:
    """One line per part: its share of the time, milliseconds a step, its name."""
    if not parts:
        return ["the trace says nothing of instructions: none are named"]
    head = f"the slowest parts of {steps} steps, their share of the time and ms a step, threads and devices added up:"
    return [head, *(f"  {100 * share:5.1f} %  {1e3 * seconds / steps:9.3f}  {name}" for name, seconds, share in parts)]
