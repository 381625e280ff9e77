"""The type checker that runs inside every function of score_lab during the tests (jaxtyping's import hook calls ``check``).

Beartype, with two rules of ours.  An int is a float where a float is asked (PEP 484).  Constructors are left alone: jax builds a data class
that is a pytree from tracers, shapes and bare sentinels, and none of these is the ``float`` that its annotation promises to a user.
"""

from beartype import BeartypeConf, beartype

_CONF = BeartypeConf(is_pep484_tower=True)


def check(function):
    """``function`` with its arguments and result checked at every call, unless it is a constructor."""
    return function if function.__name__ == "__init__" else beartype(conf=_CONF)(function)
