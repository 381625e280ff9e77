"""What of a checkpoint goes on under a configuration that was changed on the way (changes.py).

    arrays          all of them, to the bit: parameters, averages, optimizer, objective.  Names and shapes must be those of the new parts
    schedule        that of the new configuration, at the updates that were made
    data            update k reads on where update k - 1 ended in the order of the data, however large its batch was (feed.Start)
    figures         begin anew: no line is a mean over both

What a checkpoint was made with is what its own record says, not config.json: a run that is killed between the two goes on all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from score_lab.build import ConfigError
from score_lab.training.changes import Change, begun, changes_of
from score_lab.training.checkpoint import Checkpoints
from score_lab.training.feed import Start
from score_lab.training.options import data_options
from score_lab.training.parts import Parts
from score_lab.training.state import TrainState, abstract_state

__all__ = ["carried", "check_fits"]

CAUSES = {
    "params": ("network", "objective", "augment", "data"), "objective": ("objective",), "ema": ("training.ema",),
    "opt_state": ("optimizer.freeze", "optimizer.groups", "optimizer.clip", "optimizer"),
}  # fmt: skip
"""What decides about the leaves of each part of a state, the likeliest first; differences are told in this order of parts."""


def carried(host: Mapping[str, Any], parts: Parts) -> dict[str, Any]:
    """The host's part of a checkpoint, as a run of ``parts`` goes on from it: with ``start``, and a ``position`` that is of its stream."""
    start = Start(**host.get("start", {}))
    before = host["record"]
    if not changes_of(before, parts.config, parts.spec.fingerprint):
        return dict(host) | {"start": start}
    host = dict(host) | {"pending": [], "watch": {}}
    old, new = (data_options(config)[1] for config in (before["config"], parts.config))
    if any(old.get(name, 0) != new.get(name, 0) for name in ("batch_size", "num_workers")):  # a position counts batches, by worker
        return host | {"position": None, "start": start.at(host["step"], old["batch_size"])}
    return host | {"start": start}


def check_fits(workdir: Path, parts: Parts, changes: Sequence[Change]) -> int | None:
    """The step of the newest checkpoint whose files have their sizes, None where there is none; no array is read, which is done when the
    run goes on.  Nothing is written or locked.

    Raises ConfigError where ``changes`` make ``parts`` into what that cannot be read as, naming the first leaf with both shapes.
    """
    with Checkpoints(workdir) as checkpoints:
        step, differences = next(_looked_at(checkpoints, abstract_state(parts)), (None, []))
    if differences:
        order = list(CAUSES)
        name, saved, wanted = min(differences, key=lambda found: order.index(_part(found[0])))
        causes = [f"config.{section}" for section in CAUSES[_part(name)]]
        change = next((c for cause in causes for c in changes if c.field.startswith(cause)), changes[0])
        fact = f"{name} has {saved} in checkpoint {step}, and {wanted} now"
        if _part(name) == "ema":
            fact = f"checkpoint {step} holds another number of averages"
        advice = "no --allow makes that fit, and a new run can start from the parameters: config.init_from (docs/training.md)"
        raise ConfigError(f"{begun(workdir, change, changes)}, or another workdir: {fact}; {advice}")
    return step


def _looked_at(checkpoints: Checkpoints, like: TrainState) -> Iterator[tuple[int, list[tuple[str, str, str]]]]:
    """``(step, differences from like)`` of the checkpoints whose files have their sizes, the newest first; every byte of one is read only
    where its names and shapes cannot be."""
    for step in reversed(checkpoints.steps):
        if checkpoints.damage(step, deep=False) is not None:
            continue
        try:
            yield step, checkpoints.differences(like, step)
        except Exception:  # whatever damaged metadata make Orbax raise
            if checkpoints.damage(step) is None:
                raise


def _part(leaf: str) -> str:
    return leaf.split(".")[0]
