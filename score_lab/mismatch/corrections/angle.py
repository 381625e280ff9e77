"""The step in every band's own angle: a first-order step whose second-order term is what the data's spectrum says of it.

With the mean mu and the spectrum s_b^2 of the data, in coefficients, tan phi_b = kappa / s_b and V_b = alpha^2 s_b^2 + sigma^2:

    u = (x - alpha mu) / sqrt(V_b),    v = cos phi eps - sin phi (x0 - mu) / s_b,    (x0 - mu) / s_b = cos phi u - sin phi v

the probability-flow ODE is du/dphi = v, v the denoiser's.  Three facts about the exact denoiser of any data, as means over forward states:

    E u^2 = 1           V_b is the variance of the forward states
    E u v = 0           the derivative of the first
    E u dv/dphi = -g    the derivative of the second,    g_b(phi) = E v^2 = 1 - MMSE_b / (s_b^2 sin^2 phi_b)

g in [0, 1] is the share of the Wiener filter's error that the denoiser removes: 0 for Gaussian data, 1 where x0 is known.  The second
derivative u'' = dv/dphi is the local error of a first-order step, and its best prediction from u is -g u.  The step solves that over
delta = phi_t - phi_s instead of leaving it out:

    u_s = cos(Theta) u - sin(Theta) / sqrt(g) v,    Theta = delta sqrt(g)

    g = 1    DDIM: u_s = cos(delta) u - sin(delta) v, exact where x0 is known, R = cos^2 delta on Gaussian bands        (4.1)
    g = 0    u_s = u - delta v, Euler in the band's angle, exact on Gaussian bands
    else     E u_s^2 = cos^2 Theta + sin^2 Theta = 1 for any data: no band loses variance, on the forward states of the step's start

The best prediction from u and v both (E v dv/dphi = g' / 2) is u' = v, v' = -g u + g' / (2 g) v: the same step with Theta the integral of
sqrt(g) over it, which is ``trend``.  Where g comes from:

    gaussian    0: from the spectrum alone
    own         the sample's own mean of v^2 over its band, at most 1: from the spectrum and the prediction that the step uses anyway
    forward     s_b^2 (cos^2 phi + g sin^2 phi) = E a_b^2, the energies of x0 on forward samples (a record of ``forward``): one pass of
                the network over data, no sampling, nothing tuned

With noise (DDIM's eta): the part that is not drawn afresh goes to the angle of kappa' = sqrt(sigma_s^2 - eta^2 beta_tilde) / alpha_s in
this way, and eta sqrt(beta_tilde) z is added: the variance is V_b again.  The angle of one band is TrigFlow's time (Lu & Song 2025).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.linear import combine
from score_lab.mismatch.bands import BandRecord
from score_lab.mismatch.corrections.affine import at_precision
from score_lab.mismatch.inversion import on_host
from score_lab.mismatch.measures import variances
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths.base import GaussianPath
from score_lab.paths.transition import transition_variances
from score_lab.samplers.multipliers import nought
from score_lab.types import leaf, pytree_dataclass, static

__all__ = ["AngleStep", "resolved_excess"]

KINDS = ("gaussian", "own", "forward")


@pytree_dataclass
class AngleStep:
    """In place of ``DDIM(eta)``, ``eta`` in [0, 1].  Make it by ``of``: ``root`` and ``angle`` (N, B) are sqrt(g) at the start of every
    step and Theta, for ``kind`` "forward" alone.  One call a step, no memory."""

    basis: Any = leaf()
    band: Any = leaf()
    std: Any = leaf()
    mean: Any = leaf()
    eta: float = 0.0
    root: Any = leaf(default=None)
    angle: Any = leaf(default=None)
    kind: str = static(default="gaussian")
    draws: bool = static(default=True, repr=False)
    order = 1
    calls = 1
    memory = 0

    @classmethod
    def of(
        cls, spectrum: Spectrum, eta: float = 0.0, kind: str = "gaussian", forward: BandRecord | None = None,
        path: GaussianPath | None = None, grid: Any = None, trend: bool = False,
    ) -> AngleStep:  # fmt: skip
        """Of data with this ``spectrum``; kind "forward" needs the record ``forward`` of forward samples (any levels that span the grid's),
        the ``path`` and the ``grid``; ``trend``: Theta is the integral of sqrt(g)."""
        if kind not in KINDS:
            refuse("AngleStep.kind", kind, ", ".join(KINDS), KINDS)
        parts = (spectrum.basis, spectrum.band, np.sqrt(spectrum.variance), spectrum.mean, eta)
        if kind != "forward":
            return cls(*parts, kind=kind)
        if forward is None or path is None or grid is None:
            refuse("AngleStep.forward", None, "a record of forward samples, with path= and grid=: it is what g comes from")
        with jax.enable_x64(True):
            steps = at_precision(grid, path)
            t = np.asarray(steps.t)
            _, beta_tilde = transition_variances(path, steps.t, steps.s)
            kept = np.sqrt(np.maximum(np.asarray(path.sigma(steps.s)) ** 2 - eta**2 * np.asarray(beta_tilde), 0.0))
            alpha_s = np.asarray(path.alpha(steps.s))
        start, end = spectrum.phi(path, t), np.arctan2(kept[:, None], alpha_s[:, None] * np.sqrt(spectrum.variance))
        phi, root = resolved_excess(forward, spectrum, path)
        at = np.stack([np.interp(start[:, b], phi[:, b], root[:, b]) for b in range(root.shape[1])], axis=1)
        angle = (start - end) * at
        if trend:
            share = (np.arange(32) + 0.5) / 32
            fine = end[..., None] + (start - end)[..., None] * share
            along = np.stack([np.interp(fine[:, b], phi[:, b], root[:, b]) for b in range(root.shape[1])], axis=1)
            angle = (start - end) * along.mean(axis=-1)
            angle = np.minimum(angle, 2 * (start - end) * at)  # where g starts from nothing the prediction from v has no base
        return cls(*parts, root=at, angle=angle, kind=kind)

    @property
    def stochastic(self) -> bool:
        """Whether noise is added: not with eta = 0, for which ``sample`` uses the form that draws none."""
        return self.draws and not nought(self.eta)

    def specialise(self) -> AngleStep:
        """The form without draws where eta is 0."""
        return dataclasses.replace(self, eta=0.0, draws=False) if self.draws and float(self.eta) == 0.0 else self

    def check(self) -> None:
        """``0 <= eta <= 1`` and bands that have variance."""
        if not 0 <= self.eta <= 1:
            refuse("AngleStep.eta", self.eta, "0 <= eta <= 1, as of DDIM")
        if not (np.asarray(self.std) > 0).any():
            refuse("AngleStep.std", 0.0, "a spectrum with variance in at least one band")

    def check_steps(self, steps, path) -> None:
        """The same; as many numbers as steps; a grid from noise to data."""
        self.check()
        if steps.ascends:
            refuse("AngleStep", "an encoding", "a grid that runs from noise to data")
        n = int(np.shape(steps.t)[0])
        if self.root is not None and np.shape(self.root)[0] != n:
            refuse("AngleStep.root", f"{np.shape(self.root)[0]} steps", f"{n}, as many as the grid has: it was made for one grid")

    def init(self, x, steps, path):
        """No history."""
        return ()

    def step(self, denoise, x, t, s, draw, carry):
        """One step; a band without variance takes DDIM's."""
        p, path = denoise(x, t), denoise.path
        alpha_t, sigma_t, alpha_s, sigma_s = path.alpha(t), path.sigma(t), path.alpha(s), path.sigma(s)
        fresh = self.eta * jnp.sqrt(transition_variances(path, t, s)[1]) if self.draws else 0.0
        kept = jnp.sqrt(jnp.maximum(sigma_s**2 - fresh**2, 0.0))
        std, band, mean = jnp.asarray(self.std, x.dtype), jnp.asarray(self.band), jnp.asarray(self.mean, x.dtype)
        alive = std > 0
        safe = jnp.where(alive, std, 1.0)
        a, e = self.basis.analyse(p.x0 - mean[None]), self.basis.analyse(p.eps)
        phi, delta = _angles(alpha_t, sigma_t, alpha_s, kept, safe)
        cos, sin = (f(phi).astype(x.dtype)[band][None] for f in (jnp.cos, jnp.sin))
        data = a / safe[band][None]
        u, v = cos * data + sin * e, cos * e - sin * data
        turn, gain = self._coefficients(denoise.step, v, delta.astype(x.dtype))
        size = jnp.hypot(alpha_s * safe, kept).astype(x.dtype)
        moved = jnp.where(alive[band][None], size[band][None] * (turn * u - gain * v), alpha_s * a + kept * e)
        x_s = combine((1.0, self.basis.synthesise(moved)), (alpha_s, jnp.broadcast_to(mean[None], x.shape)))
        return (combine((1.0, x_s), (fresh, draw())) if self.draws else x_s), carry, p

    def _coefficients(self, step, v, delta):
        """cos(Theta) and sin(Theta) / sqrt(g) of every coefficient, to go with u and v (n, *shape); ``delta`` (B,)."""
        band = jnp.asarray(self.band)
        if self.kind == "gaussian":
            return jnp.ones((), v.dtype), delta[band][None]
        if self.kind == "own":
            member = (band.reshape(-1)[:, None] == jnp.arange(len(delta))[None]).astype(v.dtype)
            g = (jnp.square(v).reshape(len(v), -1) @ member) / member.sum(axis=0)[None]
            root = jnp.sqrt(jnp.minimum(g, 1.0))
            angle = delta[None] * root
        else:
            root, angle = (jnp.asarray(w, v.dtype)[step][None] for w in (self.root, self.angle))
        some = root > 1e-6
        gain = jnp.where(some, jnp.sin(angle) / jnp.where(some, root, 1.0), delta[None])
        return jnp.cos(angle)[:, band], gain[:, band]


def _angles(alpha_t, sigma_t, alpha_s, kept, std):
    """``phi_t`` and ``phi_t - phi_s`` (B,)."""
    phi = jnp.arctan2(sigma_t * jnp.ones_like(std), alpha_t * std)
    return phi, phi - jnp.arctan2(kept * jnp.ones_like(std), alpha_s * std)


def resolved_excess(forward: BandRecord, spectrum: Spectrum, path: GaussianPath) -> tuple[np.ndarray, np.ndarray]:
    """``phi_b`` ascending and ``sqrt(g_b)`` there, (K, B) both: how much more than a Wiener filter the denoiser resolves.

    ``g = (E a_b^2 / s_b^2 - cos^2 phi) / sin^2 phi``, cut to [0, 1].  Levels without noise say nothing and are left out, as is what a band
    with sin^2 phi < 1e-3 says, where g is a difference of nearly equal numbers: the nearest level that does is taken.
    """
    _, sigma, _ = on_host(path, forward.t)
    good = sigma > 0
    phi = spectrum.phi(path, forward.t[good])
    found = variances(forward, spectrum, "x0")[good, 0]
    s2 = np.where(spectrum.variance > 0, spectrum.variance, 1.0)
    g = np.clip((found / s2 - np.cos(phi) ** 2) / np.maximum(np.sin(phi) ** 2, 1e-12), 0.0, 1.0)
    order = np.argsort(phi[:, 0])
    phi, root = phi[order], np.sqrt(g[order])
    for b in range(phi.shape[1]):
        told = np.sin(phi[:, b]) ** 2 >= 1e-3
        if told.any():
            root[:, b] = np.interp(phi[:, b], phi[told, b], root[told, b])
    return phi, root
