"""The API is down, or fails now and then: an outage uses no attempt, and a failure is its own request's."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import timedelta

import pytest
from support.operators import finish
from support.systems import numbered

from etl.cdr import outcomes
from etl.db.tables import cdr_requests, sync_runs

REFUSED = (
    "The API does not work for account 'default' (the call to 127.0.0.1 failed: Connection refused). "
    "Nothing is lost: all requests were given back, and the next run tries again. "
    "`cdr-sync status` shows since when."
)
FEW = 12  # calls of a run that finds the API down: a row of five, as many on their way, the canary


# The API is down


def twenty_runs(site):
    """As processes on one database, four at once as four machines' timers start them, since it takes long."""
    if site.database_kind != "sqlite":
        return [site.type("sync", CDR_SYNC_TRIES="1") for _ in range(20)]
    rounds = ([site.start("sync", CDR_SYNC_TRIES="1") for _ in range(4)] for _ in range(5))
    return [finish(process) for processes in rounds for process in processes]


@pytest.mark.heavy
@pytest.mark.fault(27)
def test_twenty_runs_against_a_closed_port_use_no_attempt_and_one_run_recovers(site):
    site.fill(40)
    site.simulator.stop()
    during = twenty_runs(site)
    untouched, states, was_open = site.is_untouched(), site.states(), site.is_breaker_open()
    calls = [run["api_calls"] for run in site.rows(sync_runs)]
    site.simulator.start()
    after = site.run("sync")

    assert [(one.code, one.stdout, one.events) for one in during] == [(69, "", [REFUSED])] * 20
    assert (untouched, states, was_open) == (True, {"pending": 40}, True)
    assert max(calls[:4]) <= FEW
    assert calls[4:] == [1] * 16
    assert (after.code, after.all) == (0, "")
    assert site.states() == {"done": 40}
    assert site.simulator.total_calls == 40
    assert not site.is_breaker_open()
    assert site.outcomes() == ["api_down"] * 20 + ["ok"]
    site.report("twenty runs: exit 69 and a line each, no attempt used, then all in one run")


@pytest.mark.fault(27)
@pytest.mark.parametrize(("outage", "runs"), [("stall_headers", 4), ("error_503", 20)])
@pytest.mark.parametrize("has_canary", [True, False], ids=["canary", "nothing known"])
def test_an_api_that_stalls_or_fails_uses_no_attempt_and_one_run_recovers(site, outage, runs, has_canary):
    if has_canary:
        site.enqueue("answered-first")
        assert site.sync().exit_code == 0
    site.fill(40)
    site.simulator.outage = outage
    during = [site.sync(site.settings(request_timeout=0.1)) for _ in range(runs)]
    untouched, was_open = site.is_untouched(), site.is_breaker_open()
    site.simulator.outage = None
    after = site.sync()

    assert {summary.exit_code for summary in during} == {69}
    assert during[0].counts["api_calls"] <= FEW
    assert {summary.counts["api_calls"] for summary in during[1:]} == {2 if has_canary else 1}
    assert (untouched, was_open) == (True, True)
    assert (after.exit_code, after.counts["done"]) == (0, 40)
    assert not site.is_breaker_open()
    site.report(f"`{outage}`: {runs} runs, no attempt used, then all in one run")


@pytest.mark.fault(21)
@pytest.mark.parametrize(
    ("url", "word"),
    [("http://127.0.0.1:9/", "refused"), ("http://nowhere.invalid/", "nowhere.invalid")],
    ids=["refused", "unknown host"],
)
def test_an_api_that_cannot_be_connected_to_is_down_and_no_requests_failure(site, url, word):
    site.fill(40)
    down = site.sync(site.settings(api_url=url))
    untouched, states = site.is_untouched(), site.states()
    after = site.sync()

    assert down.exit_code == 69
    assert word in str(down.api_down["default"])
    assert (untouched, states) == (True, {"pending": 40})
    assert (after.exit_code, after.counts["done"]) == (0, 40)
    site.report(f"{word}: exit 69, no attempt used, then all in one run")


# Failures of single requests


