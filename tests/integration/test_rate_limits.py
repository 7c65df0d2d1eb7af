"""One rate limit for all that work on one database: what may be called now, and when the next call may be."""

from __future__ import annotations

import signal
from collections import Counter
from datetime import timedelta
from time import monotonic

import pytest
from sqlalchemy import update

from etl.db.accounts import SharedRateLimit, ensure_account
from etl.db.engine import open_engine
from etl.db.tables import api_accounts
from etl.settings import Account
from etl.simulator.scenarios import make_request_id
from etl.sync.signals import Stop

ACCOUNT = "default"


@pytest.fixture
def spend(engine):
    """A function that makes as many calls as are allowed, up to a number; returns how many, and the wait."""
    with engine.begin() as connection:
        ensure_account(connection, ACCOUNT)

    def make_calls(limit, most, engine=engine):
        with engine.begin() as connection:
            allowance = limit.allowance(connection, ACCOUNT)
            calls = min(most, allowance.calls)
            limit.spend(connection, ACCOUNT, calls, allowance)
        return calls, allowance.wait_seconds

    return make_calls


def test_a_burst_is_a_tenth_of_a_second(spend):
    assert spend(SharedRateLimit(30), 100) == (3, 0)


def test_a_limit_of_less_than_one_call_a_second_lets_one_through_and_then_calls_wait(spend):
    limit = SharedRateLimit(0.01)
    first, (second, wait) = spend(limit, 5), spend(limit, 5)

    assert first == (1, 0)
    assert second == 0
    assert 0 < wait <= limit.interval == 100


def test_what_one_process_spends_another_one_lacks(spend, database_url):
    other_engine = open_engine(database_url)
    spent_here = spend(SharedRateLimit(0.01), 1)
    spent_elsewhere = spend(SharedRateLimit(0.01), 1, other_engine)
    other_engine.dispose()

    assert (spent_here[0], spent_elsewhere[0]) == (1, 0)


def test_what_is_not_spent_stays(spend):
    limit = SharedRateLimit(30)
    spend(limit, 0)

    assert spend(limit, 3) == (3, 0)


def test_accounts_have_limits_of_their_own(spend, engine):
    limit = SharedRateLimit(0.01)
    spend(limit, 1)
    with engine.begin() as connection:
        ensure_account(connection, "sales")
        allowance = limit.allowance(connection, "sales")

    assert allowance.calls == 1


def test_a_clock_that_was_set_back_does_not_block_calls_for_hours(spend, engine):
    limit = SharedRateLimit(1)
    spend(limit, 1)
    in_an_hour = 10**6 * 4_000_000_000
    with engine.begin() as connection:
        connection.execute(update(api_accounts).values(rate_paid_until_us=in_an_hour))

    assert spend(limit, 1)[0] == 1


def test_a_run_keeps_to_its_limit_further_tries_and_canaries_included(system):
    system.enqueue(*(f"flaky_500-{number}" for number in range(6)), "answered-1")
    settings = system.settings(rate_limit=20, tries=3, retry_delay=0)
    began = monotonic()
    summary = system.sync(settings)
    seconds = monotonic() - began

    assert system.states() == {"done": 7}
    assert summary.counts["api_calls"] == system.simulator.total_calls == 13
    assert seconds >= (13 - 2) / 20
    assert summary.rate_wait_seconds > 0


def test_a_run_with_a_limit_holds_no_claim_whose_call_has_to_wait(system):
    system.enqueue(*map(make_request_id, range(30)))
    settings = system.settings(rate_limit=5)
    summary = system.sync(settings, time_limit=timedelta(seconds=1))

    assert set(system.states()) == {"done", "pending"}
    assert summary.counts["done"] == system.simulator.total_calls
    assert summary.counts["claimed"] - summary.counts["done"] == summary.counts["released"] <= 1
    assert 1 <= summary.counts["done"] <= 8


def test_a_limit_never_keeps_a_run_when_nothing_is_due(system):
    system.enqueue("answered-1")
    summary = system.sync(system.settings(rate_limit=0.01))  # the next call would be allowed after 100 s

    assert summary.counts["done"] == 1


def test_a_limit_of_one_account_does_not_slow_another(system):
    system.simulator.accounts[3333333] = "another"
    accounts = {
        "default": Account("default", system.simulator.app_id, "simulated-secret"),
        "sales": Account("sales", 3333333, "another"),
    }
    system.enqueue("answered-1", "answered-2", "answered-3")
    system.enqueue("answered-4", account="sales")
    stop, total = Stop(), Counter()

    def stop_at_two(counts):
        total.update(counts)
        if total["done"] >= 2:
            stop.request(signal.SIGTERM)

    settings = system.settings(
        rate_limit=0.01, accounts=accounts
    )  # the next call would be allowed after 100 s
    system.sync(settings, stop=stop, on_progress=stop_at_two)

    assert system.request("answered-4", account="sales")["state"] == "done"
    assert system.states() == {"done": 2, "pending": 2}
