"""What a command that goes on with a run has changed, and whether it may: freely, by ``--allow``, or never.

    free       decides nothing of what is trained (FREE); more steps, where the learning rate does not depend on their number
    allowed    the rest, where a name of ``--allow`` is the field or a section that it lies in ("optimizer", "data.batch_size")
    never      the fields of NEVER, and whatever the arrays of the checkpoints do not fit (carried.py)

``config.json`` and every checkpoint hold the configuration from then on, and what was changed on the way:

    "allowed": [{"step": S, "field": "config.optimizer.learning_rate", "old": 1e-2, "new": 1e-3}, ...]

The update that makes step S + 1 is the first with the new value.  A field that was not there has no "old", one that is gone no "new".
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from score_lab.build import ConfigError, refuse
from score_lab.training.options import KNOWN, DenoiserOptions, TrainingOptions, changed

__all__ = [
    "FINGERPRINT", "Change", "begun", "changes_of", "check_allowed", "check_names", "check_never", "history_of", "names_of", "record_at",
]  # fmt: skip

FREE = (
    "log_every", "keep", "prefetch", "devices", "nonfinite", "nonfinite_limit", "spike_window", "spike_threshold", "disk_full", "mfu",
    "profile", "update_norm",
)  # fmt: skip
"""The fields of ``config.training`` that may differ between the commands that go on with one run."""
SECTIONS = ("sampling", "preview", "parallel")
"""The sections that may."""

FINGERPRINT = "config.data.fingerprint"
"""The name of the data set itself, which is no key of a configuration: what it reads may change under the same one."""

MEANING = "what the network gives would be read as something else, with the same parameters"
MEMORY = "what the optimizer remembers, in the checkpoints, means something else to another one"
NEVER = {
    "config.seed": (0, "the keys that everything is drawn with come from it, and the checkpoints hold them"),
    "config.path": (None, MEANING),
    "config.target": (None, MEANING),
    "config.denoiser.sigma_data": ("data", MEANING),
    "config.optimizer.name": (None, MEMORY),
    "config.optimizer.base_optimizer.name": ("sgd", MEMORY),
    "config.training.profiles": ([], "averages and snapshots that are stored are of the old widths"),
    "config.init_from": (None, "a run begins once"),
}
"""``field: (its default, why it never changes)``."""

ABSENT = object()
LONGEST = 60
"""Characters of a value in a line."""


@dataclasses.dataclass(frozen=True)
class Change:
    """A field with its value before and from now on; ABSENT where it was, or is, not there."""

    field: str
    old: Any
    new: Any

    @property
    def name(self) -> str:
        """The field as ``--allow`` names it."""
        return self.field.removeprefix("config.")

    def entry(self, step: int) -> dict[str, Any]:
        """What the record says of it."""
        values = {"old": self.old, "new": self.new}
        return {"step": step, "field": self.field} | {name: value for name, value in values.items() if value is not ABSENT}

    def line(self, step: int) -> str:
        """What the terminal says of it."""
        return f"{self.field}: {_short(self.new)} from step {step} on, {_short(self.old)} before"


def changes_of(record: Mapping[str, Any], config: Mapping[str, Any], fingerprint: str) -> list[Change]:
    """In what the plain ``config`` and data of ``fingerprint`` differ from the run of ``record``, free changes left out."""
    old = record["config"]
    fields = [field for field, _, _ in changed(old, dict(config)) if not _free(field, old, config)]
    found = [Change(field, _at(old, field), _at(config, field)) for field in fields]
    before = record["data"]["fingerprint"]
    return found if before == fingerprint else [*found, Change(FINGERPRINT, before, fingerprint)]


def names_of(allow: Iterable[str]) -> tuple[str, ...]:
    """The names in ``--allow`` words, each of which may hold several with commas between, as fields of a configuration."""
    names = [name.strip() for word in allow for name in word.split(",")]
    return tuple(name if name.startswith("config.") else f"config.{name}" for name in names)


def check_names(names: Sequence[str], record: Mapping[str, Any] | None, config: Mapping[str, Any]) -> None:
    """ConfigError for a name that is of no key, with the nearest: none of ``config``, none that the run of ``record`` (None: a new one)
    had at any time, and no section or field of ``config.training`` or ``config.denoiser``."""
    known = {f"config.{name}" for name in KNOWN} | {FINGERPRINT} | _keys(config, "config")
    for name, cls in (("training", TrainingOptions), ("denoiser", DenoiserOptions)):
        known |= {f"config.{name}.{field.name}" for field in dataclasses.fields(cls)}
    if record is not None:
        known |= _keys(record["config"], "config") | {entry["field"] for entry in record.get("allowed", [])}
    for name in names:
        if name not in known:
            plain = sorted(key.removeprefix("config.") for key in known)
            allowed = "keys of the configuration, or sections for all that is in them: data.batch_size, optimizer"
            refuse("--allow", name.removeprefix("config."), allowed, plain)


def check_never(workdir: Path, record: Mapping[str, Any], config: Mapping[str, Any], changes: Sequence[Change]) -> None:
    """ConfigError where one of NEVER has changed, naming all ``changes``, that one first."""
    for field, (default, why) in NEVER.items():
        old, new = (_at(tree, field) for tree in (record["config"], config))
        if changed(*(default if value in (ABSENT, None) else value for value in (old, new))):
            first = next((c for c in changes if c.field == field or c.field.startswith(f"{field}.")), Change(field, old, new))
            raise ConfigError(f"{begun(workdir, first, changes)}, or another workdir: it can never change on the way, {why}")


def check_allowed(workdir: Path, changes: Sequence[Change], names: Sequence[str]) -> None:
    """ConfigError where some of ``changes`` are under none of ``names``: it names them, and the whole ``--allow`` that is needed."""
    missing = [change for change in changes if not any(_under(change.field, name) for name in names)]
    if not missing:
        return
    needed = [name for name in names if any(_under(change.field, name) for change in changes)]
    hint = ",".join([*(name.removeprefix("config.") for name in needed), *(change.name for change in missing)])
    told = f"{begun(workdir, missing[0], missing)}, another workdir, or to change it on the way (experiments.train)"
    raise ConfigError(f"{told}: --allow {hint}")


def begun(workdir: Path, first: Change, changes: Sequence[Change]) -> str:
    """The beginning of a line that refuses ``first``, with every one of ``changes``."""
    listed = ", ".join(f"{c.field}: {_short(c.new)}, was {_short(c.old)}" for c in changes if c.field != first.field)
    also = f" (changed too: {listed})" if listed else ""
    return f"{first.field}: {_short(first.new)} is refused{also}; allowed: {_short(first.old)}, with which {workdir} was begun"


def history_of(record: Mapping[str, Any], changes: Sequence[Change], step: int) -> list[dict[str, Any]]:
    """The ``allowed`` of a run of ``record`` that goes on from ``step`` with ``changes``.

    Where ``step`` is before an earlier change, its checkpoints being damaged, that one holds from ``step`` on too.
    """
    before = [entry | {"step": min(entry["step"], step)} for entry in record.get("allowed", [])]
    return before + [change.entry(step) for change in changes]


def record_at(record: Mapping[str, Any], count: int) -> dict[str, Any]:
    """``record`` as it was when only the first ``count`` of its ``allowed`` had been changed."""
    record = copy.deepcopy(dict(record))
    allowed = record.pop("allowed", [])
    for entry in reversed(allowed[count:]):
        if entry["field"] == FINGERPRINT:
            record["data"]["fingerprint"] = entry["old"]
            continue
        *parents, last = entry["field"].split(".")[1:]
        node = record["config"]
        for parent in parents:
            node = node[parent]
        node.pop(last, None)
        if "old" in entry:
            node[last] = entry["old"]
    return record | ({"allowed": allowed[:count]} if count else {})


def _free(field: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    if any(_under(field, f"config.{name}") for name in (*SECTIONS, *(f"training.{name}" for name in FREE))):
        return True
    return field == "config.training.steps" and _longer(old, new)


def _longer(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a run may go on to more steps: neither learning rate may depend on their number."""
    before, steps = (config["training"].get("steps") for config in (old, new))
    still = all(config["optimizer"].get("schedule", "constant") in ("constant", "inverse_sqrt") for config in (old, new))
    return isinstance(steps, int) and steps > before and still


def _short(value: Any) -> str:
    """``value`` on one line, cut where it is long."""
    text = "nothing" if value is ABSENT else " ".join(repr(value).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _under(field: str, name: str) -> bool:
    return field == name or field.startswith(f"{name}.")


def _at(config: Mapping[str, Any], field: str) -> Any:
    """What ``config`` has there, ABSENT for nothing; what a word names is its ``name`` (``base_optimizer``)."""
    node: Any = config
    for part in field.split(".")[1:]:
        if part == "name" and isinstance(node, str):
            return node
        if not isinstance(node, Mapping) or part not in node:
            return ABSENT
        node = node[part]
    return node


def _keys(tree: Any, field: str) -> set[str]:
    if not isinstance(tree, Mapping):
        return {field}
    return {field}.union(*(_keys(value, f"{field}.{name}") for name, value in tree.items())) - {"config"}
