"""Which noise meets which example: pairs (x0, eps) made over the global batch on the host, before it is sharded.

    independent:   eps_i drawn for example i (no coupling: None in the configuration)
    minibatch OT:  eps_pi(i),  pi = argmin over permutations of sum_i ||x0_i - eps_pi(i)||^2      (Pooladian et al. 2023; Tong et al. 2024)

Both marginals are kept.  The noise is what the devices would have drawn for the same key and indices; the pairing moves it between
examples, so that labels and everything else stay with their x0.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from score_lab.build import refuse
from score_lab.objectives.base import draw_noise
from score_lab.types import Array, PyTree, pytree_dataclass

__all__ = ["MinibatchOT"]


@pytree_dataclass
class MinibatchOT:
    """Pairs every example with the noise of the least total squared distance, exactly (Hungarian method: about n^3, 0.1 s at n = 1024).

    ``block``: the largest number of examples assigned at once; a larger batch is cut into consecutive blocks.
    """

    block: int = 1024

    def __call__(self, key: Array, x0: PyTree) -> dict[str, Any]:
        """``{"x0": as given, "noise": paired}`` for the global batch ``x0`` (numpy, (G, *shape)) and the key of the step."""
        n = jax.tree.leaves(x0)[0].shape[0]
        noise = jax.tree.map(np.asarray, _draw(key, jnp.arange(n, dtype=jnp.int32), jax.tree.map(jnp.asarray, x0)))
        left, right = _flat(x0), _flat(noise)
        order = np.empty(n, np.int64)
        for start in range(0, n, self.block):
            rows = slice(start, min(start + self.block, n))
            order[rows] = start + linear_sum_assignment(cdist(left[rows], right[rows], "sqeuclidean"))[1]
        return {"x0": x0, "noise": jax.tree.map(lambda x: x[order], noise)}

    def check(self) -> None:
        """``block >= 2``."""
        if self.block < 2:
            refuse("MinibatchOT.block", self.block, "at least 2")


_draw = jax.jit(draw_noise)


def _flat(x: PyTree) -> np.ndarray:
    """All leaves side by side, float64 (n, d)."""
    return np.concatenate([np.asarray(v, np.float64).reshape(len(v), -1) for v in jax.tree.leaves(x)], axis=1)
