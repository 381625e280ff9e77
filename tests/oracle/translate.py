"""The one table of peers: whose class or function, with whose arguments, is which of our samplers on which grid.

Each family's module has ``TRANSLATIONS``: ``"peer:Class"`` or ``"peer:function"`` -> a function of the record that returns a ``Case``, or
``Excluded`` with the reason.  A record of the same peers with other arguments is translated the same way (``make oracle RECORDS=folder``).
"""

from __future__ import annotations

from oracle import adaptive, dpm, multistep, one_step, stochastic
from oracle.case import Case, Compared, Excluded, Record

PEERS = ("diffusers", "k_diffusion", "edm", "flow_matching", "azula", "scipy_ode")
FAMILIES = (adaptive, one_step, multistep, dpm, stochastic)
TRANSLATIONS = {key: function for family in FAMILIES for key, function in family.TRANSLATIONS.items()}


def translate(record: Record) -> Case | Compared | Excluded:
    """Our case for a record; KeyError for a class or function that no family knows."""
    if record.key not in TRANSLATIONS:
        raise KeyError(f"{record.name}: no translation of {record.key}")
    return TRANSLATIONS[record.key](record)
