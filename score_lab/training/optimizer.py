"""The optimizer: any of Optax or its contrib by name, after clipping by the global norm, at a learning rate that warms up and decays.

    rate(k) = learning_rate min(1, (k + 1)/warmup) schedule(k),    k = 0, 1, ... steps - 1,    u = (k - warmup)/(steps - warmup) in [0, 1]

    constant      1
    linear        1 - (1 - final) u
    cosine        final + (1 - final) (1 + cos(pi u))/2            (Loshchilov & Hutter 2017)
    inverse_sqrt  sqrt(d / max(k + 1, d)),  d = decay_after        (Vaswani et al. 2017: d = warmup; Karras et al. 2024, EDM2, eq. 67)

The first step has the rate ``learning_rate / warmup``, not 0: every step moves.  Leaves with settings of their own: groups.py.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax.typing import ArrayLike

from score_lab.build import ConfigError, find, nearest, refuse
from score_lab.training.groups import grouped, patterns_of
from score_lab.training.magnitude import held_at_magnitude_1
from score_lab.training.schedule_free import is_schedule_free
from score_lab.types import Array

__all__ = ["SCHEDULES", "learning_rate_schedule", "make_optimizer", "optimizer_names"]

SHAPE = ("schedule", "warmup", "final", "decay_after")
OWN = ("name", "learning_rate", *SHAPE, "clip", "groups", "freeze")
"""The fields of ``config.optimizer`` that are not arguments of Optax's function."""

OF_THE_RUN = ("name", *SHAPE, "clip", "groups", "freeze")
"""Those that a group cannot have of its own."""

ABSENT = ("soap",)
"""Optimizers that people ask for by name and that no Optax had when this was written: refused where it has none, used where it has."""

MORE = ("lbfgs", "momo", "momo_adam", "optimistic_adam", "rprop", "sm3", "sophia")
"""Those of Optax whose update asks for more than gradients and parameters, or that take a constant rate alone."""

PROBE = {"bias": jax.ShapeDtypeStruct((2,), jnp.float32), "kernel": jax.ShapeDtypeStruct((2, 2), jnp.float32)}

SCHEDULES = ("constant", "linear", "cosine", "inverse_sqrt")


def learning_rate_schedule(
    learning_rate: float, steps: int, *, schedule: str = "constant", warmup: int = 0, final: float = 0.0, decay_after: int | None = None
) -> Callable[[ArrayLike], Array]:
    """``rate(k)`` of the module for ``steps`` steps; ``final`` is the fraction of the rate left at the end of a linear or cosine decay,
    ``decay_after`` the step after which inverse_sqrt falls, None for the end of the warm-up.
    """

    def rate(k: ArrayLike) -> Array:
        k = jnp.asarray(k, jnp.float32)
        u = jnp.clip((k - warmup) / (steps - warmup), 0.0, 1.0)
        first = max(warmup, 1)
        flat = first if decay_after is None else decay_after
        shape = {
            "constant": lambda: jnp.ones_like(k),
            "linear": lambda: 1.0 - (1.0 - final) * u,
            "cosine": lambda: final + (1.0 - final) * 0.5 * (1.0 + jnp.cos(math.pi * u)),
            "inverse_sqrt": lambda: jnp.sqrt(flat / jnp.maximum(k + 1.0, flat)),
        }[schedule]()
        return learning_rate * jnp.minimum(1.0, (k + 1.0) / first) * shape

    return rate


def make_optimizer(
    config: Mapping[str, Any], steps: int, unit_magnitude: Sequence[str] = ()
) -> tuple[optax.GradientTransformation, Callable]:
    """The transformation and its ``rate(k)`` from ``config.optimizer``.

    Args:
      config: ``name`` (of a function of optax or optax.contrib that takes a learning rate, or "module:Name"), ``learning_rate``,
        ``schedule``, ``warmup``, ``final``, ``decay_after``, ``clip`` (greatest global norm of the trained gradients; None: no clipping),
        ``groups`` and ``freeze`` (groups.py; check_groups compares their patterns with the leaves), and whatever else the function takes.
        ``schedule_free`` takes a ``base_optimizer`` of this form too, at the same rate and, unless it says so, without momentum (b1 = 0).
      steps: of the whole run.
      unit_magnitude: patterns of the leaves that have magnitude 1 after every update, unless they are frozen (magnitude.py).

    Raises ConfigError naming the field, with the nearest name.
    """
    _check(config, steps)
    name, clip = config.get("name"), config.get("clip")
    shape = {key: config[key] for key in SHAPE if key in config}
    fields = {key: value for key, value in config.items() if key not in (*OF_THE_RUN, "learning_rate")}
    update, rate = _named(name, config["learning_rate"], fields, steps, shape, "config.optimizer")
    clipping = optax.identity() if clip is None else optax.clip_by_global_norm(clip)
    if any(patterns_of(config)):
        groups = []
        for i, group in enumerate(config.get("groups") or []):
            own = {key: value for key, value in group.items() if key != "pattern"}
            groups.append(_group(name, config["learning_rate"], fields, own, steps, shape, f"config.optimizer.groups[{i}]"))
        update, trained = grouped(config, update, groups)
        clipping = optax.masked(clipping, trained)
    update = update if clip is None else optax.chain(clipping, update)
    return held_at_magnitude_1(update, unit_magnitude, patterns_of(config)[0]), rate


def optimizer_names() -> list[str]:
    """The functions of optax and optax.contrib that take a learning rate and give what a step can use; not their parts, scale_by_..."""
    names = {name for home in (optax, optax.contrib) for name in dir(home) if _takes_rate(getattr(home, name))}
    return sorted({name for name in names if not name.startswith("scale_by_")} - set(MORE) | {"schedule_free"})


