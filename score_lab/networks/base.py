"""A network is a pure function ``y = F(params, x, level, cond)`` and a frozen description of it.

    (graph, params) = split(module(shape)),      apply(params, x, ...) = merge(graph, params)(x, ...)

The description (a data class of static fields) is hashable, so the graph of a module is made once per (network, shape), without
parameters being allocated, and merged inside the compiled function.  The parameters live outside, as a nested dict of float32 arrays.
Nothing of diffusion is known here: ``level`` is a finite number per example that says how noisy ``x`` is.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from score_lab.build import refuse
from score_lab.shares import gathered, is_share, let_go
from score_lab.types import Array, Cond, Key, PyTree

__all__ = ["FlaxNetwork", "check_integer", "check_shared", "count_parameters", "divisors", "image_shape", "rematerialised"]

DTYPES = ("float32", "bfloat16", "float16")

REMAT = ("full", "dots_saveable", "dots_with_no_batch_dims_saveable", "everything_saveable", "nothing_saveable")
"""What ``remat`` may be besides None: every block whole, or those of JAX's policies that take no argument of their own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlaxNetwork:
    """What the networks of this room share: the fields below, ``init`` and ``apply``.  A network adds ``module`` and its checks.

    Attributes:
      num_classes: labels are 0 to num_classes - 1, and -1 is "no label"; 0 makes an unconditional network.
      dropout: the rate, in [0, 1); active only in calls that hand over ``key``.
      dtype: the compute dtype by name ("float32", "bfloat16", "float16"); None follows the promoted dtype of ``x`` and the parameters.
        Norms, softmax and the features of the level are computed in float32 or higher whatever it says.
      two_time: whether the network is told a second level, ``level_s``.
      learned_variance: adds a zero-initialised second head, returned as ``(y, {"variance": same shape as x})``.
      augment_dim: numbers of an augmentation's label, ``cond["augment"]`` (batch, augment_dim); 0 where it is told none.
      max_frequency: the highest frequency of the level's features, in radians per unit of level (embedding.py).
      remat: what the backward pass computes again instead of keeping it: None nothing, "full" all inside every block, or what the policy of
        this name in ``jax.checkpoint_policies`` does not keep.  Less memory, more arithmetic; parameters and results are the same.
    """

    num_classes: int = 0
    dropout: float = 0.0
    dtype: str | None = None
    two_time: bool = False
    learned_variance: bool = False
    max_frequency: float = 16.0
    augment_dim: int = 0
    remat: str | None = None

    BLOCKS: ClassVar[tuple[str, ...]] = ()
    """The parts of the module that are lists of blocks, each called through ``rematerialised``: it puts their shares together."""

    @property
    def takes_shares(self) -> bool:
        """Whether ``apply`` takes parameters that are shared out among devices (shares.py) as they are: not where ``apply``, ``cast`` or
        ``module`` of a network of one's own would see shares that it knows nothing of."""
        return type(self).apply is FlaxNetwork.apply and type(self).cast is FlaxNetwork.cast and self.has_own_blocks

    @property
    def has_own_blocks(self) -> bool:
        """Whether ``BLOCKS`` speaks of ``module``: the same class defines both, or it names none.  A subclass with a module of its own may
        call a list of the same name as it likes."""
        module, blocks = (next(cls for cls in type(self).__mro__ if name in vars(cls)) for name in ("module", "BLOCKS"))
        return not self.BLOCKS or module is blocks

    @property
    def uses_convolution(self) -> bool:
        """Whether there are convolutions in it: on CPU their weight gradients are about 100 times slower inside ``lax.scan``."""
        return False

    @property
    def heads_out(self) -> int:
        """Output channels per channel of ``x``: 2 with a learned variance, else 1."""
        return 2 if self.learned_variance else 1

    @property
    def unit_magnitude(self) -> tuple[str, ...]:
        """Patterns of the leaves that training sets to magnitude 1, output by output, after every update (edm2_layers.py); here of none."""
        return ()

    def cast(self, params: PyTree, compute: jnp.dtype) -> PyTree:
        """The parameters as the module is given them: here rounded to the compute dtype."""
        return jax.tree.map(lambda p: p.astype(compute), params, is_leaf=is_share)

    def module(self, shape: tuple[int, ...], rngs: nnx.Rngs) -> nnx.Module:
        """The Flax module for examples of ``shape``: a callable (x, level, level_s, label, augment, key) -> (batch, ..., channels_out)."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises ConfigError for fields that are impossible for any shape."""
        raise NotImplementedError

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises ConfigError for fields that are impossible for examples of ``shape`` (no batch axis)."""
        raise NotImplementedError

    def init(self, key: Key[Array, ""], shape: tuple[int, ...]) -> PyTree:
        """Parameters, a nested dict (string keys) of float32 arrays, for examples of ``shape`` (no batch axis).

        Raises ConfigError for impossible fields.
        """
        shape = tuple(shape)
        self.check()
        self.check_shape(shape)
        return _init(self, shape, key)

    def apply(
        self, params: PyTree, x: Array, level: Array, cond: Cond = None, *, level_s: Array | None = None, key: Array | None = None
    ) -> Any:
        """``y`` of x's shape and dtype, or ``(y, {"variance": ...})`` with a learned variance.

        Args:
          params: what ``init`` returned, in any floating dtype; a leaf may be a Share: those of a block are gathered for the block, and
            once more for its backward pass, the others for all of the call, in the compute dtype.
          x: (batch, *shape).
          level: (batch,), finite: for example a log_snr clipped to [-20, 20], or an angle in [0, pi/2].
          cond: None or ``{"label": int (batch,)}``.  A missing label is -1, "no label".  A network with num_classes = 0 reads no label.
            One with an augment_dim reads ``"augment"`` (batch, augment_dim) too; missing, it is 0, "not augmented".
            Labels are not checked (they are traced); one outside [-1, num_classes) gives NaN, never another class.
          level_s: (batch,), the level at the second time, for a network with ``two_time``; None there means ``level_s = level``.
          key: None for no dropout, or one typed key per example, (batch,): the mask of example i is a function of key[i] alone.

        Raises ConfigError for a ``level_s`` that the network has no input for, an unknown entry of ``cond``, a key that is not per example.
        """
        _check_call(self, x, cond, level_s, key)
        wide = jnp.result_type(x, *jax.tree.leaves(params))
        compute = wide if self.dtype is None else jnp.dtype(self.dtype)
        params = self.cast(params, compute)
        params = {name: part if name in self.BLOCKS else gathered(part) for name, part in params.items()}
        label = (cond or {}).get("label")
        if label is None:
            label = jnp.full(x.shape[:1], -1)
        augment = (cond or {}).get("augment")
        if self.augment_dim:
            augment = jnp.zeros((len(x), self.augment_dim), compute) if augment is None else augment.astype(compute)
        level_s = level if level_s is None else level_s
        module = nnx.merge(_graph(self, x.shape[1:]), _rename(params, int))
        out = module(x.astype(compute), level, level_s, label, augment, key if self.dropout else None).astype(x.dtype)
        if not self.learned_variance:
            return out
        y, variance = jnp.split(out, 2, axis=-1)
        return y, {"variance": variance}


@functools.cache
def _graph(network: FlaxNetwork, shape: tuple[int, ...]) -> nnx.GraphDef:
    """The static half of the module, once per (network, shape); traced abstractly, so nothing is allocated."""
    network.check_shape(shape)
    return nnx.split(nnx.eval_shape(lambda: network.module(shape, nnx.Rngs(0))))[0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _init(network: FlaxNetwork, shape: tuple[int, ...], key: Array) -> PyTree:
    state = nnx.split(network.module(shape, nnx.Rngs(params=key)))[1]
    return _rename(nnx.to_pure_dict(state), str)


def _rename(tree: PyTree, kind: type) -> PyTree:
    """List positions as strings (``kind=str``: what Orbax can save) or as integers again (``kind=int``: what Flax can merge)."""
    if not isinstance(tree, dict):
        return tree
    return {kind(k) if str(k).isdigit() else k: _rename(v, kind) for k, v in tree.items()}


def _check_call(network: FlaxNetwork, x: Array, cond: Cond, level_s: Array | None, key: Array | None) -> None:
    """Refuses, while tracing, what this network would have to ignore."""
    if level_s is not None and not network.two_time:
        refuse("two_time", network.two_time, f"True where level_s is passed: this {type(network).__name__} has no input for a second level")
    known = ["label", "augment"] if network.augment_dim else ["label"]
    unknown = [k for k in (cond or {}) if k not in known]
    if unknown:
        only = "'label' and 'augment', the conditions" if network.augment_dim else "'label', the only condition"
        refuse("cond", unknown[0], f"{only} that this network reads", known)
    augment = (cond or {}).get("augment")
    if augment is not None and augment.shape != (x.shape[0], network.augment_dim):
        refuse("cond['augment'].shape", augment.shape, f"({x.shape[0]}, {network.augment_dim}): augment_dim numbers per example")
    if key is not None and not (jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == x.shape[:1]):
        refuse("key", f"{key.dtype}{list(key.shape)}", f"None, or one typed key per example: key[{x.shape[0]}]")


def check_integer(network: FlaxNetwork, *fields: str, least: int = 1) -> None:
    """Refuses each of ``fields`` that is not an integer of at least ``least``."""
    for field in fields:
        value = getattr(network, field)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            refuse(field, value, f"an integer of at least {least}")


def check_shared(network: FlaxNetwork) -> None:
    """Raises ConfigError for impossible values of the fields that every network has."""
    check_integer(network, "num_classes", "augment_dim", least=0)
    if not 0.0 <= network.dropout < 1.0:
        refuse("dropout", network.dropout, "a rate in [0, 1)")
    if network.dtype is not None and network.dtype not in DTYPES:
        refuse("dtype", network.dtype, f"None (follow x and the parameters) or one of {', '.join(DTYPES)}", DTYPES)
    if not 0.1 <= network.max_frequency <= 1e4:
        refuse("max_frequency", network.max_frequency, "0.1 to 10000 radians per unit of level")
    if network.remat is not None and network.remat not in REMAT:
        refuse("remat", network.remat, f"None (keep everything) or one of {', '.join(REMAT)}", REMAT)


def rematerialised(block: nnx.Module, remat: str | None) -> Callable:
    """``block`` as a function whose backward pass computes again what the policy ``remat`` does not keep; None is ``block`` itself.

    Chen et al. 2016: of a block under "full" only what goes in is kept.  The function is a pure one of the block's parameters and of its
    arguments, all arrays (keys of dropout among them) or None, so that what is computed again is what was computed.  Parameters that are
    shared out are gathered inside it, and once more in the backward pass, whatever else is kept.
    """
    graph, state = nnx.split(block)
    shared = any(map(is_share, jax.tree.leaves(state, is_leaf=is_share)))
    if remat is None and not shared:
        return block
    policy = None if remat == "full" else getattr(jax.checkpoint_policies, remat or "everything_saveable")
    if shared and policy is not None:
        policy = let_go(policy)

    def call(state: PyTree, first: Array, *inputs: Any) -> Array:
        if shared:  # XLA may gather what is ready as early as it likes, all blocks at once: not before this one has its input
            state, first = jax.lax.optimization_barrier((state, first))
        return nnx.merge(graph, gathered(state))(first, *inputs)

    return functools.partial(jax.checkpoint(call, policy=policy), state)


def image_shape(network: FlaxNetwork, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(height, width, channels), or ConfigError if ``shape`` is not that of an image."""
    if len(shape) != 3 or min(shape) < 1:
        refuse("shape", shape, f"(height, width, channels): {type(network).__name__} is a network for images; for vectors there is MLP")
    return shape


def divisors(*sizes: int) -> list[int]:
    """The common divisors of ``sizes``, for messages that say what is allowed."""
    return [d for d in range(1, min(sizes) + 1) if all(s % d == 0 for s in sizes)]


def count_parameters(params: PyTree) -> int:
    """The number of parameters in a tree of arrays (or of their shapes, as ``jax.eval_shape`` of ``init`` gives)."""
    return sum(p.size for p in jax.tree.leaves(params))
