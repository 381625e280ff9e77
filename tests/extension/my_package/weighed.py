"""A learned weight beside the network (Kendall et al. 2018, eq. 10):  l = exp(-s) l_0 + s,  least at s = ln E l_0;  l_0 of ``Regression``.

``s`` is trained; a moving mean of l_0 and the number of updates are remembered.
"""

import jax.numpy as jnp

from score_lab.objectives import Regression
from score_lab.types import pytree_dataclass


@pytree_dataclass
class Weighed(Regression):
    """``rate`` of the moving mean."""

    rate: float = 0.1

    def init(self, key, spec):
        return {"s": jnp.zeros(())}, {"mean": jnp.zeros(()), "updates": jnp.zeros((), jnp.int32)}

    def loss(self, ctx, params, state, batch):
        loss, metrics, _ = super().loss(ctx, {}, {}, batch)
        mean = state["mean"] + self.rate * (jnp.mean(loss) - state["mean"])
        weighed = jnp.exp(-params["s"]) * loss + params["s"]
        return weighed, metrics | {"plain": loss}, {"mean": mean, "updates": state["updates"] + 1}