@pytest.mark.fault(28)
def test_one_failed_call_in_three_is_not_an_outage(site):
    site.enqueue(*itertools.chain(numbered("answered", 80), numbered("flaky_500", 40)))
    summaries = site.work_off()

    assert {summary.exit_code for summary in summaries} == {0}
    assert site.states() == {"done": 120}
    assert site.simulator.total_calls <= 120 + 40 + 20
    site.report("all done, and at most a canary for each two failures")


KINDS = {
    "error_500": "server_error",
    "error_503": "server_error",
    "body_500": "server_error",
    "garbage": "malformed",
    "truncated": "connection",
    "not_found_body": "not_found",
}


@pytest.mark.fault(28)
def test_thirty_requests_among_a_thousand_that_always_fail_cost_the_others_nothing(site):
    bad = [name for kind in KINDS for name in numbered(kind, 5)]
    good = numbered("answered", 970)
    site.enqueue(*good[:30], *itertools.chain(*((name, *good[30::30][:3]) for name in bad)), *good)
    first = site.sync(site.settings(workers=8, retry_delay=600))
    left, after_first = site.rows(cdr_requests, state="pending"), site.states()
    site.change(*bad, run_after=site.now())
    later = site.work_off()
    dead = site.rows(cdr_requests, state="dead")

    assert (first.exit_code, after_first) == (0, {"done": 970, "pending": 30})
    assert {(row["attempts"], row["last_error_kind"]) for row in left} == {(1, k) for k in KINDS.values()}
    assert {row["request_id"]: row["last_error_kind"] for row in dead} == {
        name: KINDS[name.partition("-")[0]] for name in bad
    }
    assert {row["attempts"] for row in dead} == {3}
    assert {summary.exit_code for summary in later} <= {0, 65}
    assert not site.is_breaker_open()
    assert set(site.outcomes()) <= {"ok", "dead_letters"}
    assert {site.simulator.calls[name] for name in bad} == {3}
    site.report("970 done in the first run, 30 dead by their own kind, breaker closed")


@pytest.mark.fault(28)
@pytest.mark.parametrize("scenario", ["error_500", "not_found_body"])
def test_the_oldest_requests_may_always_fail_if_nothing_is_known_yet(site, scenario):
    site.enqueue(*numbered(scenario, 12), *numbered("answered", 60))
    first, second = (site.sync(site.settings(retry_delay=600)) for _ in range(2))

    assert first.exit_code in (69, 77)
    assert (second.exit_code, second.counts["done"]) == (0, 60)
    assert not site.is_breaker_open()
    site.report(f"`{scenario}`: taken for an outage first, and found out by the next run")


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("scenario", ["error_500", "not_found_body"])
def test_the_newest_request_may_always_fail_too(site, scenario):
    site.enqueue(*numbered(scenario, 12), *numbered("answered", 60), f"{scenario}-newest")
    for _ in range(20):
        site.sync()

    assert site.states().get("done") == 60


# Many fail together


def spread(site):
    """How many of the requests that wait are due in each tenth of the interval that is allowed."""
    waits = [
        (row["run_after"] - row["updated_at"]) / HOUR for row in site.rows(cdr_requests, state="pending")
    ]
    assert all(0.5 <= wait <= 1.001 for wait in waits)
    return Counter(min(9, int((wait - 0.5) * 20)) for wait in waits)


HOUR = timedelta(hours=1)


def fail_500(site):
    site.enqueue("answered-first")
    site.sync()
    site.enqueue(*numbered("error_500", 500))
    return site.sync(site.settings(workers=8, retry_delay=3600))


@pytest.mark.fault(29)
def test_five_hundred_that_fail_together_do_not_come_back_together(site):
    summary = fail_500(site)
    tenths = spread(site)

    assert (summary.exit_code, summary.counts["retried"]) == (0, 500)
    assert not site.is_breaker_open()
    assert sorted(tenths) == list(range(10))
    assert max(tenths.values()) < 100  # 50 are expected, and 75 would be seen once in some thousand runs
    site.report("their next tries fill all of the interval from a half to the whole delay")


@pytest.mark.databases("sqlite")
def test_without_chance_five_hundred_come_back_at_once(site, monkeypatch):
    monkeypatch.setattr(outcomes, "_growing", lambda first, times, _chance: first * 2**times)
    fail_500(site)

    assert spread(site) == {9: 500}
