"""Everything that can be refused, refused: config and workdir -> a ``Plan``, on the host, with nothing compiled and nothing written."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from score_lab.build import ConfigError, refuse
from score_lab.data import DataSpec
from score_lab.training.carried import check_fits
from score_lab.training.changes import Change, changes_of, check_allowed, check_names, check_never, names_of
from score_lab.training.feed import open_source
from score_lab.training.finetune import origin_of
from score_lab.training.mesh import Meshed
from score_lab.training.options import TrainingOptions, check_sections, data_options, options_of, parallel_of
from score_lab.training.parallel import Layout, layout_of, steps_per_dispatch
from score_lab.training.parts import Parts, build_parts, measure_sigma_data
from score_lab.training.profiles import MOST, RESIDUAL, snapshots_needed
from score_lab.training.workdir import record_in

__all__ = ["DETERMINISTIC", "Callback", "Plan", "here", "prepare"]

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
"""What ``config.training.deterministic`` adds to XLA_FLAGS; XLA reads it once, when JAX starts."""

Callback = tuple[int, Callable]
"""``(every, fn(denoiser, step) -> dict of metrics or None)``, called also after the last step, with the first average's denoiser.  A value
that is bytes is a PNG, which TensorBoard shows under its name."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run that may begin.

    Attributes:
      parts, source, layout: what is trained, on what, where.
      several: steps in a dispatch.
      snapshot_every: steps between snapshots of the profiles, 0 for one at the end alone.
      record: what the workdir says of the run that it holds, None if it is new.
      seed: of everything that is random in the run.
      changes: of the configuration since that record, all of them allowed.
    """

    parts: Parts
    source: Any
    layout: Layout
    several: int
    snapshot_every: int
    workdir: Path | None
    record: dict[str, Any] | None
    callbacks: tuple[Callback, ...]
    seed: int
    changes: tuple[Change, ...] = ()

    @property
    def options(self) -> TrainingOptions:
        """``config.training``."""
        return self.parts.options

    @property
    def lead(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.layout.process == 0

    def due(self, every: int, step: int) -> bool:
        """Whether what happens ``every`` so many steps happens after ``step`` of them: also at the end, and never for 0."""
        return every > 0 and (step % every == 0 or step == self.options.steps)

    def evaluates(self, step: int) -> bool:
        """Whether the held-out loss is computed after ``step``: when it is due, and when a checkpoint is, which is ranked by it."""
        options = self.options
        return options.eval_every > 0 and (self.due(options.eval_every, step) or self.due(options.checkpoint_every, step))

    def snapshots(self, step: int) -> bool:
        """Whether the profiles are stored after ``step``: when it is due, and at the end."""
        return bool(self.options.profiles) and (self.due(self.snapshot_every, step) or step == self.options.steps)

    def snapshots_after(self, step: int) -> int:
        """How many of them there will be after ``step``."""
        if not self.options.profiles:
            return 0
        steps, every = self.options.steps, self.snapshot_every or self.options.steps
        return -(-steps // every) - step // every

    def counts(self, step: int) -> list[int]:
        """Steps of every dispatch from ``step`` to the end: ``several`` at its multiples, single ones elsewhere."""
        counts = []
        while step < self.options.steps:
            counts.append(self.several if step % self.several == 0 and step + self.several <= self.options.steps else 1)
            step += counts[-1]
        return counts


def prepare(
    config: dict[str, Any],
    workdir: Path | None,
    callbacks: Sequence[Callback] = (),
    allow: Sequence[str] = (),
    past: dict[str, Any] | None = None,
) -> Plan:
    """The plan of a run of the plain ``config`` in ``workdir`` (None: of one that is only looked at).

    Args:
      callbacks: as ``train`` takes them.
      allow: names, with commas between or one by one, of what may have changed since the run began (changes.py).
      past: the record of the run at an earlier step, in place of that in ``workdir`` (replay.py).

    Raises ConfigError naming the field for whatever cannot be run.
    """
    check_sections(config)
    options, denoiser = options_of(config)
    parallel = parallel_of(config)
    data_options(config)
    _check_deterministic(options)
    seed = config.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        refuse("config.seed", seed, "an int of at least 0 and below 2^32")
    for every, function in callbacks:
        if not isinstance(every, int) or every < 1 or not callable(function):
            refuse("callbacks", (every, function), "pairs (every, fn(denoiser, step)), every an int of at least 1")
    record = past or (None if workdir is None else record_in(workdir))
    names = names_of(allow)
    check_names(names, record, config)
    source = open_source(config)
    if past is not None:
        _check_data(workdir, past, source.spec)
    changes = [] if record is None else changes_of(record, config, source.spec.fingerprint)
    parts = build_parts(config, source.spec, _sigma_data(denoiser.sigma_data, record, source))
    if changes:  # of a configuration that is one: a name that is misspelt is told as that
        check_never(workdir, record, config, changes)
        newest = check_fits(workdir, parts, changes)
        check_allowed(workdir, changes, names)
        if newest is not None and options.steps <= newest:
            allowed = f"more than {newest}, the step of the newest checkpoint: {changes[0].field} has changed, and no step is left for it"
            refuse("config.training.steps", options.steps, allowed)
    if getattr(parts.network, "attention", None) == "cudnn" and jax.default_backend() != "gpu":
        refuse("config.network.attention", "cudnn", f"'auto' or 'xla': this is the {jax.default_backend()} backend")
    if config.get("init_from") is not None:
        parts = dataclasses.replace(parts, origin=record.get("init_from") if record else origin_of(parts))
    if options.eval_every and not len(source("test")):
        refuse("config.training.eval_every", options.eval_every, "0: the data have no held-out examples to evaluate on")
    layout = layout_of(parts.batch_size, options.accumulate, options.devices)
    if parallel is not None:
        layout = Meshed.of(layout, parallel)
    layout.check(parts)
    if options.disk_full == "go_on" and layout.processes > 1:
        refuse("config.training.disk_full", "go_on", "'stop' where there are several processes, which write a checkpoint together")
    cadences = [options.log_every, options.eval_every, options.checkpoint_every, *(every for every, _ in callbacks)]
    if past is not None and options.steps_per_dispatch != "auto":
        cadences = []  # they divided those of their time, of which log_every and the callbacks may have changed freely since
    several, snapshot_every = _cadences(parts, [every for every in cadences if every])
    return Plan(parts, source, layout, several, snapshot_every, workdir, record, tuple(callbacks), seed, tuple(changes))


def here(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """``(config, lines)`` of a run that is looked at on other devices than it was trained on: without the numbers of devices that do not
    fit those that are here, and what is to be said of that.

    Raises ConfigError where the batch cannot be shared among them.
    """
    config, lines = dict(config), []
    options, parallel = options_of(config)[0], parallel_of(config)
    count, local = options.devices, len(jax.local_devices())
    if count is not None and count > local:
        lines += [f"config.training.devices: {count}, and {local} are here: all of these"]
        config["training"] = {**config["training"], "devices": None}
        count = None
    layout = layout_of(data_options(config)[1]["batch_size"], options.accumulate, count)
    try:
        if parallel is not None:
            Meshed.of(layout, parallel)
    except ConfigError as error:
        lines += [f"the mesh is left out, jax.pmap is in its place: {error}"]
        config["parallel"] = None
    return config, lines


def _cadences(parts: Parts, others: list[int]) -> tuple[int, int]:
    """Steps in a dispatch, and between snapshots.  Asked for as "auto", these are as many as the profiles need, in whole dispatches, which
    are shorter only where the run is too short for that."""
    options = parts.options
    every = options.snapshot_every if options.profiles else 0
    if every != "auto":
        return steps_per_dispatch(parts, [*others, every] if every else others), every
    several = steps_per_dispatch(parts, others)
    needed = snapshots_needed(tuple(options.profiles))
    if needed is None:
        allowed = f"a number of steps, or a third width between in config.training.profiles, {tuple(options.profiles)}"
        left = f"even {MOST} snapshots leave more than {RESIDUAL:g} of an average between"
        refuse("config.training.snapshot_every", "auto", f"{allowed}: {left}")
    every = max(1, options.steps // needed)
    if every < several and options.steps_per_dispatch == "auto":
        several = steps_per_dispatch(parts, [*others, every])
    return several, max(several, every // several * several)


def _sigma_data(asked: float | str, record: dict[str, Any] | None, source: Any) -> float:
    """The number given, that of the run which is continued, or the one measured on the data."""
    if asked != "data":
        return float(asked)
    return record["sigma_data"] if record else measure_sigma_data(source)


def _check_data(workdir: Path, past: dict[str, Any], spec: DataSpec) -> None:
    if past["data"]["fingerprint"] != spec.fingerprint:
        raise ConfigError(
            f"config.data: the data have the fingerprint {spec.fingerprint}, and those with which {workdir} was trained then "
            f"{past['data']['fingerprint']}; allowed: the same data"
        )


def _check_deterministic(options: TrainingOptions) -> None:
    if options.deterministic and jax.default_backend() == "gpu" and DETERMINISTIC not in os.environ.get("XLA_FLAGS", ""):
        allowed = f"False, or True with XLA_FLAGS={DETERMINISTIC} set before JAX starts, as experiments.train does"
        refuse("config.training.deterministic", True, allowed)
