"""What all DPM-Solvers share: the exact solution of the linear part, in data or noise prediction, and the Taylor terms of the rest.

With l = ln(alpha / sigma), h = l_s - l_t, m the prediction along the way, m^(j) its derivatives in l at t, and eta the squared multiplier
of the reverse SDE's diffusion (0: the probability-flow ODE; 1: the reverse SDE):

    data, m = x0 (Lu et al. 2022b, eq. 8, 18):     x_s = (sigma_s / sigma_t) e^(-eta h) x_t + alpha_s sum_j H phi_{j+1}(-H) h^j m^(j)
                                                         + sigma_s sqrt(1 - e^(-2 eta h)) z,                            H = (1 + eta) h
    noise, m = eps (Lu et al. 2022a, eq. 3.4):     x_s = (alpha_s / alpha_t) x_t - (1 + eta) sigma_s sum_j h phi_{j+1}(h) h^j m^(j)
                                                         + sigma_s sqrt(eta (e^(2 h) - 1)) z

    phi_0(z) = e^z,    phi_{k+1}(z) = (phi_k(z) - 1/k!) / z

h^j m^(j) from m at l_t and at one or two more nodes l_t + r_i h, r < 0 in the past (multistep), 0 < r < 1 inside the step (singlestep):

    D_i = (m_i - m_0) / r_i,    h m' = D_a   or   (r_b D_a - r_a D_b) / (r_b - r_a),    h^2 m'' = 2 (D_b - D_a) / (r_b - r_a)
    midpoint:  half the weight of m_0 in place of the weight of h m' (equal to it up to O(h^3))

h is infinite to pure data or from pure noise: the step is then its limit, alpha_s x0 + sigma_s eps (eta = 0) or alpha_s x0 + sigma_s z.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.denoiser import Prediction
from score_lab.linear import combine
from score_lab.paths.base import GaussianPath
from score_lab.samplers.lagrange import phi
from score_lab.types import Array, PyTree, pytree_dataclass

__all__ = [
    "DataPrediction", "NoisePrediction", "Update", "advance", "check_form", "check_solver", "choose", "half_log_snr", "second", "third",
    "weights",
]  # fmt: skip


def weights(z: Array) -> tuple[Array, Array, Array]:
    """``z phi_1(z), z phi_2(z), z phi_3(z)`` at every finite z."""
    _, two, three = phi(3, z)
    return jnp.expm1(z), z * two, z * three


def half_log_snr(path: GaussianPath, t: Array) -> Array:
    """``l = ln(alpha / sigma)``, half the log-SNR."""
    return 0.5 * path.log_snr(t)


class Update(NamedTuple):
    """``x_s = x x_t + w[0] m + w[1] h m' + w[2] h^2 m'' + x0 x0 + z noise``; ``x0`` is None where the form never needs it, ``z`` where
    eta is; ``h`` is finite where ``inside``."""

    x: Array
    w: tuple[Array, Array, Array]
    x0: Array | None
    z: Array | None
    h: Array
    inside: Array


def _span(path: GaussianPath, t: Array, s: Array) -> tuple[Array, Array]:
    """h, 1 in place of an infinite one, and whether it is finite."""
    h = half_log_snr(path, s) - half_log_snr(path, t)
    inside = jnp.isfinite(h)
    return jnp.where(inside, h, 1.0), inside


@pytree_dataclass
class DataPrediction:
    """m = x0: DPM-Solver++."""

    def of(self, p: Prediction) -> PyTree:
        """``x0``."""
        return p.x0

    def scale(self, path: GaussianPath, s: Array, h: Array) -> tuple[Array, Array]:
        """``(alpha_s, -h)``: the (c, z) with which h^j m^(j) weighs -c z phi_{j+1}(z) in the ODE's step."""
        return path.alpha(s), -h

    def update(self, path: GaussianPath, t: Array, s: Array, eta: Any = None) -> Update:
        """The weights of the step t -> s; ``eta`` None: the ODE."""
        h, inside = _span(path, t, s)
        alpha_s, sigma_s = path.alpha(s), path.sigma(s)
        w = weights(-h if eta is None else -(1.0 + eta) * h)
        w = tuple(jnp.where(inside, -alpha_s * v, limit) for v, limit in zip(w, (alpha_s, 0.0, 0.0), strict=True))
        c_x, z = sigma_s / path.sigma(t), None
        if eta is not None:
            c_x = c_x * jnp.where(inside, jnp.exp(-eta * h), jnp.where(eta > 0, 0.0, 1.0))
            z = sigma_s * jnp.where(inside, jnp.sqrt(-jnp.expm1(-2.0 * eta * h)), jnp.where(eta > 0, 1.0, 0.0))
        return Update(c_x, w, None, z, h, inside)


