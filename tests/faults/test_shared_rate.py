"""The rate limit that several processes share: not in the catalogue of faults, but tested like one."""

from __future__ import annotations

from support.operators import finish, wait_until

from etl.db.tables import sync_runs


def test_four_processes_together_make_as_many_calls_as_one_may(site):
    """Measured by the account's own record: a busy machine makes calls later than they were allowed."""
    rate, requests, burst = 10, 100, 1
    site.fill(requests)
    began = site.now()
    processes = [site.start("sync", CDR_SYNC_RATE_LIMIT=str(rate)) for _ in range(4)]
    finished = [finish(process) for process in processes]
    wait_until(lambda: site.states() == {"done": requests})
    seconds, paid_until = (site.now() - began).total_seconds(), site.account()["rate_paid_until_us"]
    paid_seconds = paid_until / 1_000_000 - began.timestamp()

    assert [(one.code, one.all) for one in finished] == [(0, "")] * 4
    assert site.simulator.total_calls == requests  # nothing was asked twice
    assert requests / rate <= paid_seconds <= seconds + burst / rate
    assert sum(run["api_calls"] > 0 for run in site.rows(sync_runs)) > 1
