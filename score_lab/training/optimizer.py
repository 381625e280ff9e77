"""The optimizer: any of Optax by name, after clipping by the global norm, at a learning rate that warms up and decays.

    rate(k) = learning_rate min(1, (k + 1)/warmup) schedule(k),    k = 0, 1, ... steps - 1,    u = (k - warmup)/(steps - warmup) in [0, 1]

    constant      1
    linear        1 - (1 - final) u
    cosine        final + (1 - final) (1 + cos(pi u))/2            (Loshchilov & Hutter 2017)
    inverse_sqrt  sqrt(warmup / max(k + 1, warmup))                (Vaswani et al. 2017)

The first step has the rate ``learning_rate / warmup``, not 0: every step moves.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from score_lab.build import ConfigError, find, nearest, refuse
from score_lab.types import Array

__all__ = ["SCHEDULES", "learning_rate_schedule", "make_optimizer", "optimizer_names"]

OWN = ("name", "learning_rate", "schedule", "warmup", "final", "clip")
"""The fields of ``config.optimizer`` that are not arguments of Optax's function."""

SCHEDULES = ("constant", "linear", "cosine", "inverse_sqrt")


def learning_rate_schedule(
    learning_rate: float, steps: int, *, schedule: str = "constant", warmup: int = 0, final: float = 0.0
) -> Callable[[ArrayLike], Array]:
    """``rate(k)`` of the module for ``steps`` steps; ``final`` is the fraction of the rate left at the end of a linear or cosine decay."""

    def rate(k: ArrayLike) -> Array:
        k = jnp.asarray(k, jnp.float32)
        u = jnp.clip((k - warmup) / (steps - warmup), 0.0, 1.0)
        first = max(warmup, 1)
        shape = {
            "constant": lambda: jnp.ones_like(k),
            "linear": lambda: 1.0 - (1.0 - final) * u,
            "cosine": lambda: final + (1.0 - final) * 0.5 * (1.0 + jnp.cos(math.pi * u)),
            "inverse_sqrt": lambda: jnp.sqrt(first / jnp.maximum(k + 1.0, first)),
        }[schedule]()
        return learning_rate * jnp.minimum(1.0, (k + 1.0) / first) * shape

    return rate


def make_optimizer(config: Mapping[str, Any], steps: int) -> tuple[optax.GradientTransformation, Callable]:
    """The transformation and its ``rate(k)`` from ``config.optimizer``.

    Args:
      config: ``name`` (of a function of optax that takes a learning rate, or "module:Name"), ``learning_rate``, ``schedule``, ``warmup``,
        ``final``, ``clip`` (greatest global norm of a gradient; None: no clipping), and whatever else the named function takes.
      steps: of the whole run.

    Raises ConfigError naming the field, with the nearest name.
    """
    rest = dict(config)
    name, clip = rest.pop("name", None), rest.pop("clip", None)
    _check(config, steps)
    shape = {key: rest.pop(key) for key in ("schedule", "warmup", "final") if key in rest}
    rate = learning_rate_schedule(rest.pop("learning_rate"), steps, **shape)
    function = _function(name)
    known = [p for p in inspect.signature(function).parameters if p != "learning_rate"]
    for key, value in rest.items():
        if key not in known:
            fields = [*OWN, *known]
            refuse(f"config.optimizer.{key}", value, f"the fields {', '.join(fields)}{nearest(key, fields)}")
    try:
        update = function(learning_rate=rate, **rest)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config.optimizer: {name!r} refused its arguments {rest}: {' '.join(str(error).split())}") from None
    return (update if clip is None else optax.chain(optax.clip_by_global_norm(clip), update)), rate


def optimizer_names() -> list[str]:
    """The functions of optax that take a learning rate and give a gradient transformation."""
    return [name for name in dir(optax) if _takes_rate(getattr(optax, name))]


def _function(name: Any) -> Callable:
    if isinstance(name, str) and ":" in name:
        return find(name, field="config.optimizer.name")
    names = optimizer_names()
    if name not in names:
        allowed = f"one of optax's {', '.join(names)}, or 'module:Name'"
        refuse("config.optimizer.name", name, allowed, names if isinstance(name, str) else None)
    return getattr(optax, name)


def _check(config: Mapping[str, Any], steps: int) -> None:
    """Refuses values of the fields of OWN that are of a wrong type or out of range."""

    def check(name: str, default: Any, good: Callable[[Any], bool], allowed: str, names: tuple[str, ...] | None = None) -> None:
        value = config.get(name, default)
        if not good(value):
            refuse(f"config.optimizer.{name}", value, allowed, names if isinstance(value, str) else None)

    check("learning_rate", None, lambda v: _number(v) and v > 0, "a number > 0")
    check("schedule", "constant", lambda v: v in SCHEDULES, f"one of {', '.join(SCHEDULES)}", SCHEDULES)
    whole = f"an int from 0 to config.training.steps - 1 = {steps - 1}"
    check("warmup", 0, lambda v: isinstance(v, int) and not isinstance(v, bool) and 0 <= v < steps, whole)
    check("final", 0.0, lambda v: _number(v) and 0.0 <= v <= 1.0, "a fraction of the rate in [0, 1]")
    check("clip", None, lambda v: v is None or _number(v) and v > 0, "a norm > 0, or None")


def _takes_rate(value: Any) -> bool:
    if not inspect.isfunction(value):
        return False
    parameters = inspect.signature(value).parameters
    rest = [p for p in parameters.values() if p.name != "learning_rate" and p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    return "learning_rate" in parameters and not rest


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
