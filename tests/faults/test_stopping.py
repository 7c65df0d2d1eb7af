"""Stopping: by a signal, by a second one, at the time limit. Nothing is held then, and nothing is lost."""

from __future__ import annotations

import signal
from datetime import timedelta

import pytest
from support.operators import finish, wait_until
from support.systems import unexplained

from etl.db.tables import cdr_requests, sync_runs
from etl.sync import run as job

WITHOUT_HANDLER = "import signal; signal.signal = lambda *_: signal.SIG_DFL"


def holds_nothing(site):
    """Whether every request is at rest with no claim on it, no attempt used, and the ledger knows of each."""
    at_rest = all(row["state"] != "running" and row["lease_token"] is None for row in site.rows(cdr_requests))
    return at_rest and site.is_untouched() and {unexplained(run) for run in site.rows(sync_runs)} == {0}


def complete(site):
    """Let the API work again, and one more run finish what is left."""
    site.simulator.outage, site.simulator.latency = None, 0.0
    assert site.sync().exit_code == 0
    assert set(site.states()) == {"done"}


@pytest.mark.fault(32)
def test_a_signal_during_calls_lets_them_finish(site):
    site.simulator.latency = 0.3
    site.fill(40)
    process = site.start("sync")
    wait_until(lambda: site.simulator.connections_opened)
    process.terminate()
    stopped = finish(process)
    done = site.states()["done"]

    assert (stopped.code, stopped.all) == (143, "")
    assert 0 < done == site.simulator.total_calls < 40
    assert holds_nothing(site)
    assert site.outcomes() == ["interrupted"]
    complete(site)
    assert site.asked_twice() == set()
    site.report("SIGTERM in HTTP: what was on its way is stored")


@pytest.mark.fault(32)
def test_a_signal_during_the_wait_for_another_try_ends_the_wait(site):
    site.simulator.outage, site.simulator.retry_after = "rate_limited", 5
    site.fill(40)
    process = site.start("sync", CDR_SYNC_TRIES="100")
    wait_until(lambda: site.simulator.total_calls == 3)
    process.terminate()
    stopped = finish(process)

    assert (stopped.code, stopped.all) == (143, "")
    assert site.simulator.total_calls == 3
    assert holds_nothing(site)
    assert site.outcomes() == ["interrupted"]
    complete(site)
    site.report("SIGTERM in a retry's wait: no other try, no attempt used")


@pytest.mark.fault(32)
def test_a_signal_during_the_upsert_lets_it_commit(site):
    site.fill(40)
    stopped = finish(site.start_sabotaged("before-settle-commit", "TERM", "sync"))
    done = site.states()["done"]

    assert (stopped.code, stopped.all) == (143, "")
    assert 0 < done == site.simulator.total_calls < 40
    assert holds_nothing(site)
    assert site.outcomes() == ["interrupted"]
    complete(site)
    assert site.asked_twice() == set()
    site.report("SIGTERM in the upsert: it is committed")


@pytest.mark.fault(32)
def test_after_a_signal_a_silent_api_is_waited_for_until_its_deadline(site):
    site.simulator.outage = "stall_headers"
    site.fill(40)
    process = site.start("sync", CDR_SYNC_REQUEST_TIMEOUT="1s", CDR_SYNC_TRIES="100")
    wait_until(lambda: site.simulator.total_calls == 3)
    process.send_signal(signal.SIGINT)
    stopped = finish(process)

    assert (stopped.code, stopped.all) == (130, "")
    assert site.simulator.total_calls == 3
    assert holds_nothing(site)
    complete(site)
    site.report("SIGINT while the API is silent: given back at the deadline")


@pytest.mark.databases("sqlite")
def test_without_a_handler_a_signal_leaves_everything_in_hand(site):
    site.simulator.latency = 0.3
    site.fill(40)
    process = site.start_changed(WITHOUT_HANDLER, "sync")
    wait_until(lambda: site.simulator.connections_opened)
    process.terminate()
    stopped = finish(process)

    assert stopped.code == -signal.SIGTERM
    assert len(site.running()) == 3
    assert site.outcomes() == ["running"]


@pytest.mark.fault(33)
def test_a_second_signal_gives_everything_back_at_once(site):
    site.simulator.outage = "stall_headers"
    site.fill(40)
    process = site.start_changed(
        "from etl.sync import run; run.DRAIN_SECONDS = 1000.0",  # after one signal it would wait forever
        *("sync", "--workers", 1),
        CDR_SYNC_REQUEST_TIMEOUT="1000s",
        CDR_SYNC_LEASE="1h",
    )
    wait_until(lambda: len(site.running()) == 3 and site.simulator.total_calls == 1)
    process.terminate()
    wait_until(lambda: len(site.running()) == 1)  # what no thread had begun with went back at the first
    is_waiting = process.poll() is None
    process.terminate()
    stopped = finish(process)

    assert is_waiting
    assert (stopped.code, stopped.all) == (143, "")
    assert site.simulator.total_calls == 1
    assert site.states() == {"pending": 40}
    assert holds_nothing(site)
    assert site.outcomes() == ["interrupted"]
    complete(site)
    site.report("given back at once, no attempt used")


@pytest.mark.fault(33)
def test_pressing_ctrl_c_again_and_again_disturbs_neither_the_giving_back_nor_the_ledger(site):
    site.simulator.outage = "stall_headers"
    site.fill(40)
    process = site.start("sync")
    wait_until(lambda: site.simulator.total_calls == 3)

    def has_ended():
        process.send_signal(signal.SIGINT)
        return process.poll() is not None

    wait_until(has_ended)
    stopped = finish(process)

    assert (stopped.code, stopped.all.strip()) == (130, "")
    assert site.states() == {"pending": 40}
    assert holds_nothing(site)
    complete(site)
    site.report("SIGINT again and again: given back, no attempt used")


@pytest.mark.fault(34)
def test_a_process_at_its_time_limit_leaves_quietly_with_nothing_in_hand(site):
    site.simulator.latency = 0.1
    site.fill(100)
    limited = site.run("sync", "--time-limit", "0.5s", "--workers", 2)
    done = site.states()["done"]

    assert (limited.code, limited.all) == (0, "")
    assert 0 < done == site.simulator.total_calls < 100
    assert holds_nothing(site)
    assert site.outcomes() == ["ok"]
    complete(site)
    assert site.asked_twice() == set()
    site.report("what was on its way is stored, the rest waits")


@pytest.mark.fault(34)
@pytest.mark.parametrize(
    ("outage", "changes"),
    [
        ("rate_limited", {"tries": 100}),
        ("stall_headers", {"tries": 100, "request_timeout": 0.5}),
        ("stall_body", {"request_timeout": 30}),
    ],
    ids=["in a retry's wait", "in a call that ends", "in a call that does not"],
)
def test_a_time_limit_finds_nothing_held_wherever_it_strikes(site, monkeypatch, outage, changes):
    monkeypatch.setattr(job, "DRAIN_SECONDS", 1.0)
    site.simulator.outage, site.simulator.retry_after = outage, 5
    site.fill(40)
    summary = site.sync(site.settings(**changes), time_limit=timedelta(seconds=0.2))

    assert (summary.outcome, summary.exit_code) == ("ok", 0)
    assert site.simulator.total_calls == 3
    assert site.states() == {"pending": 40}
    assert holds_nothing(site)
    complete(site)
    site.report(f"during `{outage}`: given back, no attempt used")
