"""What a configuration says about training, with its defaults, checked on the host before anything is built or compiled.

    config = {seed, data, path, target, network, objective, denoiser, coupling, optimizer, training, init_from, ...}

``config.training`` is a ``TrainingOptions``, ``config.denoiser`` a ``DenoiserOptions`` and ``config.parallel``, where it is there, a
``ParallelOptions``; ``config.optimizer`` is read by optimizer.py, ``config.init_from`` by finetune.py, and the other sections are specs
for ``build`` (see parts.py).  A configuration that reaches this package is turned into plain dicts and lists once, by ``plain``, so that
what is saved is what was used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from score_lab.build import build, nearest, refuse
from score_lab.training.profiles import WIDEST

__all__ = [
    "DenoiserOptions", "ParallelOptions", "TrainingOptions", "changed", "check_sections", "data_options", "options_of", "parallel_of",
    "plain",
]  # fmt: skip

NEEDED = ("data", "path", "target", "network", "objective", "optimizer", "training")
KNOWN = (*NEEDED, "seed", "denoiser", "coupling", "augment", "parallel", "init_from", "sampling", "preview")
PIPELINE = ("batch_size", "shuffle", "num_threads", "num_workers", "prefetch")
"""The keys of ``config.data`` that belong to the pipeline; the others are fields of the source."""
PARTS = ("path", "target", "network", "objective", "coupling", "augment")
"""The sections that ``build`` makes a part of, which may be one word."""


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """``config.training``.

    Attributes:
      steps: updates of the parameters in the whole run.
      accumulate: microbatches whose gradients are summed for one update; the update is that of the whole batch.
      ema: decays of the parameter averages kept, any number; the first is the one that is evaluated and loaded by default.
      ema_warmup: average with ``min(decay, (1 + k) / (10 + k))`` at step k, so that the initial parameters are forgotten early.
      profiles: widths sigma_rel, in (0, 0.2887], of power-function averages kept beside them (EDM2; profiles.py), for example (0.05, 0.1).
      snapshot_every: steps between snapshots of these, from which an average of any width between is put together afterwards; "auto": as
        many as leave a thousandth of its profile at most (profiles.py), 0: one at the end alone.
      log_every, eval_every, checkpoint_every: steps between them; 0 is never (a checkpoint is always made at the end).  Unless
        ``eval_every`` is 0, the held-out loss is also computed where a checkpoint is made on time, so that "best" is of all of them.
      eval_examples, eval_levels: held-out examples and log-SNR levels of an evaluation.
      keep: the newest checkpoints kept, beside the best one by held-out loss.
      steps_per_dispatch: steps in one compiled call, or "auto": up to 10, and 1 for convolutions on CPU (parallel.py).
      devices: local devices used; None is all.
      prefetch: dispatches' batches made ahead in the background.
      loss_edges: log-SNRs, ascending, between which the loss is shown in bins as training goes on; () for no bins.
      update_norm: the global norm of what is added to the parameters is among the metrics.  An update that is looked at is written to
        memory: a hundredth of dit8's step on a CPU, a tenth of a small MLP's.
      nonfinite: what a loss or gradient that is not finite does, "stop" the run or "skip" the update (nonfinite.py).
      nonfinite_limit: skipping more updates than this in a row stops the run all the same.
      spike_window, spike_threshold: a step is a spike above the median of so many steps before it by so many MADs; 0 MADs looks for none.
      disk_full: what a checkpoint or a line that finds no space does, "stop" the run or let it "go_on" (disk.py).
      mfu: the log says FLOP/s, MFU against the devices' measured peak and bytes moved a second (speed.py); it begins some seconds
        later.
      profile: steps to trace into WORKDIR/profile, whose slowest parts are named in the terminal; 0 is none (tracing.py).
      deterministic: on a GPU, ask XLA for deterministic operations, without which a resumed run is equal only to rounding.
    """

    steps: int
    accumulate: int = 1
    ema: tuple = (0.999,)
    ema_warmup: bool = True
    profiles: tuple = ()
    snapshot_every: int | str = "auto"
    log_every: int = 50
    eval_every: int = 500
    eval_examples: int = 1024
    eval_levels: int = 9
    checkpoint_every: int = 500
    keep: int = 2
    steps_per_dispatch: int | str = "auto"
    devices: int | None = None
    prefetch: int = 2
    loss_edges: tuple = (-8.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 8.0)
    update_norm: bool = False
    nonfinite: str = "stop"
    nonfinite_limit: int = 10
    spike_window: int = 100
    spike_threshold: float = 10.0
    disk_full: str = "stop"
    mfu: bool = False
    profile: int = 0
    deterministic: bool = False

    def check(self) -> None:
        """Raises ConfigError naming the first field out of its range."""
        for name in ("steps", "accumulate", "log_every", "eval_examples", "eval_levels", "keep", "prefetch"):
            if getattr(self, name) < 1:
                refuse(name, getattr(self, name), "an int of at least 1")
        for name in ("eval_every", "checkpoint_every"):
            if getattr(self, name) < 0:
                refuse(name, getattr(self, name), "an int of at least 1, or 0 for never")
        if self.profile < 0:
            refuse("profile", self.profile, "an int of at least 1, the steps to trace, or 0 for none")
        if self.devices is not None and self.devices < 1:
            refuse("devices", self.devices, "an int of at least 1, or None for all local devices")
        for decay in self.ema:
            if not (isinstance(decay, (int, float)) and 0.0 <= decay < 1.0):
                refuse("ema", self.ema, "decays in [0, 1), for example (0.999, 0.9999)")
        for sigma_rel in self.profiles:
            if not (isinstance(sigma_rel, float) and 0.0 < sigma_rel <= WIDEST and sigma_rel not in self.ema):
                refuse("profiles", self.profiles, f"widths above 0 and at most {WIDEST:.4f}, none of them in ema: (0.05, 0.1)")
        if len(set(self.profiles)) < len(self.profiles):
            refuse("profiles", self.profiles, "widths, each once: every one is a copy of the parameters")
        every = self.snapshot_every
        if every != "auto" and not (isinstance(every, int) and every >= 0):
            refuse("snapshot_every", every, "'auto', an int of at least 1, or 0 for one at the end alone", ("auto",))
        if every not in ("auto", 0) and not self.profiles:
            refuse("snapshot_every", every, "0 or 'auto' where there are no profiles, which snapshots are of")
        self._check_watching()
        several = self.steps_per_dispatch
        if several != "auto" and not (isinstance(several, int) and several >= 1):
            refuse("steps_per_dispatch", several, "'auto' or an int of at least 1")

    def _check_watching(self) -> None:
        """Refuses what is no choice, limit, window or edge of survival and watching."""
        for name, choices in (("nonfinite", ("stop", "skip")), ("disk_full", ("stop", "go_on"))):
            if getattr(self, name) not in choices:
                refuse(name, getattr(self, name), " or ".join(map(repr, choices)), choices)
        for name, least in (("nonfinite_limit", 1), ("spike_window", 10)):
            if getattr(self, name) < least:
                refuse(name, getattr(self, name), f"an int of at least {least}")
        if not 0.0 <= self.spike_threshold < float("inf"):
            refuse("spike_threshold", self.spike_threshold, "a number of MADs above 0, or 0 for no look at spikes")
        edges = self.loss_edges
        numbers = all(isinstance(edge, (int, float)) and not isinstance(edge, bool) and abs(edge) < float("inf") for edge in edges)
        if not numbers or any(low >= high for low, high in zip(edges, edges[1:], strict=False)):
            refuse("loss_edges", edges, "log-SNRs in ascending order, for example (-4, 0, 4), or () for no bins")


@dataclasses.dataclass(frozen=True)
class ParallelOptions:
    """``config.parallel``: a mesh of devices (mesh.py) in place of ``jax.pmap``; it says where a run computes, not what.

    Attributes:
      fsdp: devices among which parameters, optimizer and averages are shared out; 1 is none: each device holds all of them.
      data: groups of so many devices; None is as many as there are.
      min_size: an array of fewer numbers is held by every device.
      rules: ``(pattern, axis)``, tried in turn before the rule of mesh.py: of arrays whose name matches (``network.blocks.*.kernel``),
        the axis that is shared out; None for none.
    """

    fsdp: int = 1
    data: int | None = None
    min_size: int = 2**14
    rules: tuple = ()

    def check(self) -> None:
        """Raises ConfigError naming the first field out of its range."""
        for name in ("fsdp", "min_size"):
            if getattr(self, name) < 1:
                refuse(name, getattr(self, name), "an int of at least 1")
        if self.data is not None and self.data < 1:
            refuse("data", self.data, "an int of at least 1, or None for as many groups as there are devices for")
        for rule in self.rules:
            good = isinstance(rule, (list, tuple)) and len(rule) == 2 and isinstance(rule[0], str)
            if not good or not (rule[1] is None or isinstance(rule[1], int) and not isinstance(rule[1], bool) and rule[1] >= 0):
                refuse("rules", rule, "pairs (pattern of a parameter's name, axis that is shared out, or None)")


@dataclasses.dataclass(frozen=True)
class DenoiserOptions:
    """``config.denoiser``: ``sigma_data``, a number or "data" (measured on the training split: root mean square about zero), and
    ``log_snr_min``, the lowest log-SNR that is trained (None: the path's own end, or -10 for targets that say nothing of x0 there).
    """

    sigma_data: float | str = "data"
    log_snr_min: float | None = None

    def check(self) -> None:
        """Raises ConfigError for a ``sigma_data`` that is neither positive and finite nor "data"."""
        if self.sigma_data != "data" and not (not isinstance(self.sigma_data, str) and 0 < self.sigma_data < float("inf")):
            refuse("sigma_data", self.sigma_data, "a finite number > 0, or 'data'")


def plain(config: Any, field: str = "config") -> Any:
    """``config`` as dicts, lists, strings, numbers, booleans and None; ConfigError for anything else, which could not be saved."""
    if hasattr(config, "to_dict"):
        config = config.to_dict()
    if isinstance(config, Mapping):
        return {str(k): plain(v, f"{field}.{k}") for k, v in config.items()}
    if isinstance(config, (list, tuple)):
        return [plain(v, f"{field}[{i}]") for i, v in enumerate(config)]
    if config is None or isinstance(config, (bool, int, float, str)):
        return config
    refuse(field, config, "a number, a string, a bool, None, or lists and dicts of these: a configuration is saved as JSON")


def check_sections(config: Mapping[str, Any]) -> None:
    """Raises ConfigError for a section that nobody reads, one that is needed and missing, and a value that is no section."""
    for name, value in config.items():
        if name not in KNOWN:
            refuse(f"config.{name}", value, f"the sections {', '.join(KNOWN)}{nearest(name, KNOWN)}")
    for name in NEEDED:
        if config.get(name) is None:
            refuse(f"config.{name}", None, f"a section: a run needs {', '.join(NEEDED)}")
    for name, value in config.items():
        if name in PARTS and (isinstance(value, (bool, int, float, list, tuple)) or value == ""):
            refuse(f"config.{name}", value, "a section {'target': NAME, **fields}, or NAME alone")
        if name not in (*PARTS, "seed") and not (value is None or isinstance(value, Mapping)):
            refuse(f"config.{name}", value, "a section {field: value, ...}")


def options_of(config: Mapping[str, Any]) -> tuple[TrainingOptions, DenoiserOptions]:
    """The checked ``config.training`` and ``config.denoiser``."""
    return _options(TrainingOptions, config, "training"), _options(DenoiserOptions, config, "denoiser")


def parallel_of(config: Mapping[str, Any]) -> ParallelOptions | None:
    """The checked ``config.parallel``; None where it is not there: ``jax.pmap``."""
    return None if config.get("parallel") is None else _options(ParallelOptions, config, "parallel")


def _options(cls: type, config: Mapping[str, Any], name: str) -> Any:
    return build({"target": f"{cls.__module__}:{cls.__name__}", **(config.get(name) or {})}, field=f"config.{name}")


def data_options(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """``config.data`` as (the spec of the source, what the pipeline is told); ConfigError for what the pipeline cannot be told."""
    spec = dict(config["data"])
    pipeline = {name: spec.pop(name) for name in PIPELINE if name in spec}
    size = pipeline.get("batch_size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        refuse("config.data.batch_size", size, "an int of at least 1: the examples of one update, over all devices and processes")
    if not isinstance(pipeline.get("shuffle"), bool | None):
        refuse("config.data.shuffle", pipeline["shuffle"], "True, False, or None for True in training")
    for name, least, none in (("num_threads", 0, True), ("num_workers", 0, False), ("prefetch", 1, False)):
        value = pipeline.get(name, least)
        is_int = isinstance(value, int) and not isinstance(value, bool) and value >= least
        if not is_int and not (value is None and none):
            refuse(f"config.data.{name}", value, f"an int of at least {least}{', or None for what suits the data' if none else ''}")
    return spec, pipeline


def changed(old: Any, new: Any, field: str = "config") -> list[tuple[str, Any, Any]]:
    """``(field, old value, new value)`` wherever two plain configurations differ; None stands for a key that is absent."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = list(old) + [name for name in new if name not in old]
        return [change for name in names for change in changed(old.get(name), new.get(name), f"{field}.{name}")]
    return [] if old == new and type(old) is type(new) or _same_number(old, new) else [(field, old, new)]


def _same_number(a: Any, b: Any) -> bool:
    return isinstance(a, (int, float)) and isinstance(b, (int, float)) and a == b and bool not in (type(a), type(b))
