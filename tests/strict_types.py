"""The type checker that runs inside every function of score_lab during the tests (jaxtyping's import hook calls ``check``).

Beartype, with three rules of ours.  An int is a float where a float is asked (PEP 484).  A protocol is checked by the names of its methods,
without being marked ``runtime_checkable`` in the library.  Constructors are left alone: jax builds a data class that is a pytree from
tracers, shapes and bare sentinels, and none of these is the ``float`` that its annotation promises to a user.
"""

import typing

from beartype import BeartypeConf, beartype

_CONF = BeartypeConf(is_pep484_tower=True)


def check(function):
    """``function`` with its arguments and result checked at every call, unless it is a constructor."""
    if function.__name__ == "__init__":
        return function
    for hint in function.__annotations__.values():
        make_checkable(hint)
    return beartype(conf=_CONF)(function)


def make_checkable(hint):
    """Marks the protocols in ``hint``, however deep (``tuple[Target, ...] | None``), as what ``isinstance`` may be asked about."""
    for part in typing.get_args(hint):
        make_checkable(part)
    if getattr(hint, "_is_protocol", False) and isinstance(hint, type):
        typing.runtime_checkable(hint)
