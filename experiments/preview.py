"""Pictures on the way: ``config.preview = {"every": 500, "n": 64}`` draws 64 samples as ``config.sampling`` says, with the first average.

The noise is the same every time, so that ``WORKDIR/previews/`` shows one set of samples becoming sharp: a picture per step, the film of
them (``film.gif``), and the same pictures in TensorBoard.

    process p of P makes the samples  p ceil(n / P) ... (p + 1) ceil(n / P) - 1  on its own devices;   process 0 gathers and draws them

Sample i depends on the seed and i alone, so that any number of processes and devices draws the picture that one device draws.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from score_lab.build import build, refuse

__all__ = ["PreviewOptions", "film", "preview"]

FRAMES = 60
"""The most pictures in the film, evenly chosen, the first and the last always: what a film costs does not grow with the run."""
SECONDS = 12.0
"""What the film takes at most, before its last picture; each is shown for half a second at most."""
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


def save_still(file: Path, step: int, x: np.ndarray, label: np.ndarray | None, made_by: str) -> None:
    """The picture of ``step``, whole or not at all; ``made_by`` stands in it as the text of that name."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from experiments.sample import save_picture

    file.parent.mkdir(exist_ok=True)
    unfinished, text = file.with_name(f".{file.name}"), PngInfo()
    text.add_text("made_by", made_by)
    try:
        save_picture(unfinished, SimpleNamespace(name=f"step {step}"), x, label)
        with Image.open(unfinished) as image:
            image.load()
        image.save(unfinished, pnginfo=text)
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def film(folder: Path, step: int, made_by: str) -> Path | None:
    """``folder/film.gif``, the pictures of the same samples up to ``step``, in their order; None where there are fewer than two.

    It is made anew of the pictures, which a run that goes on makes again bit by bit: nothing is lost or doubled.
    """
    from PIL import Image

    def made(file: Path) -> bool:
        number = file.stem.removeprefix("step_")
        return number.isdigit() and int(number) <= step and opened(file, lambda image: image.info.get("made_by") == made_by) is True

    def opened(file: Path, read: Callable[[Any], Any]) -> Any:
        try:
            with Image.open(file) as image:
                return read(image)
        except (OSError, SyntaxError):  # a picture that is torn is left out
            return None

    stills = [file for file in sorted(folder.glob("step_*.png")) if made(file)]
    chosen = np.unique(np.round(np.linspace(0, len(stills) - 1, min(FRAMES, len(stills)))).astype(int))
    frames = [opened(stills[k], lambda image: image.convert("RGB").quantize(64, Image.Quantize.FASTOCTREE)) for k in chosen]
    frames = [frame for frame in frames if frame is not None]
    if len(frames) < 2:
        return None
    each = int(min(1000 * SECONDS / len(frames), 500))
    unfinished, done = folder / ".film.gif", folder / "film.gif"
    try:
        times = [each] * (len(frames) - 1) + [2000]
        frames[0].save(unfinished, save_all=True, append_images=frames[1:], duration=times, loop=0, optimize=False)
        os.replace(unfinished, done)
    finally:
        unfinished.unlink(missing_ok=True)
    return done
