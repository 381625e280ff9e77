"""The program of a run, and how it is compiled: one ``jax.lax.scan`` over the steps, or an adaptive solver's own loop.

On a CPU the numbers of the steps are a program of their own, compiled quickly and beside the loop's.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import get_opaque_trace_state

from score_lab.samplers.base import Samples
from score_lab.samplers.calls import Calls, NormalDraws, draws_of, renoise
from score_lab.samplers.hoist import scan_steps, table_of
from score_lab.samplers.integrate import chooses_levels, integrated
from score_lab.samplers.steps import Steps
from score_lab.types import PyTree

__all__ = ["lowered", "programs", "run", "traced"]

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""How a program of a few numbers a step is compiled on a CPU: nothing in it is worth being made fast."""
_TOP = get_opaque_trace_state(convention="nnx")
"""jax's where nothing is being traced: this module is imported there."""
BRISK = QUICK | {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": jax.__version_info__ > (0, 11, 0)}
"""How the program of an adaptive solver is compiled on a CPU, in two thirds of the time: with a network whose products and convolutions are
a library's it runs as fast.  XLA's older emitters, which jaxlib has up to 0.11.0, take less time over what a program holds once, as this
one the network, and more over what it holds four times."""


def run(*arguments) -> Samples:
    """The run of ``sample``'s arguments; on a CPU the numbers of its steps are a program of their own, compiled quickly and beside it."""
    if not _apart(arguments):
        with _no_collection():
            return _whole(arguments)(*arguments)
    with contextlib.suppress(_NotCompiled):
        return _scanned(*arguments, _table(*arguments))
    _compile(arguments)
    return _scanned(*arguments, _table(*arguments))


class _NotCompiled(Exception):
    """``_table`` is being traced by a call: there is no program for these arguments."""


_LOWERING = threading.local()
"""``on``: ``_table`` may be traced in this thread."""


@contextlib.contextmanager
def _lowering():
    before, _LOWERING.on = getattr(_LOWERING, "on", False), True
    try:
        yield
    finally:
        _LOWERING.on = before


def _compile(arguments: tuple) -> None:
    """Compiles ``_table`` and ``_sample`` at the same time; calls of them find what was compiled."""
    with _lowering(), _no_collection(), ThreadPoolExecutor(1) as pool:
        small = pool.submit(_table.lower(*arguments).compile)
        lowered(*arguments).compile()
        small.result()


@contextlib.contextmanager
def _no_collection():
    """Tracing makes many objects that live on: looking for garbage among them takes a tenth of a first call."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def lowered(*arguments) -> Any:
    """``_sample``, lowered as ``run`` runs it."""
    if not _apart(arguments):
        return _whole(arguments).lower(*arguments)
    with _lowering():
        return _scanned.lower(*arguments, _table.eval_shape(*arguments))


def _apart(arguments: tuple) -> bool:
    """Whether the numbers of the steps are made by a program of their own: on a CPU, where nobody else is tracing."""
    return _alone(arguments) and not chooses_levels(arguments[1])


def _alone(arguments: tuple) -> bool:
    """Whether this is a program of a CPU, and not part of another one: that has its own options."""
    return jax.default_backend() == "cpu" and not traced(arguments[:-1]) and get_opaque_trace_state(convention="nnx") == _TOP


def _whole(arguments: tuple) -> Any:
    """The program of a run whose numbers are not made apart."""
    return _adaptive if _alone(arguments) and chooses_levels(arguments[1]) else _scanned


def _sample(denoiser, sampler, steps, x_T, key, index, cond, recorder, noise, like, table=None) -> Samples:
    """The whole run; ``table`` is what ``_table`` gave, or None: then it is made here."""
    x, noise = _start(denoiser, steps, x_T, key, index, noise, like)
    if chooses_levels(sampler):
        return integrated(denoiser, sampler, steps, x, noise, cond, recorder, index)
    carry, rows = _carry(denoiser, sampler, steps, x, index, noise, recorder), _rows(steps)
    x, _, nfe, record = scan_steps(_step, carry, rows, (denoiser, sampler, steps, cond, recorder, noise), table)
    return Samples(x=x, nfe=nfe, record=recorder.result(record) if recorder is not None else None)


_scanned = jax.jit(_sample, static_argnames=("like",))
_adaptive = jax.jit(_sample, static_argnames=("like",), compiler_options=BRISK)


def programs() -> int:
    """How many programs ``sample`` has compiled and still has: what a change recompiles is one more."""
    return _scanned._cache_size() + _adaptive._cache_size()


@partial(jax.jit, static_argnames=("like",), compiler_options=QUICK)
def _table(denoiser, sampler, steps, x_T, key, index, cond, recorder, noise, like) -> dict:
    """The numbers that the loop of ``_sample`` reads at its steps (see ``hoist``), of no state: none is computed here.

    Raises _NotCompiled where it would have to be traced by a call.
    """
    if not getattr(_LOWERING, "on", False):
        raise _NotCompiled
    noise = _start(denoiser, steps, x_T, key, index, noise, like)[1]

    def start(x_T, key, index):
        x = _start(denoiser, steps, x_T, key, index, noise, like)[0]
        return _carry(denoiser, sampler, steps, x, index, noise, recorder)

    carry = jax.eval_shape(start, x_T, key, index)
    return table_of(_step, carry, _rows(steps), (denoiser, sampler, steps, cond, recorder, noise))


def _start(denoiser, steps, x_T, key, index, noise, like) -> tuple:
    """The states at the grid's start, before any renoising, and the noise."""
    prior_key, step_key = jax.random.split(key)
    if x_T is None:
        x_T = denoiser.path.prior_sample(prior_key, index, jax.tree.unflatten(*like), steps.start)
    return x_T, NormalDraws.of(step_key, index) if noise is None else noise


def _carry(denoiser, sampler, steps, x, index, noise, recorder) -> tuple:
    """What the loop starts from: ``(x, history, nfe, record)``."""
    path, num_steps = denoiser.path, steps.t.shape[0]
    if steps.renoises:
        x = renoise(path, x, steps.start, steps.t[0], steps.noise_scale, draws_of(noise, jnp.uint32(num_steps), x))
    record = recorder.init(num_steps, sampler.calls, x, index) if recorder is not None else ()
    return x, sampler.init(x, steps, path), jnp.zeros((), jnp.int32), record


def _rows(steps: Steps) -> tuple:
    return jnp.arange(steps.t.shape[0], dtype=jnp.int32), steps.t, steps.s, steps.r


@jax.jit
def _step(denoiser, sampler, steps, cond, recorder, noise, carry, row) -> tuple:
    """One step of the loop, a function of all that it reads: jax traces it once for ``_table`` and ``_sample``."""
    x, history, nfe, record = carry
    k, t, s, r = row
    denoise, draw = Calls(denoiser, cond, k, steps, s, nfe, recorder, record), draws_of(noise, k, x)
    x_s, new, _ = sampler.step(denoise, x, t, s, draw, history)
    if steps.renoises:
        x_s = renoise(denoiser.path, x_s, s, r, steps.noise_scale, draw)
    return _typed(x_s, x), _typed(new, history), denoise.nfe, denoise.record


def _typed(new: PyTree, old: PyTree) -> PyTree:
    """``new`` in the precision of ``old``: the loop's state keeps its own, whatever the network's."""
    return jax.tree.map(lambda a, b: a if a.dtype == b.dtype else a.astype(b.dtype), new, old)


def traced(tree: PyTree) -> bool:
    """Whether any array of ``tree`` is being traced."""
    return any(isinstance(v, jax.core.Tracer) for v in jax.tree.leaves(tree))
