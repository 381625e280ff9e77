"""Pictures on the way: ``config.preview = {"every": 500, "n": 64}`` draws 64 samples as ``config.sampling`` says, with the first average.

The noise is the same every time, so that ``WORKDIR/previews/`` shows one set of samples becoming sharp: a picture per step, the film of
them (``film.gif``), and the same pictures in TensorBoard.

    process p of P makes the samples  p ceil(n / P) ... (p + 1) ceil(n / P) - 1  on its own devices;   process 0 gathers and draws them

Sample i depends on the seed and i alone, so that any number of processes and devices draws the picture that one device draws.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.stills import film, save_still
from score_lab.build import build, refuse

__all__ = ["PreviewOptions", "preview", "samples_of"]

DECIDES = ("seed", "path", "target", "network", "denoiser")
"""The sections of a configuration that say, beside ``sampling``, what samples a preview shows."""
NOT_DRAWN = ("n", "chunk")
"""What of ``sampling`` changes none of them: a preview has its own n, and a sample depends on the seed and its index alone."""


@dataclasses.dataclass(frozen=True)
class PreviewOptions:
    """``config.preview``: ``n`` samples ``every`` so many steps."""

    every: int
    n: int = 64

    def check(self) -> None:
        """Raises ConfigError for a number below 1."""
        for name in ("every", "n"):
            if getattr(self, name) < 1:
                refuse(name, getattr(self, name), "an int of at least 1")


def preview(config: Mapping[str, Any], workdir: str | Path) -> list[tuple[int, Callable]]:
    """The callbacks for ``train``: one if the plain ``config`` asks for previews, else none.  Raises ConfigError naming the field, also for
    data that no picture shows."""
    if not config.get("preview"):
        return []
    options = build({"target": f"{__name__}:PreviewOptions", **config["preview"]}, field="config.preview")

    from experiments.sampling import section_of
    from score_lab.training.feed import open_source
    from score_lab.training.options import check_sections

    check_sections(config)
    shape, section = open_source(config).spec.shape, section_of(config)
    if not (len(shape) == 3 and shape[-1] in (1, 3)) and shape != (2,):
        allowed = f"None: examples of shape {shape} are neither images of 1 or 3 channels nor points (2,)"
        refuse("config.preview", config["preview"], allowed)
    drawn = {name: value for name, value in section.items() if name not in NOT_DRAWN}
    made_by = json.dumps([options.n, drawn, {name: config.get(name) for name in DECIDES}], sort_keys=True)
    folder, most = Path(workdir) / "previews", (config.get("training") or {}).get("devices")

    def previews(denoiser: Any, step: int) -> dict[str, bytes] | None:
        x, label = samples_of(denoiser, section, shape, options.n, most)
        if x is None:
            return None
        file = folder / f"step_{step:08d}.png"
        save_still(file, step, x, label, made_by)
        film(folder, step, made_by)
        return {"preview": file.read_bytes()}

    return [(options.every, previews)]


def samples_of(
    denoiser: Any, section: dict[str, Any], shape: tuple[int, ...], n: int, most: int | None = None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """``(samples (n, *shape), their labels or None)`` of all processes in process 0, and (None, None) in the others.  Each makes its share
    of them on its devices, at most ``most`` of these."""
    import jax
    from jax.experimental import multihost_utils

    from experiments.sampling import build_sampling, options_of
    from experiments.system import labels_of
    from score_lab.samplers import sample_chunked

    cond = labels_of(getattr(denoiser.network, "num_classes", 0), n, None)
    denoiser, sampler, grid = build_sampling(section, denoiser)
    options, devices, processes = options_of(section), jax.local_devices()[:most], jax.process_count()
    together = getattr(sampler, "together", False)  # one step size for all of them: every process makes all, on one device
    share = n if together else -(-n // processes)
    first = 0 if together else share * jax.process_index()
    rows = np.minimum(np.arange(first, first + share, dtype=np.int32), n - 1)
    devices, chunk = (devices[:1], n) if together else (devices, options.chunk)
    if not isinstance(chunk, str):
        chunk = -(-min(chunk, share) // len(devices)) * len(devices)
    own = sample_chunked(
        denoiser, sampler, grid, (share, *shape), jax.random.key(options.seed), index=rows, chunk=chunk,
        cond=None if cond is None else {name: value[rows] for name, value in cond.items()}, devices=devices if len(devices) > 1 else None,
    ).x  # fmt: skip
    if processes > 1 and not together:
        own = np.asarray(multihost_utils.process_allgather(own)).reshape(-1, *shape)
    if jax.process_index():
        return None, None
    return own[:n], None if cond is None else cond["label"]
