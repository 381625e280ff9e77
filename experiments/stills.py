"""The pictures of a folder of previews, ``step_STEP.png``, each of which says what made it, and the film of those of the same samples.

A picture or film is there whole or not at all, and a film is made anew of the pictures: a run that goes on from a checkpoint makes the
later pictures again bit by bit, and so the same film.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

__all__ = ["FRAMES", "SECONDS", "film", "save_still"]

FRAMES = 60
"""The most pictures in the film, evenly chosen, the first and the last always: what a film costs does not grow with the run."""
SECONDS = 12.0
"""What the film takes at most, before its last picture; each is shown for half a second at most."""


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
