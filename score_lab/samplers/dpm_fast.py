"""DPM-Solver-fast: as many evaluations as are asked for, in steps of order 3 and a rest (Lu et al. 2022a, section 3.4; k-diffusion).

    m = floor(nfe / 3) + 1 steps, equal in log-SNR:    3, .., 3, 2, 1 where 3 divides nfe,    else 3, .., 3 and one of order nfe mod 3

``DPMFast`` is the solver alone, for any grid of that many steps; ``dpm_fast`` gives it with k-diffusion's grid, which ends at a finite
level.  On a grid that ends at data the last step, and from pure noise the first, is of order 1 and costs one evaluation.
"""

from __future__ import annotations

import numpy as np

from score_lab.build import refuse
from score_lab.samplers.dpm_forms import NoisePrediction
from score_lab.samplers.dpm_singlestep import DPMSolverSinglestep, order_of
from score_lab.samplers.grids.base import UniformLogSNR
from score_lab.types import pytree_dataclass

__all__ = ["DPMFast", "dpm_fast", "fast_orders"]


def fast_orders(nfe: int) -> tuple[int, ...]:
    """k-diffusion's orders for ``nfe`` evaluations: as many 3 as fit, then 2, 1 or the remainder (Lu et al. 2022a, section 3.4)."""
    if isinstance(nfe, bool) or not isinstance(nfe, int | np.integer) or nfe < 1:
        refuse("dpm_fast.nfe", nfe, "a whole number of evaluations, at least 1")
    m = int(nfe) // 3 + 1
    return (3,) * (m - 2) + (2, 1) if nfe % 3 == 0 else (3,) * (m - 1) + (int(nfe) % 3,)


@pytree_dataclass
class DPMFast:
    """``nfe`` evaluations on a grid of ``steps_for(nfe)`` steps; None: as many as the grid's N steps make, 3 (N - 1), with the orders
    3, .., 3, 2, 1.

    ``eta`` > 0: ancestral steps, noise times ``s_noise``, as in ``DPMSolverSinglestep``, whose steps these are.
    """

    nfe: int | None = None
    eta: float | None = None
    s_noise: float = 1.0
    calls = 3
    memory = 0

    @property
    def order(self) -> int:
        """That of a step of order 2 and one of order 1 behind steps of order 3."""
        return order_of((3, 3, 3, 2, 1) if self.nfe is None else fast_orders(self.nfe))

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn."""
        return self.eta is not None

    def specialise(self) -> DPMFast:
        """The ODE where eta is 0."""
        return DPMFast(self.nfe, float(self.eta) or None, self.s_noise) if self.eta is not None else self

    def check(self) -> None:
        """``nfe`` a whole number from 1, and the fields of ``DPMSolverSinglestep``."""
        self.solver(self.steps_for(1 if self.nfe is None else self.nfe)).check()

    def check_steps(self, steps, path) -> None:
        """The same check on every use; a grid of as many steps as ``nfe`` asks for."""
        self.check()
        n = steps.t.shape[0]
        if self.nfe is not None and n != self.steps_for(self.nfe):
            refuse("grid.num_steps", n, f"{self.steps_for(self.nfe)}, in which DPMFast makes {self.nfe} evaluations")
        self.solver(n).check_steps(steps, path)

    @staticmethod
    def steps_for(nfe: int) -> int:
        """Steps of the grid for ``nfe`` evaluations."""
        return len(fast_orders(nfe))

    def solver(self, num_steps: int) -> DPMSolverSinglestep:
        """What takes the steps of a grid of ``num_steps``."""
        nfe = 3 * (num_steps - 1) or 1
        orders = fast_orders(nfe if self.nfe is None else self.nfe)
        return DPMSolverSinglestep(max(orders), NoisePrediction(), orders=orders, eta=self.eta, s_noise=self.s_noise)

    def init(self, x, steps, path):
        """No history."""
        return ()

    def step(self, denoise, x, t, s, draw, carry):
        """One step of the order that is its own."""
        return self.solver(denoise.steps.t.shape[0]).step(denoise, x, t, s, draw, carry)


def dpm_fast(
    nfe: int, start: float | None = None, end: float | None = None, eta: float | None = None, s_noise: float = 1.0
) -> tuple[DPMFast, UniformLogSNR]:
    """DPM-Solver-fast: the sampler and its grid, ``len(fast_orders(nfe))`` steps equal in log-SNR from ``start`` to ``end``, which together
    make exactly ``nfe`` calls.  ``start``, ``end`` as in ``UniformLogSNR``."""
    steps = len(fast_orders(nfe))
    return DPMFast(nfe, eta, s_noise), UniformLogSNR(steps, start, end, to_data=False)
