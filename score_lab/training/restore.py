"""``load(workdir).denoiser``: a trained denoiser from a workdir, which says by itself what it is; neither data nor optimizer are needed."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from score_lab.build import ConfigError, refuse
from score_lab.data import DataSpec
from score_lab.denoiser import NetworkDenoiser
from score_lab.training.changes import SECTIONS
from score_lab.training.checkpoint import Checkpoints
from score_lab.training.newest import newest, read_sound
from score_lab.training.options import TrainingOptions, options_of
from score_lab.training.parts import Parts, anywhere, build_parts
from score_lab.training.record import read_workdir
from score_lab.training.snapshots import post_hoc
from score_lab.training.state import TrainState, abstract_state

__all__ = ["Loaded", "check_averages", "load"]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A run read back.

    Attributes:
      denoiser: the trained network on its path, with the log_snr range it was trained on.
      config: the plain configuration that the checkpoint was made with, where it was changed on the way too; sections that change freely
        (changes.py) are the newest.
      step: of the checkpoint, or of the newest snapshot of an average that was put together afterwards.
      ema: the decay or width of the average that was loaded, None for the parameters themselves.
      spec: shape, number of classes and fingerprint of the data.
      parts: everything that the configuration describes.
      versions: of the libraries that the run was begun with.
      params: ``{"network": ..., "objective": ...}``, all that was trained.
      residual: of the profile of an average that was put together from snapshots (``PostHoc``), None for one that was tracked.
      note: what is to be said of such an average wherever it is used (``PostHoc.line``).
    """

    denoiser: NetworkDenoiser
    config: dict[str, Any]
    step: int
    ema: float | None
    spec: DataSpec
    parts: Parts
    versions: dict[str, str]
    params: Any
    residual: float | None = None
    note: str | None = None


def load(workdir: str | Path, ema: int | float | None = 0, step: int | str | None = None) -> Loaded:
    """The run in ``workdir``.

    Args:
      ema: which average: its position in ``config.training.ema`` (an int), its decay or the width of its power-function profile (a
        float), or None for the parameters themselves.  A width between those that were tracked is put together from the snapshots, which a
        line on stderr says, with the residual of its profile.
      step: of the checkpoint; None is the newest, "best" the one with the lowest held-out loss.

    Raises ConfigError for a directory that is no workdir or holds no such checkpoint or average, for a part of its configuration that
    cannot be imported, and for a checkpoint of another network, naming the first parameter that differs.
    """
    workdir = Path(workdir)
    record = read_workdir(workdir)
    if not (workdir / "checkpoints").is_dir():
        refuse("workdir", str(workdir), "the workdir of a run that has saved a checkpoint: this one has none yet")
    with Checkpoints(workdir) as checkpoints:
        asked = _step(workdir, checkpoints, step)
        step, (config, parts, params), damaged = _read(checkpoints, lambda s: _of_step(workdir, checkpoints, record, ema, s), asked, step)
    for later, why in damaged.items():
        warnings.warn(f"{workdir}: checkpoint {later} is damaged ({why}): passed over for that of step {step}", stacklevel=2)
    residual, note, kept = None, None, (*parts.options.ema, *parts.options.profiles)
    if params is None:
        found = post_hoc(workdir, parts.options.profiles, abstract_state(parts).ema[len(parts.options.ema) :], ema, step)
        params, step, residual, note = found.params, found.step, found.residual, found.line(ema)
        print(note, file=sys.stderr, flush=True)
    parts = parts.with_range(params)
    position = None if residual is not None else _position(parts.options, ema)
    used = ema if residual is not None else None if position is None else kept[position]
    return Loaded(parts.denoiser(params), config, step, used, parts.spec, parts, record["versions"], params, residual, note)


def check_averages(workdir: str | Path, emas: Iterable[int | float | None], step: int | str | None = None) -> None:
    """Raises ConfigError for the first of ``emas`` that ``load(workdir, ema, step)`` refuses whatever its snapshots hold: none of them is
    read, nor any other array."""
    record = read_workdir(workdir)
    if not (Path(workdir) / "checkpoints").is_dir():
        return  # which ``load`` refuses
    with Checkpoints(Path(workdir)) as checkpoints:
        own = _own_record(checkpoints, record, _step(Path(workdir), checkpoints, step))
    options, _ = options_of(own["config"])
    for ema in emas:
        if not _between(options, ema):
            _position(options, ema)


