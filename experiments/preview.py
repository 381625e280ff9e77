"""Pictures on the way: ``config.preview = {"every": 500, "n": 64}`` draws 64 samples as ``config.sampling`` says, with the first average.

The noise is the same every time, so that ``WORKDIR/previews/`` shows one set of samples becoming sharp.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from score_lab.build import build, refuse

__all__ = ["PreviewOptions", "preview"]


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
    """The callbacks for ``train``: one if the plain ``config`` asks for previews, else none.  Raises ConfigError naming the field."""
    if not config.get("preview"):
        return []
    options = build({"target": f"{__name__}:PreviewOptions", **config["preview"]}, field="config.preview")

    import jax
    import jax.numpy as jnp

    from experiments.sample import save_picture
    from experiments.sampling import build_sampling, section_of
    from experiments.system import labels_of
    from score_lab.samplers import sample
    from score_lab.training.feed import open_source
    from score_lab.training.options import check_sections

    check_sections(config)
    shape, section = open_source(config).spec.shape, section_of(config)

    def draw(denoiser: Any, step: int) -> None:
        if jax.process_index():
            return  # every process has the whole denoiser, and one of them draws
        classes = getattr(denoiser.network, "num_classes", 0)
        denoiser, sampler, grid = build_sampling(section, denoiser)
        cond = jax.tree.map(jnp.asarray, labels_of(classes, options.n, None))
        key = jax.random.key(section.get("seed", 0))
        samples = sample(denoiser, sampler, grid, (options.n, *shape), key, cond=cond)
        folder = Path(workdir) / "previews"
        folder.mkdir(exist_ok=True)
        run = SimpleNamespace(name=f"step {step}")
        save_picture(folder / f"step_{step:08d}.png", run, np.asarray(samples.x), np.asarray(cond["label"]) if cond else None)

    return [(options.every, draw)]