@pytree_dataclass
class NoisePrediction:
    """m = eps: DPM-Solver."""

    def of(self, p: Prediction) -> PyTree:
        """``eps``."""
        return p.eps

    def scale(self, path: GaussianPath, s: Array, h: Array) -> tuple[Array, Array]:
        """``(sigma_s, h)``: as in ``DataPrediction``."""
        return path.sigma(s), h

    def update(self, path: GaussianPath, t: Array, s: Array, eta: Any = None) -> Update:
        """The weights of the step t -> s; ``eta`` None: the ODE."""
        h, inside = _span(path, t, s)
        alpha_s, sigma_s, alpha_t = path.alpha(s), path.sigma(s), path.alpha(t)
        more = 1.0 if eta is None else 1.0 + eta
        kept = sigma_s if eta is None else jnp.where(eta > 0, 0.0, sigma_s)
        w = tuple(jnp.where(inside, -more * sigma_s * v, limit) for v, limit in zip(weights(h), (kept, 0.0, 0.0), strict=True))
        z = None
        if eta is not None:
            z = sigma_s * jnp.where(inside, jnp.sqrt(eta * jnp.expm1(2.0 * h)), jnp.where(eta > 0, 1.0, 0.0))
        c_x = jnp.where(inside, alpha_s / jnp.where(alpha_t > 0, alpha_t, 1.0), 0.0)
        return Update(c_x, w, jnp.where(inside, 0.0, alpha_s), z, h, inside)


def second(w: tuple, r: Any, solver: str = "midpoint") -> tuple[Array, Array]:
    """Weights of (m_0, m_a) with h m' = D_a, the other node at l_t + r h; ``midpoint`` or ``heun`` (see the module)."""
    c = (0.5 * w[0] if solver == "midpoint" else w[1]) / r
    return w[0] - c, c


def third(w: tuple, r_a: Any, r_b: Any) -> tuple[Array, Array, Array]:
    """Weights of (m_0, m_a, m_b) with both derivatives, the other nodes at l_t + r_a h and l_t + r_b h."""
    c_a = (r_b * w[1] - 2.0 * w[2]) / ((r_b - r_a) * r_a)
    c_b = (2.0 * w[2] - r_a * w[1]) / ((r_b - r_a) * r_b)
    return w[0] - c_a - c_b, c_a, c_b


def choose(cases: list[tuple[Any, tuple]], length: int) -> tuple:
    """The first weights whose condition holds, among scalars; shorter ones are filled with 0."""
    *others, (_, last) = cases
    chosen = [*last, *[0.0] * (length - len(last))]
    for condition, w in reversed(others):
        chosen = [jnp.where(condition, a, b) for a, b in zip([*w, *[0.0] * (length - len(w))], chosen, strict=True)]
    return tuple(chosen)


def advance(u: Update, c: tuple, x: PyTree, ms: tuple, p: Prediction, noise: PyTree | None = None, s_noise: Any = 1.0) -> PyTree:
    """``x_s``: x times its weight, the predictions ``ms`` times ``c``, the limit's x0, the noise times ``s_noise``."""
    terms = [(u.x, x), *zip(c, ms, strict=True)]
    if u.x0 is not None:
        terms.append((u.x0, p.x0))
    if u.z is not None:
        terms.append((u.z * s_noise, noise))
    return combine(*terms)


def check_form(name: str, form: Any) -> None:
    """ConfigError unless ``form`` has what a form has."""
    if not all(hasattr(form, method) for method in ("of", "scale", "update")):
        refuse(f"{name}.form", form, "DataPrediction() or NoisePrediction(), or a part with of, scale and update")


def check_solver(name: str, part: Any) -> None:
    """``k`` 1, 2 or 3, a form and a known solver, ``eta`` and ``s_noise`` >= 0; ConfigError if not."""
    check_form(name, part.form)
    if isinstance(part.k, bool) or part.k not in (1, 2, 3):
        refuse(f"{name}.k", part.k, "1, 2 or 3")
    if part.solver not in ("midpoint", "heun"):
        refuse(f"{name}.solver", part.solver, "midpoint or heun", ("midpoint", "heun"))
    if part.eta is not None and not 0 <= part.eta < float("inf"):
        refuse(f"{name}.eta", part.eta, ">= 0 and finite, or None for the ODE")
    if not 0 <= part.s_noise < float("inf"):
        refuse(f"{name}.s_noise", part.s_noise, ">= 0 and finite")
