"""Every fixed-step record of the peers is reproduced through ``sample`` to 1e-8 relative in float64; what is not is excluded by name."""

import dataclasses

import pytest
from oracle import report
from oracle.case import HERE, Excluded, error, records
from oracle.translate import PEERS, translate

pytestmark = pytest.mark.usefixtures("x64")
RECORDS = {f"{peer}-{name}": record for peer in PEERS for name, record in records(peer).items()}
MORE = ("diffusers", "flow_matching", "azula")
DRAWN = records("diffusers", HERE / "drawn") | records("diffusers", HERE / "drawn" / "end")
DRAWN |= records("diffusers", HERE / "drawn" / "learned")
DRAWN |= {name: r for peer in MORE for name, r in records(peer, HERE / "drawn" / "more").items()}
"""Of ``draw.py``, with options that the other records do not have: diffusers' churn, thresholding, clipping and strides; ``end``: DDPM's
noise at data, and the same without; ``learned``: DDPM's variance that the network gave; ``more``: SA-Solver, DPM++ SDE, learned range,
inverted levels, flow_matching's step_size, azula's predictor-corrector."""
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
        assert error(RECORDS[name], case) <= case.bound
        assert case.bound <= 1e-8 or RECORDS[name].peer == "scipy_ode"


ALSO_SLOW = ("SASolver_more_3", "DPMSolverSDE_more")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in ALSO_SLOW else n for n in DRAWN])
def test_drawn_record(name):
    assert error(DRAWN[name], translate(DRAWN[name])) <= 1e-8


@pytest.mark.parametrize(
    ("name", "changed", "says"),
    [
        ("DDPM_more", {"variance_type": "fixed_large_log"}, "fixed_large_log"),
        ("DDPM_more", {"variance_type": "learned"}, "learned: a variance that the network gave is not positive"),
        ("DDPM_fixed_large", {"variance_type": "learned"}, "learned: the record has no variance"),
        ("SASolver_more", {"algorithm_type": "noise_prediction"}, "noise_prediction"),
        ("SASolver_more", {"tau_func": "<function>"}, "tau_func"),
        ("inverted_more", {"stochastic_sampling": True}, "invert_sigmas"),
    ],
)  # fmt: skip
def test_settings_that_are_not_reproduced_are_named(name, changed, says):
    """They are excluded with a reason, not read as something else."""
    record = DRAWN[name]
    config = record.config | {"resolved": record.config["resolved"] | changed}
    assert says in translate(dataclasses.replace(record, config=config)).reason


def test_adams_methods_of_torchdiffeq_are_named():
    record = dataclasses.replace(DRAWN["step_size_more"], config=DRAWN["step_size_more"].config | {"method": "explicit_adams"})
    assert "Adams" in translate(record).reason


@pytest.mark.parametrize(("arguments", "says"), [(["typo"], "RECORDS: 'typo'"), ([str(HERE / "drawn"), "zzz"], "NAME: 'zzz'")])
def test_records_that_are_not_there_are_one_line(capsys, arguments, says):
    assert report.run(arguments) == 2
    out, err = capsys.readouterr()
    assert err.startswith(says) and len(err.splitlines()) == 1 and not out


def test_how_many_are_held():
    assert len(RECORDS) == 209
    assert sum(not may_be_excluded(record) for record in RECORDS.values()) >= 179
