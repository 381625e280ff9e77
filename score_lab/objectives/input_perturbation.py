"""Input perturbation: the network is trained on states that are noisier than their label says (Ning et al. 2023, algorithm 1).

    x_t = alpha x0 + sigma (eps + gamma xi),    xi ~ N(0, I),    the target is made of eps, not of eps + gamma xi;  gamma = 0.1

What the best network then says is exactly a shift of the label and an epsilon scaling:

    eps_IP(y, t) = (1 + gamma^2)^(-1/2) eps*(y; alpha, sigma sqrt(1 + gamma^2))

a shift of ln kappa by ln(1 + gamma^2) / 2, 0.005 at gamma = 0.1; on a Gaussian band epsilon scaling with lambda = 1 + gamma^2 sin^2 phi.
"""

from __future__ import annotations

import dataclasses

import jax

from score_lab.build import refuse
from score_lab.linear import combine
from score_lab.objectives.base import Context, example_keys
from score_lab.objectives.regression import Noised, Regression
from score_lab.paths.base import normals
from score_lab.types import Array, Batch, PyTree, pytree_dataclass

__all__ = ["InputPerturbation", "perturbation"]


def perturbation(key: Array, index: Array, x0: PyTree) -> PyTree:
    """``xi``: standard normals of x0's structure, row i from (key, index[i]) alone, independent of eps."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), x0)
    return normals(example_keys(key, index, "perturbation"), shapes)


@pytree_dataclass
class InputPerturbation(Regression):
    """``Regression`` on perturbed inputs; ``gamma`` >= 0."""

    gamma: float = 0.1

    def corrupt(self, ctx: Context, batch: Batch) -> Noised:
        """The regression's own draws, with ``sigma gamma xi`` added to x_t."""
        noised = Regression.corrupt(self, ctx, batch)
        xi = perturbation(ctx.key, batch["index"], batch["x0"])
        return dataclasses.replace(noised, x_t=combine((1.0, noised.x_t), (self.gamma * ctx.path.sigma(noised.t), xi)))

    def check(self) -> None:
        """``gamma >= 0``, and what a regression refuses."""
        Regression.check(self)
        if not 0 <= self.gamma < float("inf"):
            refuse("InputPerturbation.gamma", self.gamma, "finite, >= 0")
