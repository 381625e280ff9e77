"""What a sampler, a recorder and their result are: the contracts of this room.

A sampler is a ``pytree_dataclass`` with

    init(x, steps, path) -> carry                                    history, or () for one-step methods
    step(denoise, x, t, s, draw, carry) -> (x_s, carry, prediction)     one step t -> s, s < t
    order, calls, memory, stochastic                                 declared: order of convergence, most network calls per step,
                                                                     steps of history, whether it draws

``denoise(x, t, s=s)`` calls the network, counts it and shows it to the recorder; ``denoise.path`` is there to read alpha and sigma from,
``denoise.step``, ``denoise.steps`` and ``denoise.before(j)`` for the times of earlier and later steps (multistep coefficients).
``draw()`` is the next standard normal, keyed by (key, global sample index, step, call): a sample depends on its key and its index, never
on its batch-mates.

Shapes: the state is any pytree with a leading batch axis; t and s are scalars.  What depends on t and s alone costs nothing: it is
computed for all steps at once before the loop (see ``hoist``).  Optional: ``check_steps(steps, path)`` refuses on the host;
``specialise()`` gives a cheaper equivalent part.  A sampler that chooses its own levels has ``integrate`` in place of ``init`` and ``step``
(see ``integrate``). """

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from score_lab.denoiser import Prediction
from score_lab.paths.base import GaussianPath
from score_lab.samplers.steps import Steps
from score_lab.types import Array, Draw, PyTree, leaf, pytree_dataclass

if TYPE_CHECKING:
    from score_lab.samplers.calls import Calls

__all__ = ["Integrated", "Integrator", "Recorder", "Sampler", "Samples"]


@runtime_checkable
class Sampler(Protocol):
    """See the module: ``init`` and ``step`` are pure functions of an explicit carry."""

    order: int
    calls: int
    memory: int
    stochastic: bool

    def init(self, x: PyTree, steps: Steps, path: GaussianPath) -> PyTree:
        """The carry before the first step."""

    def step(self, denoise: Calls, x: PyTree, t: Array, s: Array, draw: Draw, carry: PyTree) -> tuple[PyTree, PyTree, Prediction]:
        """``(x_s, carry, prediction)``."""


@runtime_checkable
class Integrator(Protocol):
    """A sampler that chooses its own levels: see ``integrate``."""

    order: int
    calls: int
    memory: int
    stochastic: bool

    def integrate(self, denoise: Any, x_T: PyTree, steps: Steps, draw: Callable) -> Integrated:
        """The states at the grid's levels, of every sample, and what they cost."""


class Integrated(NamedTuple):
    """What an ``Integrator`` returns.

    ``states`` at t_0, s_0, ..., s_{N-1}: x_T's structure, leaf shapes (n, N + 1, *shape); NaN where sample i did not arrive.  ``num_steps``
    attempted steps of each sample, (n,).  ``nfe`` network evaluations spent on each sample, (n,), counted where they are made.
    ``denoised`` x_T's structure and shapes: what the denoise step that may remain gives, alpha_s x0 + sigma_s eps at the grid's last s, of
    a solver that has made that call, and counted it; else None, and ``sample`` makes it.
    """

    states: PyTree
    num_steps: Array
    nfe: Array
    denoised: PyTree = None


@runtime_checkable
class Recorder(Protocol):
    """Sees every network call inside the scan and keeps what it wants in arrays of fixed size; a ``pytree_dataclass``."""

    def init(self, num_steps: int, calls: int, x: PyTree, index: Array) -> PyTree:
        """The empty record for ``num_steps`` steps of at most ``calls`` network calls each, of the samples ``index`` (n,)."""

    def update(self, record: PyTree, step: Array, call: int, prediction: Prediction, made: Array) -> PyTree:
        """The record after one call; ``made`` is False where the call was skipped (a last Euler step of Heun)."""

    def result(self, record: PyTree) -> Any:
        """What ``sample`` returns as ``Samples.record``."""


@pytree_dataclass
class Samples:
    """``x``: the last states; ``nfe``: network evaluations spent per returned sample, counted at the network; ``record``: the recorder's
    result.  Of an adaptive sampler ``nfe`` is (n,), and so is ``num_steps``, its attempted steps; a sample that did not arrive is NaN."""

    x: PyTree = leaf()
    nfe: Array = leaf()
    record: Any = leaf(default=None)
    num_steps: Any = leaf(default=None)
