"""Workers that are killed: nothing is lost, nothing is stored twice, and little is asked for again."""

from __future__ import annotations

import signal

import pytest
from support.operators import finish, wait_until

from etl.db.tables import call_legs


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


@pytest.mark.fault(2)
def test_a_worker_that_is_killed_while_bodies_come_in_asks_for_those_alone_again(site):
    site.enqueue(*(f"answered-{number}" for number in range(40)))
    site.simulator.outage, site.simulator.drip_pause = "drip_body", 0.002
    process = site.start("sync")
    wait_until(lambda: site.states().get("done", 0) >= 5)
    process.kill()
    killed = finish(process)
    in_hand, calls = site.running(), site.simulator.total_calls
    site.simulator.outage = None
    again = site.run("sync")

    assert killed.code == -signal.SIGKILL
    assert 0 < len(in_hand) <= 16
    assert (again.code, again.all) == (0, "")
    assert site.states() == {"done": 40}
    assert site.asked_twice() <= in_hand
    assert site.simulator.total_calls <= 40 + len(in_hand)
    assert calls < 40
    site.report(f"what was in hand is asked for again: {len(site.asked_twice())}")


@pytest.mark.fault(3)
def test_a_worker_that_is_killed_between_fence_and_commit_has_stored_nothing(site):
    first, *_ = site.fill(40)
    killed = finish(site.start_sabotaged("before-settle-commit", "KILL", "sync", "--limit", 1))
    in_hand, legs = site.running(), site.rows(call_legs)
    again = site.run("sync")

    assert killed.code == -signal.SIGKILL
    assert (in_hand, legs) == ({first}, [])
    assert (again.code, again.all) == (0, "")
    assert site.states() == {"done": 40}
    assert site.asked_twice() == {first}
    assert site.simulator.total_calls == 41
    site.report("rolled back, and asked for once more")


@pytest.mark.fault(4)
def test_a_worker_that_is_killed_right_after_the_commit_has_stored_all_of_it(site):
    first, *_ = site.fill(40)
    killed = finish(site.start_sabotaged("after-settle-commit", "KILL", "sync", "--limit", 1))
    settled, states = site.request(first), site.states()
    again = site.run("sync")

    assert killed.code == -signal.SIGKILL
    assert states == {"done": 1, "pending": 39}
    assert (again.code, again.all) == (0, "")
    assert site.states() == {"done": 40}
    assert site.request(first) == settled
    assert site.simulator.total_calls == 40
    assert site.ledger("done", "api_calls") == (40, 40)
    assert site.outcomes() == ["abandoned", "ok"]
    site.report("the API is asked once for each ID")


@pytest.mark.fault(18)
@pytest.mark.parametrize(
    "kills",
    ["after a while", "at once"],
)
def test_a_request_that_kills_its_worker_every_time_ends_as_dead_and_its_neighbours_are_done(site, kills):
    killer = "stall_headers-killer"
    site.enqueue(killer)
    for turn in range(1, 4):
        site.enqueue(*(f"answered-{turn}-{number}" for number in range(10)))
        process = site.start("sync", CDR_SYNC_MAX_ATTEMPTS="3")
        wait_until(lambda turn=turn: site.simulator.calls[killer] == turn)
        if kills == "after a while":
            wait_until(lambda turn=turn: site.states().get("done") == turn * 10)
        process.kill()
        finish(process)
    last = site.run("sync", CDR_SYNC_MAX_ATTEMPTS="3")
    row = site.request(killer)

    assert last.code == 65
    assert (row["state"], row["attempts"], row["reclaims"]) == ("dead", 3, 3)
    assert row["last_error_kind"] == "lease_expired"
    assert site.simulator.calls[killer] == 3
    assert site.states() == {"dead": 1, "done": 30}
    site.report("dead with lease_expired, its neighbours done")
