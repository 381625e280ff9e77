"""Forced weight normalisation: after every update the weights that the network names have magnitude 1 (Karras et al. 2024, EDM2, eq. 66).

    w' = w + Optax's update,      w_o <- w'_o / M[w'_o] for every output o,      M[a] = sqrt(mean a^2)

These weights are used divided by their length, so the network stays the same function.  Its gradient is orthogonal to w_o, so a step only
adds to the length, and turns w_o less the longer it has grown; held at 1, the learning rate alone says by how much.

It is the last thing done to an update: ``params + update`` has magnitude 1 whatever made the update (groups, clipping, any optimizer).  A
schedule-free optimizer keeps a second point z, from which and the parameters y its average x follows; z is scaled with y, and so x is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import optax

from score_lab.networks.edm2_layers import to_unit_magnitude
from score_lab.training.names import leaf_name, matches
from score_lab.training.schedule_free import rescaled
from score_lab.types import Array, PyTree

__all__ = ["held_at_magnitude_1"]


def held_at_magnitude_1(optimizer: optax.GradientTransformation, patterns: Sequence[str], freeze: Sequence[str]) -> Any:
    """``optimizer`` whose updates leave magnitude 1, over all axes but the last, to the leaves that ``patterns`` match and ``freeze`` does
    not.  Its state is that of ``optimizer``; without patterns it is ``optimizer`` itself.
    """
    if not patterns:
        return optimizer

    def update(grads: PyTree, state: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
        updates, state = optimizer.update(grads, state, params)

        def factor(path: Any, p: Array, u: Array) -> Array | float:
            name = leaf_name(path)
            return to_unit_magnitude(p + u) if matches(patterns, name) and not matches(freeze, name) else 1.0

        def turned(p: Array, u: Array, f: Array | float) -> Array:
            return u if isinstance(f, float) else (p + u) * f - p

        factors = jax.tree_util.tree_map_with_path(factor, params, updates)
        return jax.tree.map(turned, params, updates, factors), rescaled(state, factors)

    return optax.GradientTransformation(optimizer.init, update)
