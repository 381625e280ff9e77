"""Every fixed-step record of the peers is reproduced through ``sample`` to 1e-8 relative in float64; what is not is excluded by name."""

import pytest
from oracle.case import HERE, Excluded, error, records
from oracle.translate import PEERS, translate

pytestmark = pytest.mark.usefixtures("x64")
RECORDS = {f"{peer}-{name}": record for peer in PEERS for name, record in records(peer).items()}
DRAWN = records("diffusers", HERE / "drawn")
"""Of ``draw.py``: diffusers' churn, thresholding, clipping and strides, with options that the other records do not have."""
NO_SAMPLES = ("likelihood_inputs", "log_likelihood", "likelihood_condot_hutchinson", "likelihood_condot_dopri5_1e-09")
ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
"""torchdiffeq's adaptive methods: one error norm for the whole batch."""


def may_be_excluded(record) -> bool:
    """Values of a path, tables of a grid, likelihoods, and adaptive methods: nothing that is sampled with fixed steps."""
    return record.name.startswith(("path_", "schedule_")) or record.name in NO_SAMPLES or record.config.get("method") in ADAPTIVE


@pytest.mark.parametrize("name", RECORDS)
def test_record(name):
    case = translate(RECORDS[name])
    if isinstance(case, Excluded):
        assert may_be_excluded(RECORDS[name]), case.reason
    else:
        assert error(RECORDS[name], case) <= 1e-8


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_record(name):
    assert error(DRAWN[name], translate(DRAWN[name])) <= 1e-8


def test_how_many_are_held():
    assert len(RECORDS) == 206
    assert sum(not may_be_excluded(record) for record in RECORDS.values()) >= 176
