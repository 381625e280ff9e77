"""What a configuration says about training, with its defaults, checked on the host before anything is built or compiled.

    config = {seed, data, path, target, network, objective, denoiser, coupling, optimizer, training, ...}

``config.training`` is a ``TrainingOptions`` and ``config.denoiser`` a ``DenoiserOptions``; the other sections are specs for ``build`` (see
parts.py). A configuration that reaches this package is turned into plain dicts and lists once, by ``plain``, so that what is saved is what
was used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from score_lab.build import build, nearest, refuse
from score_lab.training.profiles import WIDEST

__all__ = ["DenoiserOptions", "TrainingOptions", "changed", "check_sections", "data_options", "options_of", "plain"]

NEEDED = ("data", "path", "target", "network", "objective", "optimizer", "training")
KNOWN = (*NEEDED, "seed", "denoiser", "coupling", "sampling", "preview")
PIPELINE = ("batch_size", "shuffle", "num_threads", "num_workers", "prefetch")
"""The keys of ``config.data`` that belong to the pipeline; the others are fields of the source."""


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """``config.training``.

    Attributes:
      steps: updates of the parameters in the whole run.
      accumulate: microbatches whose gradients are summed for one update; the update is that of the whole batch.
      ema: decays of the parameter averages kept, any number; the first is the one that is evaluated and loaded by default.
      ema_warmup: average with ``min(decay, (1 + k) / (10 + k))`` at step k, so that the initial parameters are forgotten early.
      profiles: widths sigma_rel, in (0, 0.2887], of power-function averages kept beside them (EDM2; profiles.py), for example (0.05, 0.1).
      snapshot_every: steps between snapshots of these, from which an average of any width between is put together afterwards; 0 is at
        the end alone.
      log_every, eval_every, checkpoint_every: steps between them; 0 is never (a checkpoint is always made at the end).  Unless
        ``eval_every`` is 0, the held-out loss is also computed where a checkpoint is made on time, so that "best" is of all of them.
      eval_examples, eval_levels: held-out examples and log-SNR levels of an evaluation.
      keep: the newest checkpoints kept, beside the best one by held-out loss.
      steps_per_dispatch: steps in one compiled call, or "auto": up to 10, and 1 for convolutions on CPU (parallel.py).
      devices: local devices used; None is all.
      prefetch: dispatches' batches made ahead in the background.
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
    snapshot_every: int = 0
    log_every: int = 50
    eval_every: int = 500
    eval_examples: int = 1024
    eval_levels: int = 9
    checkpoint_every: int = 500
    keep: int = 2
    steps_per_dispatch: int | str = "auto"
    devices: int | None = None
    prefetch: int = 2
    mfu: bool = False
    profile: int = 0
    deterministic: bool = False

    def check(self) -> None:
        """Raises ConfigError naming the first field out of its range."""
        for name in ("steps", "accumulate", "log_every", "eval_examples", "eval_levels", "keep", "prefetch"):
            if getattr(self, name) < 1:
                refuse(name, getattr(self, name), "an int of at least 1")
        for name in ("eval_every", "checkpoint_every", "snapshot_every"):
            if getattr(self, name) < 0:
                never = "at the end alone" if name == "snapshot_every" else "never"
                refuse(name, getattr(self, name), f"an int of at least 1, or 0 for {never}")
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
        if self.snapshot_every and not self.profiles:
            refuse("snapshot_every", self.snapshot_every, "0 where there are no profiles, which snapshots are of")
        several = self.steps_per_dispatch
        if several != "auto" and not (isinstance(several, int) and several >= 1):
            refuse("steps_per_dispatch", several, "'auto' or an int of at least 1")


@dataclasses.dataclass(frozen=True)
class DenoiserOptions:
    """``config.denoiser``: ``sigma_data``, a number or "data" (measured on the training split: root mean square about zero), and
    ``log_snr_min``, the lowest log-SNR that is trained (None: the path's own end, or -10 for targets that say nothing of x0 there).
    """

    sigma_data: float | str = "data"
    log_snr_min: float | None = None

    def check(self) -> None:
        """Raises ConfigError for a ``sigma_data`` that is neither positive nor "data"."""
        if self.sigma_data != "data" and not (not isinstance(self.sigma_data, str) and self.sigma_data > 0):
            refuse("sigma_data", self.sigma_data, "a number > 0, or 'data'")


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
    """Raises ConfigError for a section that nobody reads, or one that is needed and missing."""
    for name, value in config.items():
        if name not in KNOWN:
            refuse(f"config.{name}", value, f"the sections {', '.join(KNOWN)}{nearest(name, KNOWN)}")
    for name in NEEDED:
        if config.get(name) is None:
            refuse(f"config.{name}", None, f"a section: a run needs {', '.join(NEEDED)}")


def options_of(config: Mapping[str, Any]) -> tuple[TrainingOptions, DenoiserOptions]:
    """The checked ``config.training`` and ``config.denoiser``."""
    return _options(TrainingOptions, config, "training"), _options(DenoiserOptions, config, "denoiser")


def _options(cls: type, config: Mapping[str, Any], name: str) -> Any:
    return build({"target": f"{cls.__module__}:{cls.__name__}", **(config.get(name) or {})}, field=f"config.{name}")


def data_options(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """``config.data`` as (the spec of the source, what the pipeline is told); ConfigError for a batch size that is none."""
    spec = dict(config["data"])
    pipeline = {name: spec.pop(name) for name in PIPELINE if name in spec}
    size = pipeline.get("batch_size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        refuse("config.data.batch_size", size, "an int of at least 1: the examples of one update, over all devices and processes")
    return spec, pipeline


def changed(old: Any, new: Any, field: str = "config") -> list[tuple[str, Any, Any]]:
    """``(field, old value, new value)`` wherever two plain configurations differ; None stands for a key that is absent."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = list(old) + [name for name in new if name not in old]
        return [change for name in names for change in changed(old.get(name), new.get(name), f"{field}.{name}")]
    return [] if old == new and type(old) is type(new) or _same_number(old, new) else [(field, old, new)]


def _same_number(a: Any, b: Any) -> bool:
    return isinstance(a, (int, float)) and isinstance(b, (int, float)) and a == b and bool not in (type(a), type(b))
