"""alpha = 1 - t^power, sigma = t: more signal in the middle than the linear flow has."""

from score_lab.paths import GaussianPath
from score_lab.types import pytree_dataclass


@pytree_dataclass
class Parabola(GaussianPath):
    power: float = 2.0

    def alpha(self, t):
        return 1.0 - t**self.power

    def sigma(self, t):
        return 1.0 * t
