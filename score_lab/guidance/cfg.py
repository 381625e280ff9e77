"""Classifier-free guidance: a denoiser around a denoiser.

    D_w = D_u + w (D_c - D_u)                                       (Ho & Salimans 2022, eq. 6, with w = 1 + their w: 1 is no guidance)
    rescaled:  D = phi D_w std(D_c) / std(D_w) + (1 - phi) D_w      (Lin et al. 2024, eq. 15-16, on x0; std over one sample)

on x0, which on eps, v and velocity is the same combination.  Only levels with log_snr in ``interval`` are guided (Kynkaanniemi et al.
2024).  The two passes are one batched call; it counts two evaluations, one outside the interval, and at scale 1 no second pass is made.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.denoiser import Denoiser, Prediction, check_labels
from score_lab.guidance.wrapper import Wrapper
from score_lab.linear import batch_of, combine, expand
from score_lab.types import Array, Cond, PyTree, Time, leaf, pytree_dataclass

__all__ = ["CFG", "unconditional"]


def unconditional(cond: Cond) -> Cond:
    """The condition that says nothing: label -1, every other array 0."""
    return {name: jnp.full_like(v, -1) if name == "label" else jnp.zeros_like(v) for name, v in cond.items()}


@pytree_dataclass
class CFG(Wrapper):
    """``D_u + scale (D_c - D_u)`` on x0.

    Fields: the conditional ``denoiser``; ``scale`` (1: none); ``low``, ``high``: the log-SNR interval that is guided; ``rescale`` phi in
    [0, 1]; ``everywhere`` says that the interval is all of them (set by ``specialise``), so that no program for levels outside is compiled.
    ``.parts`` of the prediction are the conditional and the unconditional one.
    """

    denoiser: Denoiser = leaf()
    scale: float = 1.0
    low: float = -float("inf")
    high: float = float("inf")
    rescale: float = 0.0
    everywhere: bool = False

    def specialise(self) -> Any:
        """The bare denoiser at scale 1: no second pass.  Without an interval, the form that knows of none."""
        inner = super().specialise()
        if float(self.scale) == 1.0:
            return inner.denoiser
        return dataclasses.replace(inner, everywhere=bool(self.low == -float("inf") and self.high == float("inf")))

    def check(self) -> None:
        """``low < high``, ``0 <= rescale <= 1`` and a finite scale."""
        if not self.low < self.high:
            refuse("CFG.low, high", (self.low, self.high), "a log-SNR interval, low < high")
        if not 0 <= self.rescale <= 1:
            refuse("CFG.rescale", self.rescale, "0 <= rescale <= 1")
        if not abs(self.scale) < float("inf"):
            refuse("CFG.scale", self.scale, "a finite number; 1 is no guidance")

    def __call__(self, x_t: PyTree, t: Time, cond: Cond = None, *, s=None, step=None, key=None) -> Prediction:
        """The guided prediction; with a scalar t outside the interval the network is called once."""
        if not cond:
            refuse("CFG.cond", cond, "a condition: guidance needs labels (sample(..., cond={'label': ...}))")
        check_labels(self, cond)
        t = jnp.asarray(t)
        if self.everywhere:
            return self._guided(x_t, t, cond, self.scale, s, step, key)
        log_snr = self.path.log_snr(t)
        inside = (log_snr >= self.low) & (log_snr <= self.high)
        guided = lambda: self._guided(x_t, t, cond, jnp.where(inside, self.scale, 1.0), s, step, key)  # noqa: E731
        if t.ndim:
            return guided()
        plain = jax.eval_shape(guided)

        def once():
            p = self.denoiser(x_t, t, cond, s=s, step=step, key=key)
            return self._pack(x_t, t, p, p.x0, (p, p), p.nfe)

        def typed(make):
            return lambda: jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), make(), plain)

        return jax.lax.cond(inside, typed(guided), typed(once))

    def _guided(self, x_t, t, cond, w, s, step, key) -> Prediction:
        c, u = self._both(x_t, t, cond, s, step, key)
        x0 = combine((w, c.x0), (1.0 - w, u.x0))
        x0 = jax.tree.map(lambda g, d: _rescale(g, d, self.rescale), x0, c.x0)
        return self._pack(x_t, t, c, x0, (c, u), c.nfe + u.nfe)

    def _both(self, x_t, t, cond, s, step, key) -> tuple[Prediction, Prediction]:
        """The conditional and the unconditional prediction from one call on the doubled batch, in which a sample's two rows are neighbours.

        (So the batch stays on its devices where it is sharded.)
        """
        twice = lambda v: jax.tree.map(lambda a: _interleave(a, a), v)  # noqa: E731
        both = {name: _interleave(jnp.asarray(a), b) for (name, a), b in zip(cond.items(), unconditional(cond).values(), strict=True)}
        per_example = lambda v: twice(v) if v is not None and jnp.ndim(v) else v  # noqa: E731
        p = self.denoiser(twice(x_t), per_example(t), both, s=per_example(s), step=step, key=per_example(key))
        return _every_second(p, 0, 2 * batch_of(x_t)), _every_second(p, 1, 2 * batch_of(x_t))

    def _pack(self, x_t, t, p, x0, parts, nfe) -> Prediction:
        return Prediction.of(x_t, t, self.path, x0=x0, fed=p.fed, aux=p.aux, nfe=jnp.asarray(nfe, jnp.int32), parts=parts)


def _interleave(a: Array, b: Array) -> Array:
    """Rows a_0, b_0, a_1, b_1, ..."""
    return jnp.stack([a, b], axis=1).reshape((2 * a.shape[0],) + a.shape[1:])


def _every_second(p: Prediction, first: int, rows: int) -> Prediction:
    """The prediction of rows ``first``, ``first + 2``, ...: of everything with a leading axis of ``rows`` but the path."""

    def half(a):
        return a.reshape((rows // 2, 2) + a.shape[1:])[:, first] if jnp.ndim(a) and a.shape[0] == rows else a

    bare = jax.tree.map(half, dataclasses.replace(p, path=None, parts=()))
    return dataclasses.replace(bare, path=p.path, parts=tuple(_every_second(part, first, rows) for part in p.parts))


def _rescale(guided: Array, conditional: Array, phi: Any) -> Array:
    """``phi guided std(conditional) / std(guided) + (1 - phi) guided``; untouched where the guided one is constant."""
    axes = tuple(range(1, guided.ndim))
    std = jnp.std(guided, axis=axes)
    ratio = jnp.where(std > 0, jnp.std(conditional, axis=axes) / jnp.where(std > 0, std, 1.0), 1.0)
    return expand(phi * ratio + (1.0 - phi), guided) * guided
