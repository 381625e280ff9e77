"""What is kept of a run, band by band: sums over trajectories at every network call, and their bootstrap replicates; no state is kept.

    c = Q^T (x_t - alpha mu),   a = Q^T (x0_theta - mu),   e = Q^T eps_theta,   m = Q^T mu          per trajectory and call
    sums over j of w_rj (r = 0: all ones; r = 1..R: Poisson):
        state_b = sum_{i in b} c_i^2,   x0_b = sum a_i^2,   eps_b = sum e_i^2,   cross_b = sum c_i e_i,   lean_b = sum c_i m_i
        and the numbers that papers plot: ||eps||, ||eps||^2, ||x0_theta||^2, ||x_t||^2, the pixel variance of x_t, cos(eps, x_t)

    sums over j of c in ``BLOCKS`` blocks, j modulo their number: the mean, and how far it is known

    memory: calls x (R + 1) x (5 B + 7) numbers and calls x BLOCKS x d, whatever the number of trajectories
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.denoiser import Prediction
from score_lab.linear import expand
from score_lab.mismatch.replicates import poisson_weights
from score_lab.mismatch.spectrum import Spectrum, by_band
from score_lab.samplers.record import nominal, put
from score_lab.types import Array, leaf, pytree_dataclass, static

__all__ = ["BANDED", "PLOTTED", "BandRecord", "BandRecorder"]

BANDED = ("state", "x0", "eps", "cross", "lean")
"""Sums by band."""
PLOTTED = ("eps_norm", "eps_square", "x0_square", "x_square", "pixel_variance", "cosine", "fed")
"""One number per trajectory, as papers plot them: norms of the whole state, not divided by d; ``fed`` is the log-SNR that was told."""


BLOCKS = 10
"""Of trajectories, whose mean coefficients are kept apart."""
_FAR = 1e30
"""What stands for an infinite log-SNR in a sum over weights that may be 0."""


@dataclasses.dataclass(frozen=True)
class BandRecord:
    """Rows are the network calls that were made, in order.

    ``t``, ``log_snr`` (K,); ``weight`` (R + 1,) sums of weights; ``banded`` name -> (K, R + 1, B) and ``plotted`` name -> (K, R + 1), sums;
    ``mean`` (K, *shape) the mean coefficients c; ``invalid`` (K,) the number of trajectories that are not finite, ``first`` their least
    index (-1: none); ``spectrum`` the digest of the spectrum whose bands and mean these are ("": given, not measured);
    ``blocks`` (K, BLOCKS, *shape) the sums of c over the trajectories whose index is 0, 1, ... modulo their number, and ``sizes`` (BLOCKS,)
    how many these are, None where they were not kept.
    """

    t: np.ndarray
    log_snr: np.ndarray
    weight: np.ndarray
    banded: dict[str, np.ndarray]
    plotted: dict[str, np.ndarray]
    mean: np.ndarray
    invalid: np.ndarray
    first: np.ndarray
    spectrum: str = ""
    blocks: np.ndarray | None = None
    sizes: np.ndarray | None = None

    @property
    def n(self) -> int:
        """Trajectories."""
        return int(self.weight[0])

    def check(self, spectrum: Spectrum) -> None:
        """ConfigError unless it can be read with ``spectrum``: as many bands, and measured on the same data in the same way."""
        bands = self.banded["state"].shape[-1]
        if bands != len(spectrum.variance):
            refuse("spectrum", f"{len(spectrum.variance)} bands", f"the spectrum of the record, which has {bands}")
        spectrum.check_data(self.spectrum)

    def means(self, name: str) -> np.ndarray:
        """Sums over weights: (K, R + 1, B) of a banded quantity, (K, R + 1) of a plotted one; NaN where a replicate has no weight."""
        with np.errstate(invalid="ignore"):
            if name in self.banded:
                return self.banded[name] / self.weight[:, None]
            found = self.plotted[name] / self.weight
        return np.where(np.abs(found) > 0.5 * _FAR, np.copysign(np.inf, found), found) if name == "fed" else found


@pytree_dataclass
class BandRecorder:
    """A ``Recorder`` of the sums above; make it by ``BandRecorder.of(spectrum, key)``."""

    basis: Any = leaf()
    membership: Array = leaf()
    mean: Array = leaf()
    key: Array = leaf()
    replicates: int = static(default=200)
    spectrum: str = static(default="")

    @classmethod
    def of(cls, spectrum: Spectrum, key: Array, replicates: int = 200) -> BandRecorder:
        """For states of the spectrum's shape; ``key`` keys the weights, ``replicates`` >= 20 of them."""
        if replicates < 20:
            refuse("BandRecorder.replicates", replicates, "at least 20")
        real = jnp.result_type(float)
        return cls(spectrum.basis, spectrum.membership(real), jnp.asarray(spectrum.mean, real), key, replicates, spectrum.digest)

    def init(self, num_steps: int, calls: int, x: Array, index: Array) -> dict[str, Any]:
        """Zeros; and the weights of the trajectories ``index``."""
        if x.shape[1:] != self.mean.shape:
            refuse("BandRecorder.spectrum", self.mean.shape, f"of the states' shape, {x.shape[1:]}")
        real, rows, bands = self.membership.dtype, (num_steps, calls), self.membership.shape[1]
        zeros = lambda *shape: jnp.zeros((*rows, *shape), real)  # noqa: E731
        return {
            "w": poisson_weights(self.key, index, self.replicates).astype(real), "index": index, "made": jnp.zeros(rows, bool),
            "t": zeros(), "log_snr": zeros(), "banded": zeros(self.replicates + 1, len(BANDED) * bands),
            "plotted": zeros(self.replicates + 1, len(PLOTTED)), "blocks": zeros(BLOCKS, *self.mean.shape),
            "invalid": jnp.zeros(rows, jnp.int32), "first": jnp.full(rows, jnp.iinfo(jnp.int32).max),
        }  # fmt: skip

    def update(self, record: dict[str, Any], step: Array, call: int, prediction: Prediction, made: Array) -> dict[str, Any]:
        """Adds one call where it was ``made``.  Raises ConfigError for a time per example."""
        p, (t, log_snr, fed) = prediction, nominal("BandRecorder", prediction)
        real, n = self.membership.dtype, p.x_t.shape[0]
        x, x0, eps = (v.astype(real) for v in (p.x_t, p.x0, p.eps))
        mean, alpha = self.mean[None], p.path.alpha(t).astype(real)
        c, a, e = (self.basis.analyse(v) for v in (x - expand(alpha, x) * mean, x0 - mean, eps))
        m = self.basis.analyse(mean)
        banded = jnp.concatenate([by_band(v, self.membership) for v in (c * c, a * a, e * e, c * e, c * m)], axis=1)
        flat, noise = x.reshape(n, -1), eps.reshape(n, -1)
        squares = [jnp.sum(v * v, axis=1) for v in (noise, x0.reshape(n, -1), flat)]
        product = jnp.sqrt(squares[0] * squares[2])
        cosine = jnp.sum(flat * noise, axis=1) / jnp.where(product > 0, product, 1.0)
        fed = jnp.clip(fed.astype(real), -_FAR, _FAR)
        first, fed = fed.reshape(-1)[0], jnp.broadcast_to(fed, (n,))  # told alike as a rule: the sum is of differences, exact then
        pixels = jnp.var(flat, axis=1, ddof=min(1, flat.shape[1] - 1))
        plotted = jnp.stack([jnp.sqrt(squares[0]), *squares, pixels, cosine, fed - first], axis=1)
        bad = ~(jnp.isfinite(banded).all(axis=1) & jnp.isfinite(plotted[:, :-1]).all(axis=1))
        sums = by_band(record["w"], plotted).at[:, -1].add(first * record["w"].sum(axis=1))
        seen = {
            "t": t, "log_snr": log_snr, "banded": by_band(record["w"], banded),
            "plotted": sums, "blocks": _by_block(record["index"], c), "invalid": jnp.sum(bad, dtype=jnp.int32),
            "first": jnp.min(jnp.where(bad, record["index"], jnp.iinfo(jnp.int32).max)),
        }  # fmt: skip
        return put(record, step, call, made, seen)

    def result(self, record: dict[str, Any]) -> dict[str, Any]:
        """Sums, without the trajectories' own weights; ``BandRecord`` is made of it by ``collect``."""
        return {name: value for name, value in record.items() if name not in ("w", "index")} | {
            "weight": record["w"].sum(axis=1), "sizes": _by_block(record["index"], jnp.ones(record["w"].shape[1], record["w"].dtype)),
        }  # fmt: skip

    def merge(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        """The sums of all chunks of one run."""
        first = records[0]
        names = ("banded", "plotted", "weight", "invalid", "blocks", "sizes")
        added = {name: np.sum([np.asarray(r[name], np.float64) for r in records], axis=0) for name in names}
        return first | added | {"first": np.min([r["first"] for r in records], axis=0)}

    def collect(self, result: dict[str, Any]) -> BandRecord:
        """``Samples.record`` on the host, float64, the calls that were made."""
        made = np.asarray(result["made"]).reshape(-1)
        flat = {
            name: np.asarray(v, np.float64).reshape(-1, *np.shape(v)[2:])[made]
            for name, v in result.items() if name not in ("made", "weight", "sizes")
        }  # fmt: skip
        bands = self.membership.shape[1]
        banded = {name: flat["banded"][..., k * bands : (k + 1) * bands] for k, name in enumerate(BANDED)}
        plotted = {name: flat["plotted"][..., k] for k, name in enumerate(PLOTTED)}
        first = np.where(flat["first"] == np.iinfo(np.int32).max, -1, flat["first"]).astype(int)
        weight = np.asarray(result["weight"], np.float64)
        invalid = flat["invalid"].astype(int)
        mean, sizes = flat["blocks"].sum(axis=1) / weight[0], np.asarray(result["sizes"], np.float64)
        kept = (self.spectrum, flat["blocks"], sizes)
        return BandRecord(flat["t"], flat["log_snr"], weight, banded, plotted, mean, invalid, first, *kept)


def _by_block(index: Array, c: Array) -> Array:
    """The sums (BLOCKS, ...) of ``c`` (n, ...) over the trajectories ``index`` (n,) of each block."""
    return jnp.tensordot(jax.nn.one_hot(index % BLOCKS, BLOCKS, dtype=c.dtype), c, axes=((0,), (0,)), precision="highest")