def _group(name: Any, main_rate: Any, fields: dict, own: dict, steps: int, shape: dict, field: str) -> optax.GradientTransformation:
    """The transformation of one group, whose ``own`` fields are instead of those of the run."""
    for key in own:
        if key in OF_THE_RUN:
            refuse(f"{field}.{key}", own[key], f"no {key} of its own: a group has the one of config.optimizer")
    learning_rate = own.pop("learning_rate", main_rate)
    if not _number(learning_rate) or learning_rate <= 0:
        refuse(f"{field}.learning_rate", learning_rate, "a finite number > 0; config.optimizer.freeze is for what is not trained")
    return _named(name, learning_rate, fields | own, steps, shape, field)[0]


def _named(name: Any, learning_rate: float, fields: dict, steps: int, shape: dict, field: str) -> tuple[Any, Callable]:
    """Optax's ``name`` with ``fields``, and its rate."""
    rate, function, fields = learning_rate_schedule(learning_rate, steps, **shape), _function(name), dict(fields)
    known = [p for p in inspect.signature(function).parameters if p not in ("learning_rate", "warmup_steps")]
    for key, value in fields.items():
        if key not in known:
            names = [*(OWN if field == "config.optimizer" else ("pattern", "learning_rate")), *known]
            refuse(f"{field}.{key}", value, f"the fields {', '.join(names)}{nearest(key, names)}")
        if key.endswith("_learning_rate") and _number(value):
            fields[key] = learning_rate_schedule(value, steps, **shape)
    if name == "schedule_free":
        fields["base_optimizer"] = _base(fields.get("base_optimizer", "sgd"), learning_rate, steps, shape, f"{field}.base_optimizer")
    try:
        update = function(learning_rate=rate, **fields)
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{field}: {name!r} refused its arguments {fields}: {' '.join(str(error).split())}") from None
    if ":" not in name:
        _probe(name, update, shape, field)
    return update, rate


def _base(base: Any, learning_rate: float, steps: int, shape: dict, field: str) -> optax.GradientTransformation:
    """What ``schedule_free`` is around: at the same rate, and without momentum unless it is asked for."""
    fields = dict(base) if isinstance(base, Mapping) else {"name": base}
    name = fields.pop("name", None)
    if "b1" in inspect.signature(_function(name, f"{field}.name")).parameters:
        fields.setdefault("b1", 0.0)
    return _named(name, learning_rate, fields, steps, shape, field)[0]


def _probe(name: str, update: optax.GradientTransformation, shape: dict, field: str) -> None:
    """Refuses what cannot make an update of shapes alone: nothing is computed."""
    try:
        state = jax.eval_shape(update.init, PROBE)
        jax.eval_shape(update.update, PROBE, state, PROBE)
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{field}: {name!r} refused its arguments at the first update: {' '.join(str(error).split())[:300]}") from None
    if is_schedule_free(state) and shape.get("schedule", "constant") != "constant":
        refuse("config.optimizer.schedule", shape["schedule"], f"'constant', with warmup or without: {name} averages in place of a decay")


def _function(name: Any, field: str = "config.optimizer.name") -> Callable:
    if isinstance(name, str) and ":" in name:
        return find(name, field=field)
    names = optimizer_names()
    if name in ABSENT and name not in names:
        refuse(field, name, f"an optimizer of the installed optax {optax.__version__}, which has no {name}, or 'module:Name'")
    if name in MORE:
        refuse(field, name, "an optimizer that needs no more than gradients and parameters, and takes a rate that changes with the step")
    if name not in names:
        allowed = f"one of optax's {', '.join(names)}, or 'module:Name'"
        refuse(field, name, allowed, names if isinstance(name, str) else None)
    return getattr(optax, name, None) or getattr(optax.contrib, name)


def _check(config: Mapping[str, Any], steps: int) -> None:
    """Refuses values of the fields of OWN that are of a wrong type or out of range."""

    def check(name: str, default: Any, good: Callable[[Any], bool], allowed: str, names: tuple[str, ...] | None = None) -> None:
        value = config.get(name, default)
        if not good(value):
            refuse(f"config.optimizer.{name}", value, allowed, names if isinstance(value, str) else None)

    check("learning_rate", None, lambda v: _number(v) and v > 0, "a finite number > 0")
    check("schedule", "constant", lambda v: v in SCHEDULES, f"one of {', '.join(SCHEDULES)}", SCHEDULES)
    below = f"an int from 0 to config.training.steps - 1 = {steps - 1}: --config.optimizer.warmup={steps // 10}"
    check("warmup", 0, lambda v: isinstance(v, int) and not isinstance(v, bool) and 0 <= v < steps, below)
    check("final", 0.0, lambda v: _number(v) and 0.0 <= v <= 1.0, "a fraction of the rate in [0, 1]")
    falls, warmup = config.get("schedule", "constant") == "inverse_sqrt", config.get("warmup", 0)
    after = f"an int from {max(warmup, 1)} on (not within the warmup), or None" if falls else "None: it is for the schedule inverse_sqrt"
    check("decay_after", None, lambda v: v is None or falls and _number(v) and isinstance(v, int) and v >= max(warmup, 1), after)
    check("clip", None, lambda v: v is None or _number(v) and v > 0, "a finite norm > 0, or None")


def _takes_rate(value: Any) -> bool:
    if not inspect.isfunction(value):
        return False
    parameters = inspect.signature(value).parameters
    rest = [p for p in parameters.values() if p.name != "learning_rate" and p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    return "learning_rate" in parameters and not rest


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
