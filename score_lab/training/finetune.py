"""Fine-tuning: a new run that starts from the parameters of another workdir.

    params(0) = drawn from the seed where a pattern of ``new`` matches the leaf's name, else the other run's;     averages(0) = params(0)

The optimizer begins anew.  A leaf that only one of the two has, or that has another shape there, is refused unless ``new`` names it.  What
the run came from is written into its record, with a fingerprint of the parameters: a run that goes on reads its own checkpoint and never
the other workdir.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from score_lab.build import ConfigError, build, nearest, refuse
from score_lab.training.names import check_patterns, matches, named
from score_lab.training.parts import Parts
from score_lab.training.restore import load

__all__ = ["InitFrom", "origin_of", "starting_leaves", "starts_from"]


@dataclasses.dataclass(frozen=True)
class InitFrom:
    """``config.init_from``.

    Attributes:
      workdir: of the other run.
      ema: which of its averages, as ``load`` takes it: a position, a decay or width, or None for the parameters themselves.
      step: of its checkpoint; None is the newest, "best" the one with the lowest held-out loss.
      new: patterns of the leaves that are drawn anew, for example ["network.conditioning.table"] for another number of classes.
    """

    workdir: str
    ema: int | float | None = 0
    step: int | str | None = None
    new: tuple = ()


def origin_of(parts: Parts) -> dict[str, Any]:
    """What the record says of where a new run of ``parts`` starts: ``workdir``, ``step``, ``ema`` (decay or width; None: the parameters),
    ``fingerprint`` of all parameters that are there, and the names of the leaves ``drawn`` anew.

    Raises ConfigError for a workdir or average that is not there, and naming the first leaf that does not fit.
    """
    options = _options(parts)
    source, leaves = _read(options)
    drawn = _drawn(named(parts.shapes()), leaves, options)
    return {
        "workdir": options.workdir,
        "step": source.step,
        "ema": source.ema,
        "fingerprint": _fingerprint(leaves),
        "drawn": drawn,
    }


def starting_leaves(parts: Parts) -> dict[str, np.ndarray]:
    """The leaves, by name, with which a new run of ``parts`` starts in place of those that are drawn: {} where it starts from no other."""
    origin = parts.origin
    if origin is None:
        return {}
    _, leaves = _read(_options(parts))
    if _fingerprint(leaves) != origin["fingerprint"]:
        refuse("config.init_from.workdir", origin["workdir"], "a workdir that nobody writes: its parameters have just changed")
    return {name: leaves[name] for name in named(parts.shapes()) if name not in origin["drawn"]}


def starts_from(origin: Mapping[str, Any]) -> str:
    """In words, what a new run starts from: ``origin_of``."""
    which = "the parameters" if origin["ema"] is None else f"the average {origin['ema']}"
    names = list(origin["drawn"])
    some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"starts from {which} of {origin['workdir']} at step {origin['step']}; drawn anew: {some or 'nothing'}"


def _options(parts: Parts) -> InitFrom:
    section = parts.config["init_from"]
    if not isinstance(section, Mapping):
        refuse("config.init_from", section, "a section {'workdir': DIRECTORY, 'new': [PATTERN, ...]}, or None")
    return build({"target": f"{__name__}:InitFrom", **section}, field="config.init_from")


def _read(options: InitFrom) -> tuple[Any, dict[str, np.ndarray]]:
    try:
        source = load(options.workdir, options.ema, options.step)
    except ConfigError as error:
        raise ConfigError(f"config.init_from.{error}") from None
    return source, {name: np.asarray(leaf) for name, leaf in named(source.params).items()}


def _drawn(wanted: Mapping[str, Any], there: Mapping[str, np.ndarray], options: InitFrom) -> list[str]:
    """The leaves of ``wanted`` that are drawn anew; ConfigError naming the first other one that the two do not share."""
    check_patterns(options.new, [*wanted, *(name for name in there if name not in wanted)], "config.init_from.new")
    for name in [*wanted, *there]:
        here, other = (_shape(tree.get(name)) for tree in (wanted, there))
        if here != other and not matches(options.new, name):
            what = f"{name}, which has {other} in {options.workdir} and {here} in this run"
            refuse("config.init_from", what, f"equal shapes, or a pattern of it in config.init_from.new{_beside(name, there, wanted)}")
    drawn = [name for name in wanted if matches(options.new, name)]
    if len(drawn) == len(wanted):
        refuse("config.init_from.new", list(options.new), "patterns that leave a leaf to start from")
    return drawn


def _beside(name: str, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The nearest leaf that only the other run has, where ``name`` is only in this one: it may have been renamed."""
    if name in there:
        return ""
    others: Sequence[str] = [other for other in there if other not in wanted]
    return nearest(name, others)


def _shape(leaf: Any) -> str:
    return "nothing" if leaf is None else f"shape {tuple(leaf.shape)}"


def _fingerprint(leaves: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, shapes and bytes, its first 16 digits."""
    digest = hashlib.sha256()
    for name in sorted(leaves):
        leaf = np.ascontiguousarray(leaves[name])
        digest.update(f"{name} {leaf.shape} {leaf.dtype}".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()[:16]
