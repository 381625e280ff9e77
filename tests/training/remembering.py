"""An objective that has a trained parameter and a state beside the network's, for runs that are stopped and go on."""

import jax.numpy as jnp

from score_lab.objectives import Regression
from score_lab.types import pytree_dataclass


@pytree_dataclass
class Remembering(Regression):
    """Regression times a trained positive scale; it remembers a moving mean of the loss, which the loss depends on, and counts calls."""

    def init(self, key, spec):
        return {"scale": jnp.ones(())}, {"mean": jnp.zeros(()), "calls": jnp.zeros((), jnp.int32)}

    def loss(self, ctx, params, state, batch):
        loss, metrics, _ = super().loss(ctx, {}, {}, batch)
        loss = loss * (1.0 + jnp.square(params["scale"]) / (1.0 + state["mean"]))
        return loss, metrics, {"mean": 0.9 * state["mean"] + 0.1 * jnp.mean(loss), "calls": state["calls"] + 1}
