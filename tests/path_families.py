"""Every family and its closed forms, written out independently in numpy (complex-safe, so that complex steps give exact derivatives)."""

import jax.numpy as jnp
import numpy as np

from score_lab.paths import EDM, VE, VP, Cosine, DDPMTable, GaussianPath, LinearFlow, SubVP, Trigonometric, ddpm_table
from score_lab.types import pytree_dataclass

inf = np.inf


@pytree_dataclass
class OnlyTwo(GaussianPath):
    """A family that gives nothing but alpha and sigma: alpha = (1 - t)^power, sigma = scale sin(pi t / 2)."""

    power: float = 1.5
    scale: float = 2.0

    def alpha(self, t):
        return (1.0 - t) ** self.power

    def sigma(self, t):
        return self.scale * jnp.sin(0.5 * jnp.pi * t)


def vp(beta_min, beta_max, sub=False):
    def pair(t):
        B = beta_min * t + (beta_max - beta_min) * t**2 / 2
        return np.exp(-B / 2), (-np.expm1(-B) if sub else np.sqrt(-np.expm1(-B)))

    return pair


def ve(low, high):
    return lambda t: (1 + 0 * t, low * (high / low) ** t)


def edm(top):
    return lambda t: (1 + 0 * t, top * t)


def cosine(shift):
    def pair(t):
        c, s = np.sin(np.pi * (1 - t) / 2), np.sin(np.pi * t / 2) * np.exp(-shift / 2)
        return c / np.sqrt(c * c + s * s), s / np.sqrt(c * c + s * s)

    return pair


def flow(t):
    return 1 - t, t


def trigonometric(t):
    return np.sin(np.pi * (1 - t) / 2), np.sin(np.pi * t / 2)


def only_two(power, scale):
    return lambda t: ((1 - t) ** power, scale * np.sin(np.pi * t / 2))


CLOSED = {
    "vp": (VP(), vp(0.1, 20.0)),
    "vp_gentle": (VP(0.001, 0.5), vp(0.001, 0.5)),
    "vp_steep": (VP(0.1, 60.0), vp(0.1, 60.0)),
    "vp_constant": (VP(5.0, 5.0), vp(5.0, 5.0)),
    "subvp": (SubVP(), vp(0.1, 20.0, True)),
    "subvp_steep": (SubVP(0.1, 60.0), vp(0.1, 60.0, True)),
    "ve": (VE(), ve(0.01, 50.0)),
    "ve_wide": (VE(1e-4, 1e4), ve(1e-4, 1e4)),
    "edm": (EDM(), edm(80.0)),
    "edm_small": (EDM(0.5), edm(0.5)),
    "cosine": (Cosine(), cosine(0.0)),
    "cosine_low": (Cosine(-8.0), cosine(-8.0)),
    "cosine_high": (Cosine(8.0), cosine(8.0)),
    "flow": (LinearFlow(), flow),
    "trigonometric": (Trigonometric(), trigonometric),
    "only_two": (OnlyTwo(), only_two(1.5, 2.0)),
}
TABLES = {
    "ddpm": ddpm_table(),
    "ddpm_scaled": ddpm_table("scaled_linear"),
    "ddpm_cosine": ddpm_table("cosine"),
    "ddpm_zero": ddpm_table("linear", zero_terminal=True),
    "ddpm_zero_short": ddpm_table((0.1, 0.3, 1.0)),
    "ddpm_two": ddpm_table((0.2, 0.5)),
    "ddpm_levels": DDPMTable(np.array([3.0, 1.0, -2.0])),
}
ALL = {name: path for name, (path, _) in CLOSED.items()} | TABLES

PI = np.pi
# (alpha', sigma', f, g^2) at t = 0 and at t = 1: limits worked out by hand from the closed forms above
ENDS = {
    "vp": ((-0.05, inf, -0.05, 0.1), (-10 * np.exp(-5.025), 10 * np.exp(-10.05) / np.sqrt(-np.expm1(-10.05)), -10.0, 20.0)),
    "subvp": ((-0.05, 0.1, -0.05, 0.0), (-10 * np.exp(-5.025), 20 * np.exp(-10.05), -10.0, 20 * -np.expm1(-20.1))),
    "ve": ((0.0, 0.01 * np.log(5000), 0.0, 2e-4 * np.log(5000)), (0.0, 50 * np.log(5000), 0.0, 5000 * np.log(5000))),
    "edm": ((0.0, 80.0, 0.0, 0.0), (0.0, 80.0, 0.0, 12800.0)),
    "cosine": ((0.0, PI / 2, 0.0, 0.0), (-PI / 2, 0.0, -inf, inf)),
    "cosine_low": ((0.0, PI / 2 * np.exp(4), 0.0, 0.0), (-PI / 2 * np.exp(-4), 0.0, -inf, inf)),
    "flow": ((-1.0, 1.0, -1.0, 0.0), (-1.0, 1.0, -inf, inf)),
    "trigonometric": ((0.0, PI / 2, 0.0, 0.0), (-PI / 2, 0.0, -inf, inf)),
    "only_two": ((-1.5, PI, -1.5, 0.0), (0.0, 0.0, -inf, inf)),
    "ddpm_two": ((0.0, 1.0, 0.0, 0.0), None),  # kappa(1/2) = sqrt(0.2 / 0.8) = 1/2: slope 1
    "ddpm_zero_short": ((0.0, 1.0, 0.0, 0.0), (-3 * np.sqrt(0.63 / 0.37), 0.0, -inf, inf)),  # kappa(1/3) = 1/3; abar = 0.9, 0.63, 0
}


def grid(near=1e-9):
    """Times in (0, 1), dense and near both ends."""
    ends = np.geomspace(near, 1e-2, 57)
    return np.unique(np.concatenate([ends, np.linspace(0.0, 1.0, 402)[1:-1], 1 - ends]))


def complex_step(pair, t):
    """(alpha, sigma, alpha', sigma') of a reference, derivatives exact to rounding (no differences are taken)."""
    h = 1e-200
    alpha, sigma = pair(t + 1j * h)
    return alpha.real, sigma.real, alpha.imag / h, sigma.imag / h
