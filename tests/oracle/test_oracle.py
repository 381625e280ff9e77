"""Every fixed-step record of the peers is reproduced through ``sample`` to 1e-8 relative in float64; what is not is excluded by name."""

import pytest
from oracle.case import Excluded, error, records
from oracle.translate import PEERS, TRANSLATIONS, translate

pytestmark = pytest.mark.usefixtures("x64")
RECORDS = {f"{peer}-{name}": record for peer in PEERS for name, record in records(peer).items() if record.key in TRANSLATIONS}


@pytest.mark.parametrize("name", RECORDS)
def test_record(name):
    case = translate(RECORDS[name])
    if isinstance(case, Excluded):
        assert case.reason
        return
    assert error(RECORDS[name], case) <= 1e-8
