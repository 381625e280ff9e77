"""A peer's record beside the run of ours that must reproduce it, state by state.

    record = records(peer, folder)[name]         the arrays of ``<name>/...`` in ``<peer>.npz``, its config, x_init and noise_bank
    case   = translate(record)                   our path, sampler and grid for the peer's class and arguments (see ``translate.py``)
    error(record, case)                          max over states of |ours - theirs| / |theirs|, maximum norms, through ``sample``

Which of their arrays are states: what the network saw (``eval_x``) and ``final``; or ``states``, of which each is what the next network
call sees and the last is the result.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from samplers.exact import Mixture

from score_lab.samplers import StateRecorder, sample
from score_lab.types import leaf, pytree_dataclass

HERE = Path(__file__).parent.parent / "fixtures" / "oracle"


@dataclasses.dataclass(frozen=True)
class Record:
    """One record: ``peer``, ``name``, its ``config`` and arrays by name; ``x_init``, ``noise_bank`` and ``inputs`` (the arrays of records
    named ``*_inputs``) are the peer file's."""

    peer: str
    name: str
    config: dict
    arrays: dict[str, np.ndarray]
    x_init: np.ndarray
    noise_bank: np.ndarray
    inputs: dict[str, dict[str, np.ndarray]] = dataclasses.field(default_factory=dict)

    @property
    def key(self) -> str:
        """What ``translate`` looks up: ``peer:Class`` or ``peer:function``."""
        c = self.config
        return f"{self.peer}:{c.get('cls') or c.get('fn') or c.get('method') or '-'}"

    def __getitem__(self, array: str) -> np.ndarray:
        return self.arrays[array]


@dataclasses.dataclass(frozen=True)
class Case:
    """Ours.  ``x_T`` is the first state; ``noise`` an index of the noise bank per (step, call), -1 where we draw and they do not (0 is
    used); ``calls`` chooses which of our network calls their states are compared with (all by default), ``states`` which of their states;
    ``around(exact denoiser)`` is what the network's output goes through (clipping); ``read(states)`` makes theirs of all of ours;
    ``bound`` is what ``error`` may reach.
    """

    path: Any
    sampler: Any
    grid: Any
    x_T: np.ndarray
    noise: np.ndarray | None = None
    states: np.ndarray | None = None
    final: np.ndarray | None = None
    calls: Any = None
    around: Any = None
    read: Any = None
    bound: float = 1e-8


@dataclasses.dataclass(frozen=True)
class Compared:
    """What is no run of states on a grid of theirs: ``measured()`` is the largest difference, which the tolerance bounds."""

    sampler: str
    measured: Callable[[], float]
    bound: float


@dataclasses.dataclass(frozen=True)
class Excluded:
    """A record that is not reproduced, and why."""

    reason: str


@pytree_dataclass
class Bank:
    """Draw (step, call) is ``bank[index[step, call]]``; zero where the index is -1 or beyond the table."""

    bank: Any = leaf()
    index: Any = leaf()

    def __call__(self, step, call, like):
        steps, calls = self.index.shape
        if call >= calls:
            return jnp.zeros_like(like)
        k = jnp.where(step < steps, jnp.asarray(self.index)[jnp.minimum(step, steps - 1), call], -1)
        return jnp.where(k >= 0, jnp.asarray(self.bank)[jnp.maximum(k, 0)], 0.0)


def records(peer: str, folder: Path = HERE) -> dict[str, Record]:
    """All records of a peer."""
    f = np.load(folder / f"{peer}.npz", allow_pickle=False)
    groups: dict[str, dict] = {}
    for key in f.files:
        if "/" in key:
            name, array = key.rsplit("/", 1)
            groups.setdefault(name, {})[array] = key
    inputs = {name: {a: f[k] for a, k in keys.items() if a != "config"} for name, keys in groups.items() if name.endswith("_inputs")}
    return {
        name: Record(
            peer, name, json.loads(str(f[keys["config"]])) if "config" in keys else {},
            {a: f[k] for a, k in keys.items() if a != "config"}, f["x_init"], f["noise_bank"], inputs,
        )
        for name, keys in sorted(groups.items())
    }  # fmt: skip


def error(record: Record, case: Case | Compared) -> float:
    """The largest relative difference of a state, over all states of the record."""
    if isinstance(case, Compared):
        return case.measured()
    noise = None if case.noise is None else Bank(jnp.asarray(record.noise_bank), jnp.asarray(np.asarray(case.noise, np.int32)))
    denoiser = Mixture(case.path) if case.around is None else case.around(Mixture(case.path))
    run = sample(
        denoiser, case.sampler, case.grid, x_T=jnp.asarray(case.x_T), recorder=StateRecorder(len(case.x_T)), noise=noise
    )
    ours = [*run.record.in_order().x_t[slice(None) if case.calls is None else case.calls], np.asarray(run.x)]
    ours = ours if case.read is None else case.read(ours)
    theirs = [*(record["states"][:-1] if case.states is None else case.states), record["states"][-1] if case.final is None else case.final]
    if len(ours) != len(theirs):
        raise AssertionError(f"{record.name}: we have {len(ours)} states, they have {len(theirs)}")
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(ours, theirs, strict=True))
