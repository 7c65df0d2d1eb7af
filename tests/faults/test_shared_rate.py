"""The rate limit beside other processes: no fault of the catalogue, and yet of several machines."""

from __future__ import annotations

from time import monotonic

import pytest
from support.operators import finish, wait_until


@pytest.mark.heavy
def test_four_processes_together_make_as_many_calls_as_one_may(site):
    """At least nine tenths, since a machine that is busy with other tests may be slow to come round again."""
    site.simulator.latency = 0.02
    site.fill(400)
    limit = {"CDR_SYNC_RATE_LIMIT": "20"}
    processes = [site.start("sync", "--time-limit", "13s", **limit) for _ in range(4)]
    wait_until(lambda: site.simulator.total_calls >= 10)
    calls, began = site.simulator.total_calls, monotonic()
    wait_until(lambda: monotonic() - began >= 10)
    made, seconds = site.simulator.total_calls - calls, monotonic() - began
    finished = [finish(process) for process in processes]

    assert 0.9 * 20 * seconds <= made <= 1.05 * 20 * seconds
    assert [(one.code, one.all) for one in finished] == [(0, "")] * 4
    assert site.asked_twice() == set()
    assert set(site.states()) == {"done", "pending"}
