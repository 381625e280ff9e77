"""A trace that ``jax.profiler`` wrote, as time by instruction: what of it devices and the host's compute threads spent in which.

An event's own time is its duration less that of the events inside it on the same line, so that a loop is not counted beside its body.
Threads add up: on two cores the sum can be twice the time that passed.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from score_lab.cost.hlo import Source

__all__ = ["Parts", "newest_trace", "slowest", "times_by_instruction"]

Parts = list[tuple[str, float, float]]
"""``(name, seconds, share)``, the slowest first."""


def newest_trace(folder: str | Path) -> Path | None:
    """The newest ``*.xplane.pb`` under ``folder``."""
    files = sorted(Path(folder).rglob("*.xplane.pb"), key=lambda file: file.stat().st_mtime)
    return files[-1] if files else None


def times_by_instruction(file: str | Path) -> dict[str, float]:
    """Nanoseconds by instruction, of every event that says of which (``hlo_op``)."""
    import jax

    times: Counter = Counter()
    trace = jax.profiler.ProfileData.from_file(str(file))  # its planes, lines and events are views of it, and end with it
    with warnings.catch_warnings():  # jaxlib's types lack a __module__, which Python deprecates; raised, it would end the process
        warnings.simplefilter("ignore", DeprecationWarning)
        for plane in trace.planes:
            for line in plane.lines:
                times.update(own_times(_events(line)))
    return times


def _events(line: Any) -> Iterable[tuple[str, float, float]]:
    for event in line.events:
        name = next((value for key, value in event.stats if key == "hlo_op"), None)
        if name is not None:
            yield str(name), event.start_ns, event.duration_ns


def own_times(events: Iterable[tuple[str, float, float]]) -> dict[str, float]:
    """``(name, start, duration)`` of one line -> the sum of own times by name."""
    times: Counter = Counter()
    open_: list[tuple[str, float]] = []  # name and end of the events around
    for name, start, duration in sorted(events, key=lambda e: (e[1], -e[2])):
        while open_ and open_[-1][1] <= start:
            open_.pop()
        if open_:
            times[open_[-1][0]] -= min(duration, open_[-1][1] - start)
        times[name] += duration
        open_.append((name, start + duration))
    return times


def slowest(times: Mapping[str, float], where: Mapping[str, Source], most: int = 10) -> Parts:
    """The ``most`` places with the largest times (an instruction without a source is a place of its own name, without its number)."""
    places: Counter = Counter()
    for name, nanoseconds in times.items():
        source = where.get(name)
        places[str(source) if source and source.place else name.rstrip("0123456789").rstrip(".")] += nanoseconds
    total = sum(times.values())
    return [(name, spent / 1e9, spent / total) for name, spent in places.most_common(most)] if total else []
