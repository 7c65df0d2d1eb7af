"""Whether the suite is whole: every fault of the catalogue, on every database where it can happen."""

from __future__ import annotations

from support.catalogue import FAULTS


def test_every_fault_is_injected_on_every_database_where_it_can_happen(injected, pytestconfig):
    chosen = set(pytestconfig.getoption("databases").split(","))
    missing = {
        number: wanted
        for number, fault in FAULTS.items()
        if (wanted := (set(fault.databases) & chosen) - injected.get(number, set()))
    }

    assert missing == {}