def _own_record(checkpoints: Checkpoints, record: dict[str, Any], step: int) -> dict[str, Any]:
    """The record that checkpoint ``step`` was made with: its own where ``record``, that of the run, says that something was changed on the
    way."""
    return checkpoints.host(step).get("record", record) if record.get("allowed") else record


def _of_step(
    workdir: Path, checkpoints: Checkpoints, record: dict[str, Any], ema: int | float | None, step: int
) -> tuple[dict[str, Any], Parts, Any]:
    """``(configuration, parts, parameters)`` of checkpoint ``step``.  The parameters are None where they have to be put together from the
    snapshots."""
    own = _own_record(checkpoints, record, step)
    free = {name: record["config"][name] for name in SECTIONS if name in record["config"]}
    config = {name: section for name, section in own["config"].items() if name not in SECTIONS} | free
    data = own["data"]
    try:
        parts = anywhere(build_parts(config, DataSpec(tuple(data["shape"]), data["num_classes"], data["fingerprint"]), own["sigma_data"]))
    except ConfigError as error:
        where = "config.json" if config == record["config"] else f"checkpoints/{step}"
        raise ConfigError(f"{workdir / where}: {error}") from None
    if _between(parts.options, ema):
        return config, parts, None
    return config, parts, _params(checkpoints, abstract_state(parts), _position(parts.options, ema), step)


def _between(options: TrainingOptions, ema: int | float | None) -> bool:
    """Whether ``ema`` is a width that has to be put together: none of those kept, and in the tracked range."""
    widths = options.profiles
    return isinstance(ema, float) and ema not in (*options.ema, *widths) and bool(widths) and min(widths) < ema < max(widths)


def _position(options: TrainingOptions, ema: int | float | None) -> int | None:
    decays, widths = options.ema, options.profiles
    kept = (*decays, *widths)
    if ema is None or (ema == 0 and not kept):
        return None
    if isinstance(ema, float) and ema in kept:
        return kept.index(ema)
    if isinstance(ema, int) and not isinstance(ema, bool) and 0 <= ema < len(kept):
        return ema
    between = f", a width from {min(widths)} to {max(widths)}" if widths else ""
    refuse("ema", ema, f"a position below {len(kept)}, one of the decays {decays}{between}, or None for the parameters themselves")


def _step(workdir: Path, checkpoints: Checkpoints, step: int | str | None) -> int:
    steps = checkpoints.steps
    if not steps:
        refuse("workdir", str(workdir), "the workdir of a run that has saved a checkpoint: this one has none yet")
    if step is None:
        return steps[-1]
    if step == "best":
        return steps[-1] if checkpoints.best is None else checkpoints.best
    if step not in steps:
        refuse("step", step, f"one of {', '.join(map(str, steps))}, 'best', or None for the newest", [*map(str, steps), "best"])
    return step


def _read(checkpoints: Checkpoints, read: Callable[[int], Any], step: int, asked: int | str | None) -> tuple[int, Any, dict[int, str]]:
    """``(step, read(step), {later step: what is wrong with it})``: the newest that can be read, unless a certain one was asked for."""
    if asked is None:
        return newest(checkpoints, read)
    if (why := checkpoints.damage(step)) is not None:
        refuse("step", step, f"a checkpoint that can be read: this one is damaged ({why})")
    return step, read_sound(checkpoints, read, step), {}


def _params(checkpoints: Checkpoints, like: TrainState, position: int | None, step: int) -> Any:
    """The parameters or one average, and nothing else of the state, on the first device."""
    if position is None:
        return checkpoints.restore({"params": like.params}, step)[0]["params"]
    asked = tuple(average if i == position else None for i, average in enumerate(like.ema))
    return checkpoints.restore({"ema": asked}, step)[0]["ema"][position]
