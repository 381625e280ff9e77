"""``sample``: a denoiser, a sampler and a grid of steps, in a single compiled ``jax.lax.scan`` (program.py).

    x <- prior at the grid's start;   for (t, s, r) in steps:   x <- renoise(sampler.step(denoise, x, t, s), s -> r)

Everything that a user can get wrong is refused on the host before anything is compiled.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import ConfigError, refuse
from score_lab.denoiser import Denoiser, check_labels, check_levels
from score_lab.paths.base import GaussianPath
from score_lab.samplers.base import Integrator, Recorder, Sampler, Samples
from score_lab.samplers.calls import Calls
from score_lab.samplers.contract import check_sampler, check_step
from score_lab.samplers.integrate import chooses_levels
from score_lab.samplers.program import lowered, run, traced
from score_lab.samplers.steps import Steps, steps_of
from score_lab.types import Array, PyTree, check_pytree

__all__ = ["count", "memory_of", "sample", "shape_of"]


def sample(
    denoiser: Denoiser,
    sampler: Sampler | Integrator,
    grid: Any,
    shape: Any = None,
    key: Array | None = None,
    *,
    x_T: PyTree | None = None,
    index: Any = None,
    cond: Any = None,
    recorder: Recorder | None = None,
    noise: Any = None,
) -> Samples:
    """Draws samples: one compiled scan over the grid's steps.

    Args:
      denoiser: any denoiser; its path is the one that is sampled.
      grid: a grid of ``samplers.grids`` (anything with ``steps(path)``) or ``Steps``.
      shape: ``(n, *shape)`` of the samples, or a pytree of such shapes (a state of several arrays); they start from the path's prior at
        the grid's first level.  Or give ``x_T``.
      key: a typed key; sample i depends on (key, index[i]) alone.
      x_T: states at the grid's first level, in place of ``shape`` (SDEdit, encodings).
      index: (n,) global sample indices, 0..n-1 by default.
      cond: what the network is conditioned on, with a leading axis of n.
      recorder: sees every network call.
      noise: ``(step, call, like) -> standard normals`` in place of the keyed draws: a function, or a pytree that can be called.

    Another key, grid value, path value or guidance scale recompiles nothing; another sampler, shape or number of steps does.

    Raises ConfigError, before anything is compiled, for levels outside the trained range, labels that the network does not have,
    an ``x_T`` or ``shape`` that the denoiser does not take, a grid that does not descend. """
    return _told(run, _arguments(denoiser, sampler, grid, shape, key, x_T, index, cond, recorder, noise))


def memory_of(
    denoiser: Denoiser, sampler: Sampler | Integrator, grid: Any, shape: Any = None, key: Array | None = None, *,
    x_T: PyTree | None = None, index: Any = None, cond: Any = None, recorder: Recorder | None = None, noise: Any = None,
) -> int:  # fmt: skip
    """The bytes that ``sample`` with these arguments needs on one device, as its compiled program says: arguments, results, temporaries."""
    arguments = _arguments(denoiser, sampler, grid, shape, key, x_T, index, cond, recorder, noise)
    program = _told(lowered, arguments).compile()
    found = program.memory_analysis()
    return found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes


def _arguments(denoiser, sampler, grid, shape, key, x_T, index, cond, recorder, noise) -> tuple:
    """What ``_sample`` is called with, checked."""
    n, like = count(shape, x_T, cond)
    index = np.arange(n, dtype=np.int32) if index is None else jnp.asarray(index, jnp.int32)
    if index.shape != (n,):
        refuse("sample.index", index.shape, f"one global index per sample, shape ({n},)")
    check_labels(denoiser, cond, "sample.cond")
    check_pytree(denoiser.path, "path")
    steps = steps_of(grid, denoiser.path)
    if not traced((denoiser, sampler, steps)):
        with jax.ensure_compile_time_eval():  # the checks are the host's, also inside jax.jit
            check_run(denoiser, sampler, steps, denoiser.path)
        denoiser, sampler = (_specialise(_floats(part)) for part in (denoiser, sampler))
    key = _first_key() if key is None else key
    noise = jax.tree_util.Partial(noise) if jax.tree_util.all_leaves([noise]) and callable(noise) else noise
    return denoiser, sampler, steps, x_T, key, index, cond, recorder, noise, like


def _first_key() -> Array:
    """``jax.random.key(0)``; of jax's own generator without the two programs that make it."""
    zero = jax.config.jax_default_prng_impl == "threefry2x32"
    return jax.random.wrap_key_data(np.zeros(2, np.uint32), impl="threefry2x32") if zero else jax.random.key(0)


def _told(call: Any, arguments: tuple) -> Any:
    """``call(*arguments)``; where it cannot be traced, ConfigError if that is because the denoiser does not take the states, or because
    the sampler's step does not return what it should."""
    try:
        return call(*arguments)
    except ConfigError:
        raise
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        denoiser, sampler, steps, x_T, _, index, cond, *_, like = arguments
        x = _check_states(denoiser, steps, x_T, index.shape[0], cond, like, error)
        if not chooses_levels(sampler):
            _check_step(denoiser, sampler, steps, cond, x, error)
        raise


def _check_step(denoiser, sampler, steps, cond, x, error) -> None:
    """``check_step`` of the first step, from ``error``; what the step itself raises is left to be raised as it was."""

    def step(x, carry):
        k, t, s = jnp.zeros((), jnp.int32), steps.t[0], steps.s[0]
        denoise = Calls(denoiser, cond, k, steps, s, jnp.zeros((), jnp.int32), None, ())
        return sampler.step(denoise, x, t, s, lambda: jax.tree.map(jnp.zeros_like, x), carry)

    try:
        check_step(sampler, step, x, jax.eval_shape(lambda x: sampler.init(x, steps, denoiser.path), x))
    except ConfigError as refused:
        raise refused from error
    except Exception:  # noqa: BLE001 - the error of the run says it better
        return


