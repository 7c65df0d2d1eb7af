"""Workers that are killed: nothing is lost, nothing is stored twice, and little is asked for again."""

from __future__ import annotations

import signal

import pytest
from operators import finish


@pytest.mark.fault(1)
def test_a_worker_that_is_killed_right_after_its_claim_costs_no_call(site):
    site.fill(40)
    killed = finish(site.start_sabotaged("after-claim-commit", "KILL", "sync"))
    in_hand, calls = site.running(), site.simulator.total_calls
    again = site.run("sync")

    assert killed.code == -signal.SIGKILL
    assert (len(in_hand), calls) == (3, 0)
    assert (again.code, again.all) == (0, "")
    assert site.states() == {"done": 40}
    assert site.simulator.total_calls == 40
    assert site.outcomes() == ["abandoned", "ok"]
    site.report("taken back at once by the next run on this host")
