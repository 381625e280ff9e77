"""Published lists of noise levels, found by optimisation, and how their authors bring them to another number of steps.

    ln kappa is linear between the list's nodes, at num_steps + 1 equally spaced places from its first node to its last (AYS, "how to use")

With ``to_data`` the last of these levels gives way to the path's t = 0; without, the grid ends at the list's last level.  With as many
steps as the list has, the levels are the list's.
"""

from __future__ import annotations

import numpy as np

from score_lab.build import refuse
from score_lab.paths.base import GaussianPath
from score_lab.samplers.grids.base import step_count, times_of
from score_lab.samplers.steps import Steps
from score_lab.types import pytree_dataclass, static

__all__ = ["NODES", "Nodes"]

NODES = {
    "ays_sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "ays_sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "ays_svd": (700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
    "gits_cifar10": (80.0, 10.9836, 3.8811, 1.584, 0.5666, 0.1698, 0.002),
    "gits_sd15": (
        14.61464119, 5.85520077, 2.84484982, 1.67050016, 1.08895338, 0.74807048, 0.50118381, 0.32104823, 0.19894916, 0.09824532, 0.02916753,
    ),
}  # fmt: skip
"""Levels kappa by name.

``ays_*``: Sabour, Fidler & Kreis 2024 (Align Your Steps), the project page's "how to use": Stable Diffusion 1.5, XL, Video.
``gits_*``: Chen et al. 2024 (On the Trajectory Regularity of ODE-based Diffusion Sampling): CIFAR-10 with EDM's network, coefficient 1.15,
their README; Stable Diffusion 1.5, coefficient 1.20, as ComfyUI has it (their launch script's setting).
GITS's authors search anew for every number of steps; interpolating their list is a convention of its users.
"""


@pytree_dataclass
class Nodes:
    """``num_steps`` steps through a list of levels kappa: a name in ``NODES`` or one's own descending tuple (see the module)."""

    num_steps: int
    nodes: str | tuple = static(default="ays_sd15")
    to_data: bool = True

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""
        n = step_count("Nodes", self.num_steps)
        if isinstance(self.nodes, str) and self.nodes not in NODES:
            refuse("Nodes.nodes", self.nodes, f"one of {', '.join(NODES)}, or descending levels kappa", NODES)
        kappa = np.asarray(NODES[self.nodes] if isinstance(self.nodes, str) else self.nodes, np.float64)
        if kappa.ndim != 1 or len(kappa) < 2 or not ((kappa > 0).all() and (np.diff(kappa) < 0).all()):
            refuse("Nodes.nodes", self.nodes, "at least 2 descending levels kappa > 0 (the step to data is to_data's)")
        levels = -2.0 * np.interp(np.linspace(0, 1, n + 1), np.linspace(0, 1, len(kappa)), np.log(kappa))
        if self.to_data:
            return Steps.of(np.append(times_of(path, levels[:-1], "Nodes.nodes"), 0.0))
        return Steps.of(times_of(path, levels, "Nodes.nodes"))