def _check_states(denoiser, steps, x_T, n, cond, like, error) -> PyTree:
    """The shapes of the states; ConfigError, from ``error``, unless the denoiser alone, traced on them, gives x0 and eps of those."""
    shapes = jax.tree.map(np.shape, x_T) if like is None else shape_of(like, n)
    x = jax.tree.map(lambda m: jax.ShapeDtypeStruct(tuple(m), jnp.result_type(float)), shapes, is_leaf=_is_shape)

    def call(denoiser, x, t, s, cond):
        p = denoiser(x, t, cond, s=s, step=jnp.zeros((), jnp.int32))
        return p.x0, p.eps

    try:
        found = jax.eval_shape(call, denoiser, x, steps.t[0], steps.s[0], cond)
    except (TypeError, ValueError, IndexError) as refusal:
        words = str(refusal).strip().split("\n")[0][:200]
    else:
        made = [jax.tree.map(lambda v: v.shape, part) for part in found]
        if all(part == jax.tree.map(lambda v: v.shape, x) for part in made):
            return x
        words = f"x0 and eps come back as {made[0]} and {made[1]}"
    while hasattr(denoiser, "denoiser"):
        denoiser = denoiser.denoiser
    known = np.shape(denoiser.mean) if hasattr(denoiser, "mean") else np.shape(denoiser.means)[1:] if hasattr(denoiser, "means") else None
    takes = "states that the denoiser takes" if known is None else f"({', '.join(map(str, ('n', *known)))})"
    try:
        refuse("sample.x_T" if like is None else "sample.shape", shapes, f"{takes}: in {type(denoiser).__name__}, {words}")
    except ConfigError as refused:
        raise refused from error


def _specialise(part: Any) -> Any:
    """An equivalent cheaper part for the values at hand, where it offers one (guidance at scale 1, DDIM at eta 0)."""
    return part.specialise() if hasattr(part, "specialise") else part


def _floats(part: Any) -> Any:
    """Every number in a field that is a ``float`` as a Python float, so that 3, 3.0 and np.float32(3) are one compiled program."""
    changes = {}
    for f in dataclasses.fields(part) if dataclasses.is_dataclass(part) and not isinstance(part, type) else ():
        value = getattr(part, f.name)
        if f.type in (float, "float") and type(value) is not float and np.ndim(value) == 0:
            changes[f.name] = float(value)
        elif dataclasses.is_dataclass(value) and (new := _floats(value)) is not value:
            changes[f.name] = new
    return dataclasses.replace(part, **changes) if changes else part


def count(shape: Any, x_T: PyTree | None, cond: Any) -> tuple[int, Any]:
    """The number of samples, and the static ``(treedef, shapes of one sample)`` where a prior is to be drawn."""
    if (shape is None) == (x_T is None):
        raise ConfigError("sample: give either shape=(n, *shape) or x_T=states, not both and not neither")
    if x_T is None:
        shapes, tree = jax.tree.flatten(shape, is_leaf=_is_shape)
        if not shapes or not all(_is_shape(m) and len(m) for m in shapes):
            refuse("sample.shape", shape, "(n, *shape), or a pytree of such tuples of integers >= 1")
        leading, like = {int(m[0]) for m in shapes}, (tree, tuple(tuple(map(int, m[1:])) for m in shapes))
    else:
        leading, like = {np.shape(x)[0] if np.ndim(x) else 0 for x in jax.tree.leaves(x_T)}, None
    n = leading.pop() if len(leading) == 1 else 0
    if n < 1:
        field, value = ("sample.shape", shape) if x_T is None else ("sample.x_T", jax.tree.map(np.shape, x_T))
        refuse(field, value, "one leading axis of n >= 1 samples in every array")
    for name, value in (cond or {}).items():
        if np.shape(value)[:1] != (n,):
            refuse(f"sample.cond[{name!r}]", np.shape(value), f"a leading axis of {n}, the number of samples")
    return n, like


def shape_of(like: Any, n: int) -> Any:
    """The ``shape`` of n samples from the second result of ``count``; None where there is none."""
    return None if like is None else jax.tree.unflatten(like[0], [(n, *m) for m in like[1]])


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(m, int | np.integer) and m >= 1 for m in value)


def check_run(denoiser: Denoiser, sampler: Sampler | Integrator, steps: Steps, path: GaussianPath) -> None:
    """Refuses on the host: a sampler or path that jax does not know or that lacks a part, a grid that does not descend, a sampler or
    denoiser that refuses it, levels outside the trained range."""
    check_sampler(sampler)
    steps.check()
    if steps.renoises and sampler.memory:
        allowed = f"a grid that does not: {type(sampler).__name__} remembers {sampler.memory} earlier step(s)"
        refuse("grid", "a grid that renoises (churn, Restart)", allowed)
    if steps.ascends and sampler.stochastic:
        refuse("sampler", type(sampler).__name__, "a deterministic solver: noise drawn on the way up cannot be drawn again on the way down")
    for part in (denoiser, sampler):
        if hasattr(part, "check_steps"):
            part.check_steps(steps, path)
    check_levels(denoiser, np.asarray(_levels(path, steps.t, steps.s if sampler.calls > 1 else steps.t), np.float64))


@jax.jit
def _levels(path: GaussianPath, t: Array, s: Array) -> Array:
    """The log-SNRs at which the network is called: at every t, and at every s that is not pure data by a solver of two calls."""
    return path.log_snr(jnp.concatenate([t, jnp.where(path.sigma(s) > 0, s, t)]))
