"""Sums over trajectories of any statistic of the states, at every network call, with the same bootstrap weights as the bands.

    S_r = sum_j w_rj f(x_t^(j), t, p^(j)),    f: (n, *shape) -> (n, L),   p^(j) what trajectory j is paired with, if anything

What estimators need that band energies do not hold: log-densities of a mixture, the outputs of a probe.  Memory: calls x (R + 1) x L.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.denoiser import Prediction
from score_lab.mismatch.replicates import poisson_weights
from score_lab.samplers.record import nominal, put
from score_lab.types import Array, leaf, pytree_dataclass, static

__all__ = ["SumRecord", "SumRecorder"]


@dataclasses.dataclass(frozen=True)
class SumRecord:
    """Rows are the calls that were made: ``t``, ``log_snr`` (K,), ``sums`` (K, R + 1, L), ``weight`` (R + 1,)."""

    t: np.ndarray
    log_snr: np.ndarray
    sums: np.ndarray
    weight: np.ndarray

    @property
    def n(self) -> int:
        """Trajectories."""
        return int(self.weight[0])

    def means(self) -> np.ndarray:
        """(K, R + 1, L)."""
        return self.sums / self.weight[:, None]


@pytree_dataclass
class SumRecorder:
    """A ``Recorder``: ``statistic(x_t, t, path, *partners) -> (n, L)``, a pytree that can be called and says its ``size`` L; ``key`` of the
    weights; ``replicates`` >= 20; ``partners`` arrays (N, ...), of which trajectory j gets row j: its datum, its noise."""

    statistic: Any = leaf()
    key: Array = leaf()
    replicates: int = static(default=200)
    partners: tuple = leaf(default=())

    def check(self) -> None:
        """ConfigError for fewer than 20 replicates."""
        if self.replicates < 20:
            refuse("SumRecorder.replicates", self.replicates, "at least 20")

    def init(self, num_steps: int, calls: int, x: Array, index: Array) -> dict[str, Any]:
        """Zeros; and the weights of the trajectories ``index``."""
        self.check()
        real = jnp.result_type(float)
        zeros = lambda *shape: jnp.zeros((num_steps, calls, *shape), real)  # noqa: E731
        w = poisson_weights(self.key, index, self.replicates).astype(real)
        sums = zeros(len(w), self.statistic.size)
        partners = tuple(jnp.asarray(p, real)[index] for p in self.partners)
        return {"w": w, "partners": partners, "made": jnp.zeros((num_steps, calls), bool), "t": zeros(), "log_snr": zeros(), "sums": sums}

    def update(self, record: dict[str, Any], step: Array, call: int, prediction: Prediction, made: Array) -> dict[str, Any]:
        """Adds one call where it was ``made``.  Raises ConfigError for a time per example."""
        t, log_snr, _ = nominal("SumRecorder", prediction)
        f = self.statistic(prediction.x_t, t, prediction.path, *record["partners"]).astype(record["w"].dtype)
        return put(record, step, call, made, {"t": t, "log_snr": log_snr, "sums": record["w"] @ f})

    def result(self, record: dict[str, Any]) -> dict[str, Any]:
        """Sums, without the trajectories' own weights."""
        return {name: v for name, v in record.items() if name not in ("w", "partners")} | {"weight": record["w"].sum(axis=1)}

    def merge(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        """The sums of all chunks of one run."""
        added = {name: np.sum([np.asarray(r[name], np.float64) for r in records], axis=0) for name in ("sums", "weight")}
        return records[0] | added

    def collect(self, result: dict[str, Any]) -> SumRecord:
        """``Samples.record`` on the host, float64."""
        made = np.asarray(result["made"]).reshape(-1)
        t, level, sums = (
            np.asarray(result[name], np.float64).reshape(-1, *np.shape(result[name])[2:])[made] for name in ("t", "log_snr", "sums")
        )
        return SumRecord(t, level, sums, np.asarray(result["weight"], np.float64))
