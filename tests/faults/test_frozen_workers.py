"""Workers that freeze past their leases, as in a laptop's sleep: others finish, and they write nothing."""

from __future__ import annotations

import signal

import pytest
from support.ledgers import contradictions
from support.operators import finish, is_frozen, wait_until

from etl.db.tables import call_legs, cdr_requests, cdr_responses

LEASE = {"CDR_SYNC_LEASE": "2s", "CDR_SYNC_REQUEST_TIMEOUT": "1s"}
SHORT_LEASE = {"CDR_SYNC_LEASE": "0.5s", "CDR_SYNC_REQUEST_TIMEOUT": "0.25s"}


def contents(site):
    return [site.rows(table) for table in (cdr_requests, call_legs, cdr_responses)]


def freeze_while_it_waits(site):
    """Freeze a worker from outside while the API makes it wait for its answers."""
    site.simulator.outage = "stall_headers"
    process = site.start("sync", **LEASE)
    wait_until(lambda: site.simulator.total_calls == 4)
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: is_frozen(process))
    site.simulator.outage = None
    return process


def freeze_with_answers_in_hand(site, **environment):
    process = site.start_sabotaged("before-settle-begin", "STOP", "sync", **SHORT_LEASE, **environment)
    wait_until(lambda: is_frozen(process))
    return process


def freeze_past_the_lease(site, freeze, **environment):
    """Freeze a worker, let another one finish everything, and wake it; returns its result and requests."""
    site.enqueue("answered-known")
    site.sync()  # so that a request is known to be good
    site.fill(20)
    frozen = freeze(site, **environment)
    wait_until(lambda: not site.leased())
    in_hand = len(site.running())
    other = site.run("sync")
    before = contents(site)
    frozen.send_signal(signal.SIGCONT)
    zombie = finish(frozen)

    assert (other.code, other.all) == (0, "")
    return zombie, in_hand, before


@pytest.mark.fault(5)
@pytest.mark.parametrize("freeze", [freeze_while_it_waits, freeze_with_answers_in_hand])
def test_a_worker_that_was_frozen_past_its_lease_writes_nothing_and_says_so(site, freeze):
    zombie, in_hand, before = freeze_past_the_lease(site, freeze)
    (warning,) = zombie.all.splitlines()

    assert zombie.code == 0
    assert "lease" in warning
    assert contents(site) == before
    assert site.states() == {"done": 21}
    assert site.ledger("done", "lost_leases") == (21, in_hand)
    site.report("writes nothing, says so in a line")


@pytest.mark.fault(5)
@pytest.mark.untrue_ledger("the zombie counts what is another's")
def test_negative_control_without_the_fence_it_overwrites_what_the_other_one_settled(site):
    _, _, before = freeze_past_the_lease(site, freeze_with_answers_in_hand, WITHOUT_FENCE="1")
    done, lost = site.ledger("done", "lost_leases")

    assert contents(site) != before
    assert lost == 0
    assert any(contradictions(site.engine))
    assert done > 21 or site.states() != {"done": 21}
